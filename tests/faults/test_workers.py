"""Workers end in every way, clients go away; the server sees no more than allowed."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.faults.conftest import MAX_CONNS
from tests.process.servers import wait_until

RESET = {
    *("ConnectionResetError", "RemoteDisconnected"),
    *("BadStatusLine", "IncompleteRead"),
}


def whole_again(project, workers):
    """Wait until all workers are there and the server sees their connections alone."""
    wait_until(lambda: len(project.pids()) == workers, "every worker is back")
    wait_until(
        lambda: len(project.backends()) <= workers * MAX_CONNS,
        "the server sees no more than they may open",
    )


def test_workers_are_killed(gthread, project, figures):
    with gthread.traffic() as (_, met):
        for _ in range(3):
            victim = project.pids()[0]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: victim not in project.pids(), "it is gone")  # noqa: B023
            met.good()
            whole_again(project, gthread.workers)
    # Those that the worker was serving are lost with it.
    assert set(met.counts) <= {200, *RESET}
    assert met.counts.total() - met.counts[200] <= 3 * 8
    figures.add("a worker killed (SIGKILL), 3 times", "gthread", met)


def test_workers_are_ended_politely(gthread, project, figures):
    with gthread.traffic() as (_, met):
        for _ in range(3):
            victim = project.pids()[0]
            os.kill(victim, signal.SIGTERM)
            wait_until(lambda: victim not in project.pids(), "it is gone")  # noqa: B023
            met.good()
            whole_again(project, gthread.workers)
    assert set(met.counts) <= {200, *RESET}
    figures.add("a worker ended (SIGTERM), 3 times", "gthread", met)


def test_the_workers_are_reloaded(gthread, project, figures):
    with gthread.traffic() as (server, met):
        for _ in range(3):
            before = project.pids()
            os.kill(server.process.pid, signal.SIGHUP)
            wait_until(
                lambda: not set(before) & set(project.pids()),  # noqa: B023
                "the old workers are gone",
            )
            met.good()
            whole_again(project, gthread.workers)
    assert set(met.counts) <= {200, *RESET}
    figures.add("reload (SIGHUP), 3 times", "gthread", met)


def test_workers_are_recycled_after_some_requests(gthread, project, figures):
    with gthread.traffic("--max-requests", "60", "--max-requests-jitter", "20") as (
        _,
        met,
    ):
        met.good(400, 60)
        whole_again(project, gthread.workers)
    assert set(met.counts) <= {200, *RESET}
    figures.add("workers recycled (max_requests)", "gthread", met)


def test_a_worker_runs_into_its_time_out(project, figures, under_sync):
    with under_sync.traffic("--timeout", "2", clients=3) as (server, met):
        before = project.pids()
        with ThreadPoolExecutor(1) as clients, project.lock(5):
            stuck = clients.submit(server.break_off, "/holds/?key=5")
            wait_until(lambda: set(project.pids()) != set(before), "it was killed", 30)
            stuck.cancel()
        met.good()
        # The query of a worker that is gone goes on at the server until it ends.
        whole_again(project, under_sync.workers)
    assert set(met.counts) <= {200, 503, *RESET}
    figures.add("a worker time-out in a query", "sync", met)


@pytest.mark.parametrize("path", ["/stream/?rows=500", "/async_stream/?rows=500"])
def test_hundreds_of_clients_go_away_in_mid_stream(under, project, figures, path):
    project.settings["DBPOOL_MW_TIMEOUT"] = 30
    with under.traffic(clients=4) as (server, met), ThreadPoolExecutor(30) as clients:
        list(clients.map(server.break_off, [path] * 200))
        met.good()
        assert project.totals()["size"] <= MAX_CONNS * under.workers
    assert set(met.counts) == {200}
    kind = "async stream" if "async" in path else "stream"
    figures.add(f"200 clients gone in mid-{kind}", under.name, met)


def test_requests_end_by_exceptions_of_every_kind(under, project, figures):
    kinds = ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "MemoryError"]
    kinds += ["RecursionError", "StopIteration", "CancelledError", "ValueError"]
    if under.name == "uvicorn":
        # With two of them asyncio ends the event loop, and uvicorn with it; a coroutine
        # that raises the third is never done.
        kinds = [k for k in kinds[2:] if k != "StopIteration"]
    with under.traffic(clients=4) as (server, met):
        before = sorted(project.pids())
        for kind in kinds * 3:
            with suppress(OSError):
                server.get(f"/raises/?kind={kind}")
        met.good()
        if under.name == "uvicorn":
            assert sorted(project.pids()) == before
        whole_again(project, under.workers)
        assert project.totals()["size"] <= MAX_CONNS * under.workers
    assert set(met.counts) <= {200, *RESET}
    figures.add(f"views raise exceptions of {len(kinds)} kinds", under.name, met)


def test_a_control_directory_that_can_not_be_written(under, project):
    project.control.write_text("in the way")
    with under() as server:
        for _ in range(10):
            assert server.get("/facts/").status == 200
        assert "dbpool_stats" in server.text() or "control" in server.text()
    assert project.manage("dbpool_stats").returncode != 0
