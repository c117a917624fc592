"""Waiting under a wait callback, such as psycogreen's; and cancelling what runs."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
from types import SimpleNamespace

import psycopg2
import pytest
from psycopg2 import extensions

from dbpool_mw.core.errors import HoldTooLong
from dbpool_mw.drivers.psycopg2 import cancel, driver, greenlets, sockets
from dbpool_mw.drivers.psycopg2.connection import tracked_connection
from tests.core.fakes import InThread, until

LONG = "SELECT pg_sleep(60)"


class Kill(BaseException):
    """What ends a greenlet; no Exception."""


class Waiting:
    """A wait callback as psycogreen's; something may happen while it waits."""

    def __init__(self):
        self.happens = lambda connection: None

    def __call__(self, connection, timeout=None):
        while True:
            state = connection.poll()
            if state == extensions.POLL_OK:
                return
            if state == extensions.POLL_READ:
                happens, self.happens = self.happens, lambda connection: None
                happens(connection)
            descriptors = [connection.fileno()], [], []
            if state == extensions.POLL_WRITE:
                descriptors = descriptors[1], descriptors[0], []
            if not any(select.select(*descriptors, timeout)):
                raise TimeoutError


@pytest.fixture
def waiting():
    """Return the callback that psycopg2 has for the test."""
    waiting = Waiting()
    extensions.set_wait_callback(waiting)
    yield waiting
    extensions.set_wait_callback(None)


@pytest.fixture
def hidden_libpq(monkeypatch):
    """Have psycopg2 not show the functions of libpq that cancel."""
    monkeypatch.setattr(cancel, "_libpq", cancel._Libpq)
    monkeypatch.setattr("ctypes.PyDLL", lambda path: SimpleNamespace())


class Threads:
    """Python's own threads and pauses, seen while they come about."""

    def __init__(self):
        self.started = []
        self.slept = []

    def start(self, function, arguments):
        self.started.append(threading.Thread(target=function, args=arguments))
        self.started[-1].start()

    def join(self):
        for each in self.started:
            each.join(20)
        return len(self.started)

    def get_original(self, module, name):
        return {"start_new_thread": self.start, "sleep": self.slept.append}[name]


@pytest.fixture
def threads(monkeypatch):
    """Replace gevent, which knows the originals of what it patched."""
    threads = Threads()
    monkeypatch.setitem(sys.modules, "gevent.monkey", threads)
    return threads


@pytest.fixture
def observer(postgres, database):
    """Give a cursor that sees the others, on a connection that was opened first."""
    connection = psycopg2.connect(postgres.dsn(database))
    connection.autocommit = True
    with connection.cursor() as cursor:
        yield cursor
    connection.close()


@pytest.fixture
def connection(observer, waiting, postgres, database):
    """Give a tracked connection in autocommit, opened under the callback."""
    connection = open_tracked(postgres.dsn(database))
    connection.autocommit = True
    yield connection
    connection.close()


def open_tracked(dsn, **options):
    factory = tracked_connection()
    return psycopg2.connect(dsn, connection_factory=factory, **options)


def run(connection, query):
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def is_there(observer, pid, state="%"):
    observer.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND state LIKE %s",
        [pid, state],
    )
    return bool(observer.fetchone()[0])


def kill(connection):
    raise Kill


def test_what_nobody_waits_for_any_more_has_ended_when_the_wait_has(
    observer, waiting, connection
):
    pid = connection.get_backend_pid()
    waiting.happens = kill
    with pytest.raises(Kill):
        run(connection, LONG)
    assert connection.closed
    assert not connection.waits
    assert not is_there(observer, pid, "active")
    until(lambda: not is_there(observer, pid))


class TooEarly:
    """Cancels at the second attempt, as when the server hadn't begun at the first."""

    def __init__(self, canceller):
        self.canceller = canceller
        self.attempts = 0

    def start(self, *delay):
        self.attempts += 1
        if self.attempts == 2:
            self.canceller.start(*delay)


class Unheard(TooEarly):
    """Asks a server that doesn't heed it."""

    def start(self):
        self.attempts += 1


