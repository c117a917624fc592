"""The driver of the library, on connections of a real server."""

from __future__ import annotations

import socket
from contextlib import suppress
from types import SimpleNamespace

import pytest

from dbpool_mw.core.errors import HoldTooLong
from dbpool_mw.drivers.postgresql import sockets
from dbpool_mw.drivers.postgresql.libpq import IDLE
from tests.core.fakes import InThread, until
from tests.library import IS_PSYCOPG, only_psycopg, only_psycopg2
from tests.postgres.conftest import run
from tests.vocabulary import (
    READ_ONLY,
    SERIALIZABLE,
    Error,
    OperationalError,
    QueryCanceled,
    break_copy_off,
    choose_dicts,
    connect,
    copy_out,
    driver,
    library,
    tracked,
)


def terminate(postgres, database, connection):
    other = connect(postgres.dsn(database))
    run(other, f"SELECT pg_terminate_backend({connection.info.backend_pid})")
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


@only_psycopg2
def test_a_connection_that_libpq_has_closed_is_dead_though_psycopg2_says_open(
    connection,
):
    import ctypes

    from psycopg2 import _psycopg

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
    connection = SimpleNamespace(
        fileno=ours.fileno, get_transaction_status=lambda: IDLE, close=ours.close
    )
    InThread(driver.close, connection).result()
    sending.result()


def test_a_ping_leaves_no_transaction_open(connection):
    connection.autocommit = False
    initial = driver.session_attributes(connection)
    assert driver.ping(connection)
    assert driver.is_clean(connection, initial)


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
    initial = driver.session_attributes(connection)
    run(connection, begin)
    if failed:
        with pytest.raises(Error):
            run(connection, "SELECT 1/0")
    assert driver.roll_back(connection)
    assert not driver.roll_back(connection)
    driver.keep_set_up(connection)  # psycopg2 has the notice of a BEGIN too many
    assert driver.is_clean(connection, initial)


@pytest.mark.parametrize("autocommit", [True, False])
def test_accepting_a_session_restores_its_autocommit(connection, autocommit):
    connection.autocommit = autocommit
    initial = driver.session_attributes(connection)
    connection.autocommit = not autocommit
    assert not driver.is_clean(connection, initial)
    driver.accept(connection, initial)
    assert connection.autocommit is autocommit
    assert driver.is_clean(connection, initial)


@pytest.mark.parametrize("had_dicts", [True, False])
def test_forgetting_a_session_restores_its_initial_attributes(
    postgres, database, had_dicts
):
    made = tracked(postgres.dsn(database))
    made.isolation_level = SERIALIZABLE
    made.autocommit = True
    if had_dicts:
        choose_dicts(made)
    driver.keep_set_up(made)
    initial = driver.session_attributes(made)
    before = characteristics(made)
    made.isolation_level = library_level("READ_COMMITTED")
    setattr(made, READ_ONLY, True)
    made.deferrable = True
    choose_dicts(made)
    run(made, "SET statement_timeout = 70000")
    assert characteristics(made) != before
    driver.forget_session(made, initial)
    assert driver.is_clean(made, initial)
    assert characteristics(made) == before
    # With autocommit off, as in Django's atomic(), they are sent with BEGIN.
    made.autocommit = False
    with made.cursor() as cursor:
        cursor.execute("SHOW transaction_isolation")
        rows = cursor.fetchall()
    assert [*rows[0]] == ["transaction_isolation" if had_dicts else "serializable"]
    made.close()


def library_level(name):
    if IS_PSYCOPG:
        return library.IsolationLevel[name]
    return getattr(library.extensions, f"ISOLATION_LEVEL_{name}")


def characteristics(connection):
    names = ("isolation_level", READ_ONLY, "deferrable", "autocommit")
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        kind = type(cursor.fetchone())
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT setting FROM pg_settings WHERE name = 'statement_timeout'"
            " OR name LIKE 'default_transaction%'"
        )
        return (kind, cursor.fetchall(), *(getattr(connection, n) for n in names))


def test_a_session_that_discard_all_cannot_reset_is_refused(connection):
    run(connection, "SET a.b = 'c'")
    run(connection, "SELECT setseed(0.5)")
    run(connection, "SET a.b = 'd'")
    with pytest.raises(library.NotSupportedError, match="setseed"):
        driver.forget_session(connection, driver.session_attributes(connection))


