"""Workers end in every way; others take their places."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.under import MAX_CONNS
from tests.process.servers import wait_until

#: What a client meets whose worker is gone.
RESET = {
    *("ConnectionResetError", "RemoteDisconnected"),
    *("BadStatusLine", "IncompleteRead"),
}

pytestmark = pytest.mark.usefixtures("workers_end")

#: Those that replace their workers.
GUNICORN = pytest.mark.parametrize("under", ["gthread", "gevent"], indirect=True)


@pytest.fixture
def workers_end(under):
    under.watch.only_connected = True


@GUNICORN
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_workers_are_ended(under, project, figures, name):
    with under.traffic() as (_, met):
        for _ in range(3):
            victim = project.pids()[0]
            os.kill(victim, signal.Signals[name])
            wait_until(lambda: victim not in project.pids(), "it is gone")  # noqa: B023
            met.good()
            under.wait_for_workers()
    # Those that the worker was serving are lost with it.
    assert set(met.counts) <= {200, *RESET}
    assert met.counts.total() - met.counts[200] <= 3 * 8
    figures.add(f"a worker ended by {name}, 3 times", under, met)


@GUNICORN
def test_the_workers_are_reloaded(under, project, figures):
    # The old ones finish while the new ones begin.
    under.allowed = 2 * MAX_CONNS
    with under.traffic() as (server, met):
        for _ in range(3):
            under.reload(server)
            met.good()
    assert set(met.counts) <= {200, *RESET}
    figures.add("reload (SIGHUP), 3 times", under, met)


@GUNICORN
def test_workers_are_recycled_after_some_requests(under, project, figures):
    options = ["--max-requests", "60", "--max-requests-jitter", "20"]
    with under.traffic(*options) as (server, met):
        wait_until(
            lambda: server.text().count("Autorestarting worker") >= 4,
            "workers were recycled",
            60,
        )
        met.good()
    assert set(met.counts) <= {200, *RESET}
    figures.add("workers recycled (max_requests)", under, met)


# One of threads or greenlets gives signs of life whatever its requests do.
@pytest.mark.parametrize("under", ["sync"], indirect=True)
def test_a_worker_runs_into_its_time_out(under, project, figures):
    with under.traffic("--timeout", "2", clients=3) as (server, met):
        before = project.pids()
        with ThreadPoolExecutor(1) as clients, project.lock(5):
            stuck = clients.submit(server.get, "/holds/?key=5")
            wait_until(lambda: set(project.pids()) != set(before), "it was killed", 30)
        # It ends by SIGABRT in the middle of its request.
        assert type(stuck.exception(30)).__name__ in RESET
        assert "WORKER TIMEOUT" in server.text()
        met.good()
    assert set(met.counts) <= {200, 503, *RESET}
    figures.add("a worker time-out in a query", under, met)