def test_a_server_that_heeds_no_cancel_is_not_waited_for_for_ever(
    observer, waiting, connection, monkeypatch
):
    monkeypatch.setattr(greenlets, "_PATIENCE", (0.01, 0.02, 0.03))
    pid = connection.get_backend_pid()
    connection.canceller = Unheard(connection.canceller)
    waiting.happens = kill
    with pytest.raises(Kill):
        run(connection, LONG)
    assert connection.canceller.attempts == 3
    assert is_there(observer, pid, "active")
    observer.execute("SELECT pg_terminate_backend(%s)", [pid])


def test_a_connection_that_the_server_ends_instead_is_not_cancelled_again(
    observer, waiting, connection
):
    class Ending(TooEarly):
        def start(self):
            self.attempts += 1
            observer.execute("SELECT pg_terminate_backend(%s)", [pid])

    pid = connection.get_backend_pid()
    connection.canceller = Ending(None)
    waiting.happens = kill
    with pytest.raises(Kill):
        run(connection, LONG)
    assert connection.canceller.attempts == 1
    assert connection.closed


def test_where_libpq_is_hidden_a_wait_is_ended_all_the_same(
    observer, waiting, hidden_libpq, postgres, database
):
    connection = open_tracked(postgres.dsn(database))
    pid = connection.get_backend_pid()
    waiting.happens = kill
    with pytest.raises(Kill):
        run(connection, LONG)
    assert connection.closed
    observer.execute("SELECT pg_terminate_backend(%s)", [pid])


def test_a_cancel_that_came_too_early_is_sent_again(observer, waiting, connection):
    pid = connection.get_backend_pid()
    connection.canceller = TooEarly(connection.canceller)
    waiting.happens = kill
    with pytest.raises(Kill):
        run(connection, LONG)
    assert connection.canceller.attempts == 2
    assert not is_there(observer, pid, "active")


def test_a_second_kill_ends_the_wait_at_once(observer, waiting, connection, threads):
    pid = connection.get_backend_pid()

    def kill_twice(connection):
        waiting.happens = kill
        raise Kill

    connection.canceller = TooEarly(connection.canceller)
    waiting.happens = kill_twice
    with pytest.raises(Kill):
        run(connection, LONG)
    assert connection.closed
    # The server is given a moment to begin.
    assert threads.join() == 1
    assert threads.slept == [greenlets._PATIENCE[0]]
    until(lambda: not is_there(observer, pid))


def test_a_callback_without_a_timeout_is_guarded_too(
    observer, waiting, postgres, database
):
    extensions.set_wait_callback(lambda connection: waiting(connection))
    connection = open_tracked(postgres.dsn(database))
    pid = connection.get_backend_pid()
    waiting.happens = kill
    with pytest.raises(Kill):
        run(connection, LONG)
    until(lambda: not is_there(observer, pid))


def test_an_error_of_the_connection_is_what_it_was(observer, waiting, connection):
    def terminate(connection):
        observer.execute("SELECT pg_terminate_backend(%s)", [pid])

    pid = connection.get_backend_pid()
    waiting.happens = terminate
    with pytest.raises(psycopg2.OperationalError, match="terminating connection"):
        run(connection, LONG)


def test_closing_what_another_greenlet_waits_for_ends_its_wait(
    observer, waiting, connection
):
    pid = connection.get_backend_pid()
    # psycopg2's own close() would wait here for ever.
    waiting.happens = driver.close
    with pytest.raises(psycopg2.OperationalError):
        run(connection, LONG)
    until(lambda: not is_there(observer, pid))
    assert connection.closed


def test_connecting_to_a_silent_server_ends_in_time(waiting):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        dsn = f"host=127.0.0.1 port={port} connect_timeout=1"
        with pytest.raises(psycopg2.OperationalError, match="timeout expired") as held:
            open_tracked(dsn)
        # The slot may be used again by now, though the error still has a traceback.
        accepted, _ = silent.accept()
        with accepted:
            accepted.settimeout(5)
            while accepted.recv(1024):
                pass
        assert held.value.__traceback__ is not None


def test_a_callback_without_a_timeout_connects_without_one(waiting, postgres, database):
    extensions.set_wait_callback(lambda connection: waiting(connection))
    connection = open_tracked(postgres.dsn(database), connect_timeout=10)
    assert run(connection, "SELECT 1") == 1
    connection.close()


