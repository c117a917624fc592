"""The psycopg2 driver, on connections of a real server."""

from __future__ import annotations

import ctypes
import io
import socket
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import psycopg2
import psycopg2.extras
import pytest
from psycopg2 import _psycopg, extensions

from dbpool_mw.core.errors import HoldTooLong
from dbpool_mw.drivers.postgresql import sockets
from dbpool_mw.drivers.psycopg2 import driver, session
from dbpool_mw.drivers.psycopg2.connection import tracked_connection
from tests.core.fakes import InThread, until
from tests.postgres.conftest import run


def attributes(connection, *, autocommit):
    return replace(driver.session_attributes(connection), autocommit=autocommit)


def terminate(postgres, database, connection):
    other = psycopg2.connect(postgres.dsn(database))
    run(other, f"SELECT pg_terminate_backend({connection.get_backend_pid()})")
    other.close()


def test_a_connection_ended_by_the_server_is_dead_without_a_round_trip(
    connection, postgres, database
):
    alive = driver.liveness(connection)
    assert alive()
    assert driver.ping(connection)
    terminate(postgres, database, connection)
    until(lambda: not alive())
    assert not driver.ping(connection)
    assert driver.why_unusable(connection) == "closed"


def test_a_connection_that_libpq_has_closed_is_dead_though_psycopg2_says_open(
    connection,
):
    consume = ctypes.PyDLL(_psycopg.__file__).PQconsumeInput
    consume.argtypes = [ctypes.c_void_p]
    driver.shut_down(connection, driver.socket_number(connection))
    until(lambda: not consume(connection.pgconn_ptr))
    assert not connection.closed
    assert driver.why_unusable(connection) == "dead"


def test_a_closed_connection_is_not_alive(connection):
    alive = driver.liveness(connection)
    connection.close()
    assert not alive()
    assert not driver.liveness(connection)()
    assert not driver.ping(connection)
    assert driver.backend_pid(connection) is None
    driver.close(connection)


def test_a_server_that_goes_on_sending_does_not_delay_a_close(monkeypatch):
    def send():
        with theirs, suppress(ConnectionError):
            while True:
                theirs.sendall(b"data " * 2000)

    monkeypatch.setattr(sockets, "_BACKEND_END", 0.02)
    ours, theirs = socket.socketpair()
    sending = InThread(send)
    idle = extensions.TRANSACTION_STATUS_IDLE
    connection = SimpleNamespace(
        fileno=ours.fileno, get_transaction_status=lambda: idle, close=ours.close
    )
    InThread(driver.close, connection).result()
    sending.result()


def test_a_ping_leaves_no_transaction_open(connection):
    connection.autocommit = False
    assert driver.ping(connection)
    assert driver.is_clean(connection, attributes(connection, autocommit=False))


def test_a_named_cursor_left_open_makes_the_connection_unusable(connection):
    cursor = connection.cursor("named", withhold=True)
    cursor.execute("SELECT 1")
    assert driver.why_unusable(connection) == "cursor left open"
    cursor.close()
    assert driver.why_unusable(connection) is None


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN; SELECT 1"])
@pytest.mark.parametrize("failed", [True, False])
def test_any_open_transaction_is_rolled_back(connection, autocommit, begin, failed):
    connection.autocommit = autocommit
    run(connection, begin)
    if failed:
        with pytest.raises(psycopg2.Error):
            run(connection, "SELECT 1/0")
    assert driver.roll_back(connection)
    assert not driver.roll_back(connection)
    connection.notices.clear()  # of a BEGIN too many
    assert driver.is_clean(connection, attributes(connection, autocommit=autocommit))


@pytest.mark.parametrize("autocommit", [True, False])
def test_accepting_a_session_restores_its_autocommit(connection, autocommit):
    connection.autocommit = autocommit
    initial = driver.session_attributes(connection)
    connection.autocommit = not autocommit
    assert not driver.is_clean(connection, initial)
    driver.accept(connection, initial)
    assert connection.autocommit is autocommit
    assert driver.is_clean(connection, initial)


@pytest.mark.parametrize(
    ("factory", "other"),
    [(psycopg2.extras.DictCursor, None), (None, psycopg2.extras.DictCursor)],
)
def test_forgetting_a_session_restores_its_initial_attributes(
    postgres, database, factory, other
):
    made = psycopg2.connect(
        postgres.dsn(database), connection_factory=tracked_connection()
    )
    made.isolation_level = 3
    made.autocommit = True
    made.cursor_factory = factory
    initial = driver.session_attributes(made)
    session.mark_clean(made)
    before = characteristics(made)
    made.set_session(isolation_level=1, readonly=True, deferrable=True)
    made.cursor_factory = other
    run(made, "SET statement_timeout = 7")
    assert characteristics(made) != before
    driver.forget_session(made, initial)
    assert driver.session_attributes(made) == initial
    assert driver.is_clean(made, initial)
    assert characteristics(made) == before
    # With autocommit off, as in Django's atomic(), psycopg2 sends the isolation level.
    made.autocommit = False
    assert characteristics(made)[0] == "serializable"
    made.close()


def characteristics(connection):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('transaction_isolation'),"
            " current_setting('transaction_read_only'),"
            " current_setting('transaction_deferrable'),"
            " current_setting('statement_timeout')"
        )
        return tuple(cursor.fetchone())


