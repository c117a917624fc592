"""The network goes deaf, is slow, or is cut; no worker is stuck for good."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.proxy import Proxy
from tests.faults.under import MAX_CONNS
from tests.process.servers import wait_until


@pytest.fixture
def proxy(project) -> Iterator[Proxy]:
    """Put a proxy between the project and its server."""
    server = project.databases.server
    with Proxy(server.host, server.port) as proxy:
        address = {"HOST": "127.0.0.1", "PORT": str(proxy.port)}
        project.options["default"] = address
        yield proxy


def test_a_deaf_network_stops_nobody_for_good(under, project, proxy, figures):
    # More than there are connections: some are in a query then, and some wait. Threads
    # there are enough, for who needs no database as well.
    with under.traffic("--threads", "32", clients=16) as (server, met):
        before = sorted(project.pids())
        proxy.hears.clear()
        deaf = time.monotonic()
        wait_until(lambda: met.counts[503] >= 4, "who waits is told so")
        # What needs no database is served, and the workers answer the commands.
        assert server.get("/exempt/").status == 200
        assert project.manage("dbpool_stats").returncode == 0
        wait_until(lambda: time.monotonic() > deaf + 8, "8 seconds have gone")
        proxy.hears.set()
        met.good()
        assert sorted(project.pids()) == before
    assert set(met.counts) <= {200, 500, 503}
    figures.add("the network is deaf for 8 s", under, met)


@pytest.mark.parametrize(
    ("under", "all_is_deaf"),
    [("gthread", False), ("gthread", True), ("gevent", True)],
    indirect=["under"],
)
def test_holders_on_connections_that_stay_deaf_are_cut_off(
    under, project, proxy, all_is_deaf
):
    project.settings |= {"DBPOOL_MW_MAX_HOLD": 1, "DBPOOL_MW_LEAK_AFTER": 0.5}
    under.workers = 1
    # Each may have a request to cancel it beside it.
    under.allowed = 2 * MAX_CONNS
    with under() as server, ThreadPoolExecutor(8) as clients, project.lock(1):
        asking = [clients.submit(server.get, "/holds/?key=1") for _ in range(MAX_CONNS)]
        project.wait_for_lock(1, MAX_CONNS)
        # No answer ever comes on these, not even that their query was cancelled.
        proxy.forget()
        if all_is_deaf:
            # Not even the request to cancel it arrives.
            proxy.hears.clear()
        while not all(each.done() for each in asking):
            # Whoever waits for the network holds nobody else up.
            began = time.monotonic()
            assert server.get("/exempt/").status == 200
            assert time.monotonic() - began < 2
        proxy.hears.set()
        answers = [each.result(40) for each in asking]
        assert {answer.status for answer in answers} <= {500, 503}
        assert server.get("/facts/").status == 200
        project.rest()
        totals = project.totals()
        assert totals["overdue"] == totals["leaked"] == MAX_CONNS
        assert totals["discarded"]["held too long"] == MAX_CONNS
    assert "held longer than MAX_HOLD, 1 s" in server.text()
    assert "checked out here:" in server.text()


@pytest.mark.parametrize("under", ["gthread", "gevent"], indirect=True)
def test_a_deaf_connection_is_found_out_when_it_is_tried(under, project, proxy):
    project.settings["DBPOOL_MW_CHECK_AFTER_IDLE"] = 0
    under.workers = 1
    with under() as server:
        assert server.get("/facts/").status == 200
        project.rest()
        proxy.forget()
        began = time.monotonic()
        # The query that asks whether it lives is cut off, and another is opened.
        assert server.get("/facts/").status == 200
        assert time.monotonic() - began < 15
        assert project.settled()["discarded"] == {"dead": 1}


def connected_anew(under, project):
    """Have every connection opened anew, three times; give what the traffic met."""
    with under.traffic() as (_, met):
        for _ in range(3):
            project.terminate()
            met.good()
    assert set(met.counts) <= {200, 500}
    return met


def test_connects_that_take_a_second(under, project, proxy, figures):
    proxy.delay = 1.0
    met = connected_anew(under, project)
    figures.add("each connect takes 1 s, 3 times anew", under, met)


@pytest.mark.parametrize("under", ["gthread", "gevent"], indirect=True)
def test_connects_that_are_taken_up_one_by_one(under, project, proxy, figures):
    proxy.pause = 0.3
    met = connected_anew(under, project)
    figures.add("accepts every 0.3 s, 3 times anew", under, met)


def test_every_connection_is_cut(under, project, proxy, figures):
    with under.traffic() as (_, met):
        for _ in range(5):
            proxy.cut()
            met.good()
    failed = met.counts.total() - met.counts[200]
    assert failed <= 5 * MAX_CONNS * under.workers
    assert set(met.counts) <= {200, 500, 503}
    figures.add("every connection cut, 5 times", under, met)
