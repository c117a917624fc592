"""The database goes, comes back, or has no room; requests go on."""

from __future__ import annotations

import time
from itertools import product

import psycopg2
import pytest

from tests.faults.under import MAX_CONNS
from tests.process.servers import wait_until


def test_all_backends_are_terminated(under, project, figures):
    with under.traffic() as (_, met):
        before = sorted(project.pids())
        for _ in range(5):
            with project.session() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            met.good()
        assert sorted(project.pids()) == before
    # One that was in a query fails; those that were idle fail nobody.
    failed = met.counts.total() - met.counts[200]
    assert failed <= 5 * MAX_CONNS * under.workers
    assert set(met.counts) <= {200, 500, 503}
    figures.add("all backends terminated, 5 times", under, met)


@pytest.mark.parametrize(
    ("under", "mode"),
    [
        *product(["gthread", "uvicorn"], ["fast", "immediate", "kill -9"]),
        *product(["gevent"], ["fast", "kill -9"]),
    ],
    indirect=["under"],
)
def test_the_server_restarts(under, project, figures, mode):
    postgres = project.databases.server
    with under.traffic() as (_, met):
        before = sorted(project.pids())
        if mode == "kill -9":
            postgres.kill()
        else:
            postgres.stop(mode)
        postgres.start()
        met.good()
        assert sorted(project.pids()) == before
    assert set(met.counts) <= {200, 500, 503}
    assert met.longest < 7
    figures.add(f"the server restarts ({mode})", under, met)


def test_the_server_is_gone_for_10_seconds(under, project, figures):
    postgres = project.databases.server
    with under.traffic() as (server, met):
        before = sorted(project.pids())
        tried = project.totals()["connect_errors"]
        postgres.stop("fast")
        gone = time.monotonic()
        # What needs no database is served, and workers answer the commands.
        for _ in range(5):
            assert server.get("/exempt/").status == 200
            assert project.stats()["max"] == MAX_CONNS * under.workers
        wait_until(lambda: time.monotonic() > gone + 10, "10 seconds have gone")
        attempts = project.totals()["connect_errors"] - tried
        postgres.start()
        back = time.monotonic()
        met.good(10)
        recovery = time.monotonic() - back
        assert sorted(project.pids()) == before
    # A pause is at least half of 0.1, 0.2, 0.4, 0.8, 1.6 and then of 2 seconds; at the
    # beginning each place may be tried once at the same time.
    assert attempts <= under.workers * (MAX_CONNS + 15)
    assert set(met.counts) <= {200, 500, 503}
    # One that failed in the middle may wait once more, for its error page.
    assert met.longest < 2 * 5 + 2
    assert recovery < 5
    figures.add("the server is gone for 10 s", under, met)


def test_the_server_has_no_room_for_more(under, project, figures):
    # Two workers would take the places from one another, and keep them while idle.
    under.workers = 1
    postgres = project.databases.server
    with project.session() as cursor:
        cursor.execute("ALTER SYSTEM SET max_connections = 13")
        cursor.execute("ALTER SYSTEM SET superuser_reserved_connections = 0")
    postgres.restart()
    dsn = postgres.dsn()
    others = []
    try:
        # All but two of its places are others'; one more is the watch's.
        others += [psycopg2.connect(dsn) for _ in range(10)]
        with under.traffic() as (_, met):
            met.good(100)
            others.pop().close()
            met.good(100)
            # The pool has 3 now and may take a fourth; we want one too, to look.
            while others:
                others.pop().close()
        assert set(met.counts) == {200}
        figures.add("the server has room for 2 of 4", under, met)
    finally:
        for each in others:
            each.close()
        with project.session() as cursor:
            cursor.execute("ALTER SYSTEM RESET ALL")
        postgres.restart()
