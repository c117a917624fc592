"""The figures of a pool whose holders and waiters are real."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest
from django.db import connections
from django.test import override_settings

from dbpool_mw import pooled
from dbpool_mw.binding import registry
from tests.core.fakes import InThread, until
from tests.postgres.conftest import ask, held, run, stats
from tests.vocabulary import connect, driver

pytestmark = pytest.mark.usefixtures("fresh_wrappers", "databases")

#: What the server says of the connections that other sessions of this database use.
STATES = """
SELECT CASE wait_event_type WHEN 'Lock' THEN 'waiting' ELSE state END
FROM pg_stat_activity WHERE pid = ANY(%s)
"""


@pytest.fixture(autouse=True)
def two_connections():
    with override_settings(DBPOOL_MW_MAX_CONNS=2, DBPOOL_MW_TIMEOUT=60):
        yield


def wait_and_hold():
    with pooled("default"):
        ask("SELECT 1")


def test_a_wait_and_a_hold_are_as_old_as_a_clock_says():
    with ExitStack() as holders:
        before_holds = time.monotonic()
        holders.enter_context(held())
        after_hold = time.monotonic()
        holders.enter_context(held())
        before_wait = time.monotonic()
        waiter = InThread(wait_and_hold)
        until(lambda: stats()["waiting"] == 1)
        after_wait = time.monotonic()
        until(lambda: stats()["oldest_wait_seconds"] >= 0.1)
        before = time.monotonic()
        found = stats()
        after = time.monotonic()
    waiter.result()
    wait, hold = found["oldest_wait_seconds"], found["oldest_hold_seconds"]
    assert before - after_wait <= wait <= after - before_wait
    assert before - after_hold <= hold <= after - before_holds
    found = stats()
    assert found["oldest_wait_seconds"] == found["oldest_hold_seconds"] == 0.0
    assert found["in_use_peak"] == 2


@pytest.fixture
def observer(postgres):
    """Give a connection to the database of the pool that is not of the pool."""
    made = connect(postgres.dsn(connections.settings["default"]["NAME"]))
    made.autocommit = True
    yield made
    made.close()


def test_the_connections_in_a_transaction_are_those_that_the_server_says(observer):
    def states():
        # Tests before may have left sessions of others on the database.
        holders = [holder for pool in registry.pools() for holder in pool.holders()]
        pids = [holder["backend_pid"] for holder in holders]
        with observer.cursor() as cursor:
            cursor.execute(STATES, [pids])
            return sorted(state for (state,) in cursor.fetchall())

    with held(), held("BEGIN"):
        assert states() == ["idle", "idle in transaction"]
        assert (stats()["in_use"], stats()["in_transaction"]) == (2, 1)
    assert stats()["in_transaction"] == 0
    run(observer, "SELECT pg_advisory_lock(4712)")
    thread = InThread(wait_for_lock)
    # It is active, for a moment, in statements before this one, too.
    until(lambda: states() == ["waiting"])
    # libpq sends a statement first, and then notes that it has.
    until(lambda: stats()["in_transaction"] == 1)
    run(observer, "SELECT pg_advisory_unlock(4712)")
    thread.result()
    assert stats()["in_transaction"] == 0


def wait_for_lock():
    with pooled("default"):
        ask("SELECT pg_advisory_lock(4712), pg_advisory_unlock(4712)")


def test_a_failed_transaction_goes_on_and_a_closed_connection_has_none(connection):
    assert not driver.in_transaction(connection)
    run(connection, "BEGIN")
    with pytest.raises(Exception, match="division by zero"):
        run(connection, "SELECT 1/0")
    assert driver.in_transaction(connection)
    connection.close()
    assert not driver.in_transaction(connection)
