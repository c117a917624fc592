"""Workers that are killed, stopped, reloaded or recycled are replaced."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.under import MAX_CONNS
from tests.library import IS_PSYCOPG
from tests.process.servers import wait_until

#: The exceptions in a client whose worker is gone.
RESET = {
    "ConnectionResetError",
    "RemoteDisconnected",
    "BadStatusLine",
    "IncompleteRead",
}

pytestmark = pytest.mark.usefixtures("workers_end")

#: The servers that replace their workers.
GUNICORN = pytest.mark.parametrize("under", ["gthread", "gevent"], indirect=True)


@pytest.fixture
def workers_end(under):
    under.watch.only_connected = True


@GUNICORN
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_worker_that_ends_is_replaced(under, project, figures, name):
    with under.traffic() as (_, traffic):
        for _ in range(3):
            victim = project.pids()[0]
            os.kill(victim, signal.Signals[name])
            wait_until(lambda: victim not in project.pids(), "the worker ended")  # noqa: B023
            traffic.wait_for_200()
            under.wait_for_workers()
    # Requests that the worker was serving get no answer.
    assert set(traffic.counts) <= {200, *RESET}
    assert traffic.counts.total() - traffic.counts[200] <= 3 * 8
    figures.add(f"a worker ended by {name}, 3 times", under, traffic)


@GUNICORN
def test_a_reload_replaces_the_workers(under, project, figures):
    # The old workers finish while the new ones begin.
    under.allowed = 2 * MAX_CONNS
    with under.traffic() as (server, traffic):
        for _ in range(3):
            under.reload(server)
            traffic.wait_for_200()
    assert set(traffic.counts) <= {200, *RESET}
    figures.add("reload (SIGHUP), 3 times", under, traffic)


@GUNICORN
def test_workers_recycled_after_some_requests_are_replaced(under, project, figures):
    # Longer than a worker takes to start, so that all of them serve at the same time.
    options = ["--max-requests", "200", "--max-requests-jitter", "50"]
    with under.traffic(*options) as (server, traffic):
        wait_until(
            lambda: server.text().count("Autorestarting worker") >= 4,
            "workers were recycled",
            60,
        )
        traffic.wait_for_200()
    assert set(traffic.counts) <= {200, *RESET}
    figures.add("workers recycled (max_requests)", under, traffic)


# A worker with threads or greenlets sends heartbeats whatever its requests do.
@pytest.mark.parametrize("under", ["sync"], indirect=True)
def test_a_worker_killed_by_its_time_out_is_replaced(under, project, figures):
    with under.traffic("--timeout", "2", clients=3) as (server, traffic):
        before = project.pids()
        with ThreadPoolExecutor(1) as clients, project.lock(5):
            stuck = clients.submit(server.get, "/holds/?key=5")
            wait_until(lambda: set(project.pids()) != set(before), "its end", 30)
        # The worker ends by SIGABRT in the middle of its request; psycopg lets Python
        # handle the signal there, and gunicorn answers before it exits.
        if IS_PSYCOPG:
            assert stuck.result(30).status == 500
        else:
            assert type(stuck.exception(30)).__name__ in RESET
        assert "WORKER TIMEOUT" in server.text()
        traffic.wait_for_200()
    assert set(traffic.counts) <= {200, 503, *RESET}
    figures.add("a worker time-out in a query", under, traffic)
