"""Connections that die while they are idle, or in the middle of a query."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.library import IS_PSYCOPG
from tests.process.servers import traffic


@pytest.mark.parametrize("asynchronous", [False, True])
def test_idle_connections_ended_by_the_server_fail_no_request(project, asynchronous):
    context = project.uvicorn() if asynchronous else project.gunicorn("--threads", "4")
    with context as server:
        for _ in range(3):
            with ThreadPoolExecutor(4) as clients:
                paths = ["/run/?sql=SELECT+1+FROM+pg_sleep(0.05)"] * 4
                assert {a.status for a in clients.map(server.get, paths)} == {200}
            project.terminate()
            assert server.get("/facts/").status == 200
        stats = project.settled()
        assert stats["discarded"]["dead"] >= 3


def test_a_restart_of_the_server_fails_no_later_request(own_project):
    project = own_project
    with project.gunicorn("--threads", "4") as server:
        for mode in ("fast", "immediate", "kill"):
            assert server.get("/facts/").status == 200
            if mode == "kill":
                project.databases.server.kill()
            else:
                project.databases.server.stop(mode)
            project.databases.server.start()
            assert server.get("/facts/").status == 200
        assert project.settled()["discarded"]["dead"] >= 3


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_request_in_flight_fails_alone_and_its_connection_is_discarded(
    project, asynchronous
):
    context = project.uvicorn() if asynchronous else project.gunicorn("--threads", "4")
    with context as server, ThreadPoolExecutor() as clients:
        with project.lock(3):
            held = clients.submit(server.get, "/holds/?key=3")
            project.wait_for_lock(3)
            with traffic(server, clients=2):
                (backend,) = [
                    holder["backend_pid"]
                    for holder in project.holders("/holds/")
                    if holder["alias"] == "default"
                ]
                project.terminate([backend])
                failed = held.result(20)
            assert failed.status == 500
            # The page for it queries, on another connection.
            assert failed["backend"] != backend
        assert server.get("/facts/").status == 200
        stats = project.settled()
        if IS_PSYCOPG:
            # It knows the error's code, which is that of a server that shuts down.
            assert set(stats["discarded"]) == {"failed over"}
        else:
            assert stats["discarded"] == {"closed": 1}