@pytest.mark.parametrize("seconds", ["0", "-1", "soon"])
def test_what_is_no_limit_is_none(waiting, postgres, database, seconds):
    dsn = extensions.make_dsn(postgres.dsn(database), connect_timeout=seconds)
    connection = open_tracked(dsn)
    assert run(connection, "SELECT 1") == 1
    connection.close()


def test_a_wrong_connection_string_is_for_libpq_to_refuse(waiting):
    with pytest.raises(psycopg2.Error, match="connection string"):
        tracked_connection()("nonsense")


def test_a_connection_of_others_is_left_alone(waiting, connection, postgres, database):
    other = psycopg2.connect(postgres.dsn(database))
    assert type(extensions.get_wait_callback()) is greenlets._Guard
    assert run(other, "SELECT 1") == 1
    waiting.happens = kill
    with pytest.raises(Kill):
        run(other, "SELECT 1")
    other.close()


def test_the_callback_is_guarded_once(waiting, connection):
    guard = extensions.get_wait_callback()
    assert greenlets.guard_waits() is True
    assert extensions.get_wait_callback() is guard


def test_without_a_callback_there_is_nothing_to_guard():
    assert greenlets.guard_waits() is False
    assert extensions.get_wait_callback() is None


# --- Cancelling ----------------------------------------------------------------------


class Unresponsive:
    """A way to a server that lets one connection through and hears no other."""

    def __init__(self, address):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._ends = [socket.create_connection(address)]
        InThread(self._serve)

    def _serve(self):
        self._ends.append(self.listener.accept()[0])
        there, here = self._ends
        InThread(self._forward, there, here)
        self._forward(here, there)

    def _forward(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def close(self):
        for each in [self.listener, *self._ends]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def unresponsive(postgres):
    if postgres.host.startswith("/"):
        pytest.skip("the server named for this run listens on a Unix socket only")
    unresponsive = Unresponsive((postgres.host, postgres.port))
    yield unresponsive
    unresponsive.close()


def test_an_unresponsive_server_holds_up_only_who_waits_for_it(
    unresponsive, postgres, database
):
    there = {"host": "127.0.0.1", "port": unresponsive.port, "sslmode": "disable"}
    connection = open_tracked(extensions.make_dsn(postgres.dsn(database), **there))
    holder = InThread(run, connection, LONG)
    until(
        lambda: (
            connection.get_transaction_status() == extensions.TRANSACTION_STATUS_ACTIVE
        )
    )
    # psycopg2's own cancel() would keep every thread from running.
    driver.abort(connection, HoldTooLong("held too long"))
    unresponsive.listener.accept()[0].close()
    assert holder.is_alive()
    unresponsive.close()
    with pytest.raises(HoldTooLong):
        holder.result()
    connection.close()


def test_a_cancel_waits_in_a_thread_even_where_threads_are_greenlets(
    observer, postgres, database, threads
):
    connection = open_tracked(postgres.dsn(database))
    holder = InThread(run, connection, LONG)
    until(lambda: is_there(observer, connection.get_backend_pid(), "active"))
    sockets.cancel(connection)
    assert threads.join() == 1
    with pytest.raises(extensions.QueryCanceledError):
        holder.result()
    connection.close()


def test_where_libpq_is_hidden_psycopg2_cancels(
    observer, postgres, database, hidden_libpq
):
    connection = open_tracked(postgres.dsn(database))
    assert connection.canceller is None
    holder = InThread(run, connection, LONG)
    until(lambda: is_there(observer, connection.get_backend_pid(), "active"))
    driver.abort(connection, HoldTooLong("held too long"))
    with pytest.raises(HoldTooLong):
        holder.result()
    connection.close()


def test_a_cancel_for_which_there_is_no_thread_does_no_harm(
    postgres, database, monkeypatch
):
    def no_thread(*arguments):
        raise RuntimeError("can't start new thread")

    connection = open_tracked(postgres.dsn(database))
    monkeypatch.setattr("_thread.start_new_thread", no_thread)
    sockets.cancel(connection)
    monkeypatch.undo()
    assert run(connection, "SELECT 1") == 1
    connection.close()
