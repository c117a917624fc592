"""The network stops answering, is slow, or is cut: no worker is stuck for good."""

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


def test_an_unresponsive_network_stops_no_worker_for_good(
    under, project, proxy, figures
):
    # With more clients than connections some requests are in a query and some in the
    # queue. The threads are enough to serve pages without queries as well.
    with under.traffic("--threads", "32", clients=16) as (server, traffic):
        before = sorted(project.pids())
        proxy.responsive.clear()
        stopped = time.monotonic()
        wait_until(lambda: traffic.counts[503] >= 4, "requests in the queue get 503")
        # Pages without queries are served, and the workers answer the commands.
        assert server.get("/exempt/").status == 200
        assert project.manage("dbpool_stats").returncode == 0
        wait_until(lambda: time.monotonic() > stopped + 8, "8 seconds have gone")
        proxy.responsive.set()
        traffic.wait_for_200()
        assert sorted(project.pids()) == before
    assert set(traffic.counts) <= {200, 500, 503}
    figures.add("the network stops answering for 8 s", under, traffic)


@pytest.mark.parametrize(
    ("under", "whole_network"),
    [("gthread", False), ("gthread", True), ("gevent", True)],
    indirect=["under"],
)
def test_max_hold_ends_holders_whose_connections_never_answer_again(
    under, project, proxy, whole_network
):
    project.settings |= {"DBPOOL_MW_MAX_HOLD": 1, "DBPOOL_MW_LEAK_AFTER": 0.5}
    under.workers = 1
    # Beside each connection there may be two for its cancel requests: the second one is
    # sent because the first may have come before the server began with the statement.
    under.allowed = 3 * MAX_CONNS
    with under() as server, ThreadPoolExecutor(8) as clients, project.lock(1):
        requests = [
            clients.submit(server.get, "/holds/?key=1") for _ in range(MAX_CONNS)
        ]
        project.wait_for_lock(1, MAX_CONNS)
        # No answer ever comes on these connections, not even to the cancelled query.
        proxy.silence()
        if whole_network:
            # The cancel requests don't arrive either.
            proxy.responsive.clear()
        while not all(request.done() for request in requests):
            # Requests that wait for the network block no other request.
            began = time.monotonic()
            assert server.get("/exempt/").status == 200
            assert time.monotonic() - began < 2
        proxy.responsive.set()
        answers = [request.result(40) for request in requests]
        assert {answer.status for answer in answers} <= {500, 503}
        assert server.get("/facts/").status == 200
        project.rest()
        totals = project.totals()
        assert totals["overdue"] == totals["leaked"] == MAX_CONNS
        assert totals["discarded"]["held too long"] == MAX_CONNS
    assert "held longer than MAX_HOLD, 1 s" in server.text()
    # Where a greenlet is isn't known.
    greenlets = under.name == "gevent"
    where = "checked out at the start of its request" if greenlets else "now here:"
    assert where in server.text()


@pytest.mark.parametrize("under", ["gthread", "gevent"], indirect=True)
def test_an_unresponsive_idle_connection_is_replaced_at_checkout(under, project, proxy):
    project.settings["DBPOOL_MW_CHECK_AFTER_IDLE"] = 0
    under.workers = 1
    with under() as server:
        assert server.get("/facts/").status == 200
        project.rest()
        proxy.silence()
        began = time.monotonic()
        # The query that tests the connection times out, and another one is opened.
        assert server.get("/facts/").status == 200
        assert time.monotonic() - began < 15
        assert project.settled()["discarded"] == {"dead": 1}


def reconnect(under, project):
    """Have every connection opened anew, three times; return the traffic."""
    with under.traffic() as (_, traffic):
        for _ in range(3):
            project.terminate()
            traffic.wait_for_200()
    assert set(traffic.counts) <= {200, 500}
    return traffic


def test_requests_wait_for_connects_that_take_a_second(under, project, proxy, figures):
    proxy.delay = 1.0
    traffic = reconnect(under, project)
    figures.add("each connect takes 1 s, 3 times anew", under, traffic)


@pytest.mark.parametrize("under", ["gthread", "gevent"], indirect=True)
def test_requests_wait_for_connects_accepted_one_by_one(under, project, proxy, figures):
    proxy.pause = 0.3
    traffic = reconnect(under, project)
    figures.add("accepts every 0.3 s, 3 times anew", under, traffic)


def test_cut_connections_fail_only_the_queries_that_run(under, project, proxy, figures):
    with under.traffic() as (_, traffic):
        for _ in range(5):
            proxy.cut()
            traffic.wait_for_200()
    failed = traffic.counts.total() - traffic.counts[200]
    assert failed <= 5 * MAX_CONNS * under.workers
    assert set(traffic.counts) <= {200, 500, 503}
    figures.add("every connection cut, 5 times", under, traffic)
