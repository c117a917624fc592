"""Time limits that end while the pool works: a signal's handler raises an Exception."""

from __future__ import annotations

import logging
import signal
import time
from contextlib import contextmanager
from functools import partial

import pytest
from django.db import connection
from django.db.backends.signals import connection_created
from django.test import override_settings

from dbpool_mw import pooled
from dbpool_mw.drivers.postgresql.libpq import IDLE
from tests.postgres.conftest import ask, on_engine, stats
from tests.postgres.engines.remembering.base import DatabaseWrapper
from tests.vocabulary import (
    Connection,
    Error,
    TrackedConnection,
    Writes,
    connect,
    tracked,
)

pytestmark = pytest.mark.usefixtures("fresh_wrappers", "requests")

SECONDS = 0.05


class TimeLimit(Exception):
    """As Celery's SoftTimeLimitExceeded, which its handler of SIGUSR1 raises."""


@contextmanager
def the_limit_is_raised():
    """Expect the block to raise a time limit; give what sets it."""

    def handle(number, frame):
        raise TimeLimit

    before = signal.signal(signal.SIGALRM, handle)
    try:
        with pytest.raises(TimeLimit):
            yield partial(signal.setitimer, signal.ITIMER_REAL, SECONDS)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def nothing_is_lost():
    """Assert that the connection was closed and that its slot is free."""
    assert stats()["in_use"] == stats()["size"] == 0
    assert stats()["discarded"] == {"interrupted": 1}
    with pooled():
        ask("SELECT 1")
    assert stats()["idle"] == 1


def test_a_limit_that_ends_in_a_reset_is_raised(caplog):
    def sleep(**signal):
        ask(f"SELECT pg_sleep({10 * SECONDS})")

    with the_limit_is_raised() as set_limit, pooled():
        ask("SET application_name = 'dirty'")
        connection_created.connect(sleep)
        set_limit()
    connection_created.disconnect(sleep)
    nothing_is_lost()
    assert "could not clean" not in caplog.text


def test_a_limit_that_ends_in_a_rollback_is_raised(monkeypatch):
    def rollback(self):
        Connection.rollback(self)
        time.sleep(10 * SECONDS)

    monkeypatch.setattr(TrackedConnection, "rollback", rollback, raising=False)
    with the_limit_is_raised() as set_limit, pooled():
        ask("BEGIN")
        set_limit()
    assert stats()["discarded"] == {"interrupted": 1}
    assert stats()["in_use"] == stats()["size"] == 0


def test_a_limit_that_ends_in_the_engines_close_is_raised(monkeypatch):
    def close(self):
        time.sleep(10 * SECONDS)

    with on_engine("tests.postgres.engines.remembering"):
        monkeypatch.setattr(DatabaseWrapper, "_close", close)
        with the_limit_is_raised() as set_limit, pooled():
            ask("SELECT 1")
            set_limit()
        monkeypatch.undo()
        # The connection itself is as good as before.
        assert stats()["idle"] == stats()["size"] == 1


def test_an_engines_close_may_expect_a_connection(monkeypatch):
    def close(self):
        self.connection.close()

    with on_engine("tests.postgres.engines.remembering"):
        monkeypatch.setattr(DatabaseWrapper, "_close", close)
        with pooled():
            ask("SELECT 1")
        assert stats()["idle"] == 1


def test_a_limit_that_ends_while_a_value_is_adapted_is_raised():
    class Slow(Writes):
        @property
        def forms(self):
            time.sleep(10 * SECONDS)
            return [b"1"]

        @forms.setter
        def forms(self, forms):
            pass

    with pooled():
        with the_limit_is_raised() as set_limit, connection.cursor() as cursor:
            set_limit()
            cursor.execute("SELECT %s", [Slow(b"1")])
        assert ask("SELECT 1") == 1


@pytest.mark.parametrize("value", [object(), {}, [{}]])
def test_a_value_that_can_not_be_adapted_is_refused_as_by_the_library(
    postgres, database, value
):
    errors, statuses = [], []
    for open_one in (connect, tracked):
        made = open_one(postgres.dsn(database))
        with pytest.raises(Error) as caught:
            made.cursor().execute("SELECT %s", [value])
        errors.append((type(caught.value), str(caught.value)))
        statuses.append(made.info.transaction_status)
        made.close()
    assert errors[0] == errors[1]
    # psycopg may begin a transaction before it adapts.
    assert statuses[1] in (IDLE, statuses[0])


@override_settings(DBPOOL_MW_MAX_CONNS=1)
@pytest.mark.parametrize("error", [KeyError, RuntimeError])
def test_an_error_of_a_receiver_in_a_reset_is_raised_and_the_connection_closed(error):
    def fail(**signal):
        raise error("on purpose")

    @pooled
    def work():
        ask("SET application_name = 'dirty'")
        connection_created.connect(fail)

    with pytest.raises(error, match="on purpose"):
        work()
    connection_created.disconnect(fail)
    nothing_is_lost()


@override_settings(DBPOOL_MW_MAX_CONNS=1)
def test_an_error_of_the_database_in_a_reset_is_logged_and_the_connection_closed(
    caplog,
):
    def fail(connection, **signal):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")

    with pooled():
        ask("SET application_name = 'dirty'")
        connection_created.connect(fail)
    connection_created.disconnect(fail)
    assert stats()["discarded"] == {"not clean": 1}
    assert "division by zero" in caplog.text
    assert stats()["in_use"] == stats()["size"] == 0


def test_a_limit_that_ends_in_a_log_handler_is_raised():
    class Slow(logging.Handler):
        def emit(self, record):
            ask(f"SELECT pg_sleep({10 * SECONDS})")

    handler, logger = Slow(logging.WARNING), logging.getLogger("dbpool_mw.pool")
    with the_limit_is_raised() as set_limit, pooled():
        ask("BEGIN")
        logger.addHandler(handler)
        set_limit()
    logger.removeHandler(handler)
    assert stats()["in_use"] == 0
    assert stats()["idle"] == 1