def test_a_session_that_discard_all_cannot_reset_is_refused(connection):
    run(connection, "SET a.b = 'c'")
    run(connection, "SELECT setseed(0.5)")
    run(connection, "SET a.b = 'd'")
    with pytest.raises(psycopg2.NotSupportedError, match="setseed"):
        driver.forget_session(connection, driver.session_attributes(connection))


# --- Aborting a holder ---------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        lambda cursor: cursor.execute("SELECT pg_sleep(60)"),
        lambda cursor: cursor.executemany("SELECT pg_sleep(%s)", [[60], [60]]),
        lambda cursor: cursor.callproc("pg_sleep", [60]),
        lambda cursor: cursor.copy_expert(
            "COPY (SELECT pg_sleep(60)) TO STDOUT", io.StringIO()
        ),
    ],
)
def test_an_aborted_holders_statements_raise_the_reason(
    postgres, database, connection, statement
):
    def abort():
        other = psycopg2.connect(postgres.dsn(database))
        other.autocommit = True
        with other.cursor() as cursor:
            until(lambda: running(cursor, connection))
        driver.abort(connection, HoldTooLong("held too long"))
        other.close()

    thread = InThread(abort)
    with connection.cursor() as cursor:
        with pytest.raises(HoldTooLong, match="held too long") as caught:
            statement(cursor)
        assert isinstance(caught.value, psycopg2.OperationalError)
        assert isinstance(
            caught.value.__cause__, psycopg2.extensions.QueryCanceledError
        )
        thread.result()
        for again in (statement, lambda cursor: cursor.execute("SELECT 1")):
            with pytest.raises(HoldTooLong):
                again(cursor)


def running(cursor, connection):
    cursor.execute(
        "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active'",
        [connection.get_backend_pid()],
    )
    return cursor.fetchone()


def test_aborting_a_closed_connection_does_nothing(connection):
    connection.close()
    driver.abort(connection, HoldTooLong("held too long"))
    driver.shut_down(connection, driver.socket_number(connection))
    assert driver.socket_number(connection) is None


def test_shutting_a_socket_down_ends_the_wait_for_an_answer(
    postgres, database, connection
):
    number = driver.socket_number(connection)
    other = psycopg2.connect(postgres.dsn(database))
    # Another number means that the descriptor was closed and is used by another socket.
    driver.shut_down(connection, driver.socket_number(other))
    run(connection, "SELECT 1")

    def shut_down():
        other.autocommit = True
        with other.cursor() as cursor:
            until(lambda: running(cursor, connection))
        driver.shut_down(connection, number)

    thread = InThread(shut_down)
    with pytest.raises(psycopg2.OperationalError):
        run(connection, "SELECT pg_sleep(60)")
    thread.result()
    other.close()


def count_of(cursor, condition):
    cursor.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'closing' AND "
        + condition
    )
    return cursor.fetchone()[0]


def break_a_copy_off(made):
    class File:
        def write(self, data):
            raise ValueError

    with made.cursor() as cursor, suppress(ValueError):
        cursor.copy_expert(
            "COPY (SELECT generate_series(1, 1000000)) TO STDOUT", File()
        )


@pytest.mark.parametrize("state", ["idle", "in a transaction", "running", "copying"])
def test_after_a_close_the_backend_has_ended(postgres, database, connection, state):
    dsn, factory = postgres.dsn(database), tracked_connection()
    with connection.cursor() as cursor:
        for _ in range(10):
            made = psycopg2.connect(
                dsn, application_name="closing", connection_factory=factory
            )
            session.mark_clean(made)
            running = None
            if state == "in a transaction":
                run(made, "SELECT 1")
            elif state == "running":
                running = InThread(run, made, "SELECT pg_sleep(60)")
                until(lambda: count_of(cursor, "wait_event = 'PgSleep'"))
            elif state == "copying":
                break_a_copy_off(made)
            driver.close(made)
            assert count_of(cursor, "true") == 0
            if running is not None:
                with pytest.raises(psycopg2.Error):
                    running.result()


def test_every_connection_is_closed_even_if_a_close_is_interrupted(postgres, database):
    class Interrupts:
        def close(self):
            raise KeyboardInterrupt

    one, other = (psycopg2.connect(postgres.dsn(database)) for _ in range(2))
    with pytest.raises(KeyboardInterrupt):
        driver.close(one, Interrupts(), other)
    assert one.closed
    assert other.closed


def test_a_close_waits_for_an_unresponsive_server_for_a_limited_time(monkeypatch):
    """The sockets receive neither data nor an end, as with a broken network."""
    ours, theirs = zip(*(socket.socketpair() for _ in range(3)), strict=True)

    class Unresponsive:
        def __init__(self, sock):
            self.fileno, self.close = sock.fileno, sock.close
            self.get_transaction_status = lambda: extensions.TRANSACTION_STATUS_IDLE

    monkeypatch.setattr(sockets, "_BACKEND_END", 0.02)
    driver.close(*map(Unresponsive, ours))
    for sock in theirs:
        # No copy of the socket is open any more.
        sock.settimeout(20)
        assert sock.recv(1) == b""
        sock.close()