# --- Aborting a holder ---------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        lambda cursor: cursor.execute("SELECT pg_sleep(60)"),
        lambda cursor: cursor.executemany("SELECT pg_sleep(%s)", [[60], [60]]),
        lambda cursor: copy_out(cursor, "COPY (SELECT pg_sleep(60)) TO STDOUT"),
        pytest.param(
            lambda cursor: cursor.callproc("pg_sleep", [60]), marks=only_psycopg2
        ),
        pytest.param(
            lambda cursor: next(cursor.stream("SELECT pg_sleep(60)")),
            marks=only_psycopg,
        ),
        pytest.param(
            lambda cursor: cursor.connection.execute("SELECT pg_sleep(60)"),
            marks=only_psycopg,
        ),
    ],
)
def test_an_aborted_holders_statements_raise_the_reason(
    postgres, database, connection, statement
):
    def abort():
        other = connect(postgres.dsn(database), autocommit=True)
        with other.cursor() as cursor:
            until(lambda: running(cursor, connection))
        driver.abort(connection, HoldTooLong("held too long"))
        other.close()

    thread = InThread(abort)
    with connection.cursor() as cursor:
        with pytest.raises(HoldTooLong, match="held too long") as caught:
            statement(cursor)
        assert isinstance(caught.value, OperationalError)
        assert isinstance(caught.value.__cause__, QueryCanceled)
        thread.result()
        for again in (statement, lambda cursor: cursor.execute("SELECT 1")):
            with pytest.raises(HoldTooLong):
                again(cursor)


def running(cursor, connection):
    cursor.execute(
        "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active'",
        [connection.info.backend_pid],
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
    other = connect(postgres.dsn(database), autocommit=True)
    # Another number means that the descriptor was closed and is used by another socket.
    driver.shut_down(connection, driver.socket_number(other))
    run(connection, "SELECT 1")

    def shut_down():
        with other.cursor() as cursor:
            until(lambda: running(cursor, connection))
        driver.shut_down(connection, number)

    thread = InThread(shut_down)
    with pytest.raises(OperationalError):
        run(connection, "SELECT pg_sleep(60)")
    thread.result()
    other.close()


def count_of(cursor, condition):
    cursor.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'closing' AND "
        + condition
    )
    return cursor.fetchone()[0]


def leave_a_copy(made):
    statement = "COPY (SELECT generate_series(1, 1000000)) TO STDOUT"
    if IS_PSYCOPG:
        # With one that is broken off, psycopg's connection can be used again.
        block = made.cursor().copy(statement)
        block.__enter__()
        return block
    with made.cursor() as cursor, suppress(ZeroDivisionError):
        break_copy_off(cursor, statement)
    return None


@pytest.mark.parametrize("state", ["idle", "in a transaction", "running", "copying"])
def test_after_a_close_the_backend_has_ended(postgres, database, connection, state):
    with connection.cursor() as cursor:
        for _ in range(10):
            made = tracked(postgres.dsn(database), application_name="closing")
            driver.keep_set_up(made)
            running = copy = None
            if state == "in a transaction":
                run(made, "SELECT 1")
            elif state == "running":
                running = InThread(run, made, "SELECT pg_sleep(60)")
                until(lambda: count_of(cursor, "wait_event = 'PgSleep'"))
            elif state == "copying":
                copy = leave_a_copy(made)
            is_busy = made.waits
            driver.close(made)
            if is_busy:
                until(lambda: count_of(cursor, "true") == 0)
            assert count_of(cursor, "true") == 0
            if running is not None:
                with pytest.raises(Error):
                    running.result()
            if copy is not None:
                with suppress(Error):
                    copy.gen.close()


def test_every_connection_is_closed_even_if_a_close_is_interrupted(postgres, database):
    class Interrupts:
        def close(self):
            raise KeyboardInterrupt

    one, other = (connect(postgres.dsn(database)) for _ in range(2))
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
            self.get_transaction_status = lambda: IDLE

    monkeypatch.setattr(sockets, "_BACKEND_END", 0.02)
    driver.close(*map(Unresponsive, ours))
    for sock in theirs:
        # No copy of the socket is open any more.
        sock.settimeout(20)
        assert sock.recv(1) == b""
        sock.close()
