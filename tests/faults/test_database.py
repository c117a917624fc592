"""The database restarts, is gone, or has no room: no worker gets stuck."""

from __future__ import annotations

import time
from itertools import product

import psycopg2
import pytest

from tests.faults.under import MAX_CONNS
from tests.process.servers import wait_until


def test_terminated_backends_fail_only_the_queries_that_run(under, project, figures):
    with under.traffic() as (_, traffic):
        before = sorted(project.pids())
        for _ in range(5):
            with project.session() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            traffic.wait_for_200()
        assert sorted(project.pids()) == before
    # A request in a query fails; the end of an idle connection fails no request.
    failed = traffic.counts.total() - traffic.counts[200]
    assert failed <= 5 * MAX_CONNS * under.workers
    assert set(traffic.counts) <= {200, 500, 503}
    figures.add("all backends terminated, 5 times", under, traffic)


@pytest.mark.parametrize(
    ("under", "mode"),
    [
        *product(["gthread", "uvicorn"], ["fast", "immediate", "kill -9"]),
        *product(["gevent"], ["fast", "kill -9"]),
    ],
    indirect=["under"],
)
def test_no_request_hangs_when_the_server_restarts(under, project, figures, mode):
    postgres = project.databases.server
    with under.traffic() as (_, traffic):
        before = sorted(project.pids())
        if mode == "kill -9":
            postgres.kill()
        else:
            postgres.stop(mode)
        postgres.start()
        traffic.wait_for_200()
        assert sorted(project.pids()) == before
    assert set(traffic.counts) <= {200, 500, 503}
    assert traffic.longest < 7
    figures.add(f"the server restarts ({mode})", under, traffic)


def test_pools_connect_rarely_while_the_server_is_gone_and_recover(
    under, project, figures
):
    postgres = project.databases.server
    with under.traffic() as (server, traffic):
        before = sorted(project.pids())
        tried = project.totals()["connect_errors"]
        postgres.stop("fast")
        gone = time.monotonic()
        # Pages without queries are served, and the workers answer the commands.
        for _ in range(5):
            assert server.get("/exempt/").status == 200
            assert project.stats()["max"] == MAX_CONNS * under.workers
        wait_until(lambda: time.monotonic() > gone + 10, "10 seconds have gone")
        attempts = project.totals()["connect_errors"] - tried
        postgres.start()
        back = time.monotonic()
        traffic.wait_for_200(10)
        recovery = time.monotonic() - back
        assert sorted(project.pids()) == before
    # A pause is at least half of 0.1, 0.2, 0.4, 0.8, 1.6 and then of 2 seconds; before
    # the first pause a pool may make MAX_CONNS attempts at the same time.
    assert attempts <= under.workers * (MAX_CONNS + 15)
    assert set(traffic.counts) <= {200, 500, 503}
    # A request that failed in the middle may wait once more, for its error page.
    assert traffic.longest < 2 * 5 + 2
    assert recovery < 5
    figures.add("the server is gone for 10 s", under, traffic)


def test_requests_share_the_connections_that_the_server_has_room_for(
    under, project, figures
):
    # Of two workers, one could keep idle connections that the other one needs.
    under.workers = 1
    postgres = project.databases.server
    with project.session() as cursor:
        cursor.execute("ALTER SYSTEM SET max_connections = 13")
        cursor.execute("ALTER SYSTEM SET superuser_reserved_connections = 0")
    postgres.restart()
    dsn = postgres.dsn()
    others = []
    try:
        # Of 13 connections these are 10 and the watch's is one: the pool can have two.
        others += [psycopg2.connect(dsn) for _ in range(10)]
        with under.traffic() as (_, traffic):
            traffic.wait_for_200(100)
            others.pop().close()
            traffic.wait_for_200(100)
            # The pool has 3 now, and may open a fourth; the final checks need one too.
            while others:
                others.pop().close()
        assert set(traffic.counts) == {200}
        figures.add("the server has room for 2 of 4", under, traffic)
    finally:
        for other in others:
            other.close()
        with project.session() as cursor:
            cursor.execute("ALTER SYSTEM RESET ALL")
        postgres.restart()
