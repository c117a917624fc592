"""Real servers: what the commands show of their holds, and the end of one of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.process.projects import Project
from tests.process.servers import Server, wait_until


@pytest.fixture(params=["gunicorn", "gevent", "uvicorn"])
def server(project: Project, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Run a server whose pools count by route."""
    project.settings["DBPOOL_MW_ROUTES"] = 50
    options = ["--threads", "4"] if request.param == "gunicorn" else []
    with getattr(project, request.param)(*options) as running:
        yield running


def shown(project: Project, path: str) -> list[dict[str, Any]]:
    """Return what ``dbpool_stats --holders`` says of the holders of a path."""
    done = project.manage("dbpool_stats", "--format", "json", "--holders")
    return [
        holder
        for worker in json.loads(done.stdout)["workers"]
        for holder in worker["holders"]
        if holder["path"] == path and holder["alias"] == "default"
    ]


def test_one_of_two_requests_is_cancelled_by_its_id(
    server: Server, project: Project
) -> None:
    with ThreadPoolExecutor() as clients, project.lock(4):
        first = clients.submit(server.get, "/holds/?key=4")
        project.wait_for_lock(4)
        (holder,) = shown(project, "/holds/")
        assert holder["route"] == "holds/"
        assert holder["statement"] == "SELECT pg_advisory_xact_lock(%s)"
        assert (holder["in_transaction"], holder["state"]) == (True, "in use")
        second = clients.submit(server.get, "/holds/?key=4")
        project.wait_for_lock(4, 2)

        done = project.manage("dbpool_drain", "--cancel", holder["id"])
        ended = time.monotonic()
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Cancelled 1 hold. ")
        assert f"  {holder['id']}: default, backend {holder['backend_pid']}, " in (
            done.stdout
        )
        assert first.result(20).status == 500
        assert time.monotonic() - ended < 1
        # The other one waits as before.
        project.wait_for_lock(4, 1)
        (left,) = shown(project, "/holds/")
        assert (left["id"], left["state"]) != (holder["id"], "cancelled")
        again = project.manage("dbpool_drain", "--cancel", holder["id"])
        assert again.returncode == 1
        assert f"nothing was done: {holder['id']}." in again.stderr
        assert not second.done()
    assert second.result(20).status == 200
    wait_until(lambda: project.in_use() == 0, "both have ended")
    assert project.stats()["discarded"]["cancelled"] == 1


def test_the_routes_of_the_requests_are_counted(
    server: Server, project: Project
) -> None:
    for _ in range(3):
        assert server.get("/facts/").status == 200
    assert server.get("/two/").status == 200
    assert server.get("/nowhere/").status == 404
    project.rest()
    done = project.manage("dbpool_stats", "--routes")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    counted = {row[1]: int(row[2]) for row in rows if row[0] == "default"}
    assert counted == {"facts/": 3, "two/": 1, "-": 1}
    found = json.loads(
        project.manage("dbpool_stats", "--routes", "--format", "json").stdout
    )["routes"]
    sums = [row["holds"]["sum"] for row in found]
    assert sums == sorted(sums, reverse=True)
