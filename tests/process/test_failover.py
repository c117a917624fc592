"""A primary that ends, and a standby that takes its place, under a real server."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from sandbox.postgres import PostgresServer
from tests.conftest import Databases, aliases_at
from tests.faults.proxy import Proxy
from tests.process.projects import Project, served
from tests.standby import Standby

MAKE, WRITE = (
    f"/run/?sql={quote(statement)}"
    for statement in (
        "CREATE TABLE line (id serial)",
        "INSERT INTO line DEFAULT VALUES",
    )
)
READS = ["/facts/", "/async_orm/"]


@pytest.mark.parametrize("asgi", [False, True])
def test_a_failover_fails_no_read_and_after_the_promotion_no_write(
    asgi, short_directory
):
    with (
        PostgresServer() as primary,
        Proxy(primary.host, primary.port) as proxy,
        aliases_at(Databases(primary, "postgres", "postgres")) as databases,
    ):
        project = Project(databases, short_directory)
        project.options["default"] = {"PORT": str(proxy.port)}
        project.settings["DBPOOL_MW_MAX_CONNS"] = 4
        project.settings["DBPOOL_MW_POOLS"] = {"replica": None}
        with served(project, asgi) as (server, clients):

            def statuses(*paths: str) -> set[int]:
                answers = clients.map(server.get, paths * 16)
                return {answer.status for answer in answers}

            assert server.get(MAKE).status == 200
            with Standby(primary) as standby:
                assert statuses(*READS, WRITE) == {200}
                proxy.server = (standby.host, standby.port)
                primary.stop()
                proxy.cut()
                assert statuses(*READS) == {200}
                assert statuses(WRITE) == {500}
                standby.promote()
                assert statuses(*READS, WRITE) == {200}
                project.rest()
                assert project.totals()["size"] <= 4
