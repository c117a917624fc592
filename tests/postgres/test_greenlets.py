"""Waits under a wait callback, such as psycogreen's, and cancelling statements."""

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
from dbpool_mw.drivers.postgresql import sockets
from dbpool_mw.drivers.psycopg2 import cancel, driver, greenlets
from dbpool_mw.drivers.psycopg2.connection import tracked_connection
from tests.core.fakes import InThread, until
from tests.library import only_psycopg2

# psycopg has no wait callback: it waits by select, which gevent patches. test_psycopg
# has its greenlets.
pytestmark = only_psycopg2

LONG = "SELECT pg_sleep(60)"


class Kill(BaseException):
    """The exception that ends a greenlet, like gevent's GreenletExit."""


class WaitCallback:
    """A wait callback like psycogreen's.

    It calls ``on_wait(connection)`` once, before it first waits for the server.
    """

    def __init__(self):
        self.on_wait = lambda connection: None

    def __call__(self, connection, timeout=None):
        while True:
            state = connection.poll()
            if state == extensions.POLL_OK:
                return
            if state == extensions.POLL_READ:
                on_wait, self.on_wait = self.on_wait, lambda connection: None
                on_wait(connection)
            descriptors = [connection.fileno()], [], []
            if state == extensions.POLL_WRITE:
                descriptors = descriptors[1], descriptors[0], []
            if not any(select.select(*descriptors, timeout)):
                raise TimeoutError


@pytest.fixture
def waiting():
    """Return the wait callback that psycopg2 has during the test."""
    waiting = WaitCallback()
    extensions.set_wait_callback(waiting)
    yield waiting
    extensions.set_wait_callback(None)


@pytest.fixture
def hidden_libpq(monkeypatch):
    """Make the functions of libpq that cancel unavailable."""
    monkeypatch.setattr(cancel, "_libpq", cancel._Libpq)
    monkeypatch.setattr("ctypes.PyDLL", lambda path: SimpleNamespace())


class Threads:
    """A replacement of gevent.monkey that records threads started and sleeps."""

    def __init__(self):
        self.started = []
        self.slept = []

    def start(self, function, arguments):
        self.started.append(threading.Thread(target=function, args=arguments))
        self.started[-1].start()

    def join(self):
        for thread in self.started:
            thread.join(20)
        return len(self.started)

    def get_original(self, module, name):
        return {"start_new_thread": self.start, "sleep": self.slept.append}[name]


@pytest.fixture
def threads(monkeypatch):
    """Replace gevent.monkey, which has the originals of what it patched."""
    threads = Threads()
    monkeypatch.setitem(sys.modules, "gevent.monkey", threads)
    return threads


@pytest.fixture
def observer(postgres, database):
    """Return a cursor of another connection, opened without the callback."""
    connection = psycopg2.connect(postgres.dsn(database))
    connection.autocommit = True
    with connection.cursor() as cursor:
        yield cursor
    connection.close()


@pytest.fixture
def connection(observer, waiting, postgres, database):
    """Return a tracked connection in autocommit, opened under the callback."""
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


def test_a_killed_wait_ends_when_its_statement_has_been_cancelled(
    observer, waiting, connection
):
    pid = connection.get_backend_pid()
    waiting.on_wait = kill
    with pytest.raises(Kill):
        run(connection, LONG)
    assert connection.closed
    assert not connection.waits
    assert not is_there(observer, pid, "active")
    until(lambda: not is_there(observer, pid))


class TooEarly:
    """A canceller without effect at first, as if the statement had not begun yet."""

    def __init__(self, canceller):
        self.canceller = canceller
        self.attempts = 0

    def start(self, *delay):
        self.attempts += 1
        if self.attempts == 2:
            self.canceller.start(*delay)


class WithoutEffect(TooEarly):
    """A canceller that never has an effect."""

    def start(self):
        self.attempts += 1


def test_a_killed_wait_ends_after_three_cancels_without_effect(
    observer, waiting, connection, monkeypatch
):
    monkeypatch.setattr(greenlets, "_PATIENCE", (0.01, 0.02, 0.03))
    pid = connection.get_backend_pid()
    connection.canceller = WithoutEffect(connection.canceller)
    waiting.on_wait = kill
    with pytest.raises(Kill):
        run(connection, LONG)
    assert connection.canceller.attempts == 3
    assert is_there(observer, pid, "active")
    observer.execute("SELECT pg_terminate_backend(%s)", [pid])


def test_a_connection_that_ended_after_a_cancel_is_not_cancelled_again(
    observer, waiting, connection
):
    class Ending(TooEarly):
        def start(self):
            self.attempts += 1
            observer.execute("SELECT pg_terminate_backend(%s)", [pid])

    pid = connection.get_backend_pid()
    connection.canceller = Ending(None)
    waiting.on_wait = kill
    with pytest.raises(Kill):
        run(connection, LONG)
    assert connection.canceller.attempts == 1
    assert connection.closed


def test_without_the_functions_of_libpq_a_killed_wait_ends_as_well(
    observer, waiting, hidden_libpq, postgres, database
):
    connection = open_tracked(postgres.dsn(database))
    pid = connection.get_backend_pid()
    waiting.on_wait = kill
    with pytest.raises(Kill):
        run(connection, LONG)
    assert connection.closed
    observer.execute("SELECT pg_terminate_backend(%s)", [pid])


def test_a_cancel_that_came_too_early_is_sent_again(observer, waiting, connection):
    pid = connection.get_backend_pid()
    connection.canceller = TooEarly(connection.canceller)
    waiting.on_wait = kill
    with pytest.raises(Kill):
        run(connection, LONG)
    assert connection.canceller.attempts == 2
    assert not is_there(observer, pid, "active")


def test_a_second_kill_ends_the_wait_at_once(observer, waiting, connection, threads):
    pid = connection.get_backend_pid()

    def kill_twice(connection):
        waiting.on_wait = kill
        raise Kill

    connection.canceller = TooEarly(connection.canceller)
    waiting.on_wait = kill_twice
    with pytest.raises(Kill):
        run(connection, LONG)
    assert connection.closed
    # The cancel is delayed, so that the statement has begun by then.
    assert threads.join() == 1
    assert threads.slept == [greenlets._PATIENCE[0]]
    until(lambda: not is_there(observer, pid))


def test_a_callback_without_a_timeout_parameter_is_guarded_too(
    observer, waiting, postgres, database
):
    extensions.set_wait_callback(lambda connection: waiting(connection))
    connection = open_tracked(postgres.dsn(database))
    pid = connection.get_backend_pid()
    waiting.on_wait = kill
    with pytest.raises(Kill):
        run(connection, LONG)
    until(lambda: not is_there(observer, pid))


def test_an_error_of_the_connection_is_raised_unchanged(observer, waiting, connection):
    def terminate(connection):
        observer.execute("SELECT pg_terminate_backend(%s)", [pid])

    pid = connection.get_backend_pid()
    waiting.on_wait = terminate
    with pytest.raises(psycopg2.OperationalError, match="terminating connection"):
        run(connection, LONG)


def test_closing_a_connection_ends_the_wait_of_another_greenlet(
    observer, waiting, connection
):
    pid = connection.get_backend_pid()
    # psycopg2's own close() would never return here.
    waiting.on_wait = driver.close
    with pytest.raises(psycopg2.OperationalError):
        run(connection, LONG)
    until(lambda: not is_there(observer, pid))
    assert connection.closed


def test_a_close_cancels_again_what_the_server_had_not_begun(
    observer, waiting, connection
):
    pid = connection.get_backend_pid()
    connection.canceller = TooEarly(connection.canceller)
    waiting.on_wait = driver.close
    with pytest.raises(psycopg2.OperationalError):
        run(connection, LONG)
    until(lambda: not is_there(observer, pid))


def test_connecting_to_a_silent_server_ends_after_connect_timeout(waiting):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        dsn = f"host=127.0.0.1 port={port} connect_timeout=1"
        with pytest.raises(psycopg2.OperationalError, match="timeout expired") as held:
            open_tracked(dsn)
        # The socket is closed although the error's traceback has the connection.
        accepted, _ = silent.accept()
        with accepted:
            accepted.settimeout(5)
            while accepted.recv(1024):
                pass
        assert held.value.__traceback__ is not None


def test_a_callback_without_a_timeout_can_connect(waiting, postgres, database):
    extensions.set_wait_callback(lambda connection: waiting(connection))
    connection = open_tracked(postgres.dsn(database), connect_timeout=10)
    assert run(connection, "SELECT 1") == 1
    connection.close()


@pytest.mark.parametrize("seconds", ["0", "-1", "soon"])
def test_an_invalid_connect_timeout_sets_no_limit(waiting, postgres, database, seconds):
    dsn = extensions.make_dsn(postgres.dsn(database), connect_timeout=seconds)
    connection = open_tracked(dsn)
    assert run(connection, "SELECT 1") == 1
    connection.close()


def test_an_invalid_connection_string_is_refused_by_libpq(waiting):
    with pytest.raises(psycopg2.Error, match="connection string"):
        tracked_connection()("nonsense")


def test_an_untracked_connection_is_unguarded(waiting, connection, postgres, database):
    other = psycopg2.connect(postgres.dsn(database))
    assert type(extensions.get_wait_callback()) is greenlets._Guard
    assert run(other, "SELECT 1") == 1
    waiting.on_wait = kill
    with pytest.raises(Kill):
        run(other, "SELECT 1")
    other.close()


def test_the_callback_is_guarded_once(waiting, connection):
    guard = extensions.get_wait_callback()
    assert greenlets.guard_waits() is True
    assert extensions.get_wait_callback() is guard


def test_without_a_callback_no_guard_is_set():
    assert greenlets.guard_waits() is False
    assert extensions.get_wait_callback() is None


# --- Cancelling ----------------------------------------------------------------------


class Unresponsive:
    """A proxy that forwards one connection to a server and answers no other."""

    def __init__(self, address):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._ends = [socket.create_connection(address)]
        InThread(self._serve)

    def _serve(self):
        self._ends.append(self.listener.accept()[0])
        server, client = self._ends
        InThread(self._forward, server, client)
        self._forward(client, server)

    def _forward(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def close(self):
        for sock in [self.listener, *self._ends]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@pytest.fixture
def unresponsive(postgres):
    if postgres.host.startswith("/"):
        pytest.skip("the server named for this run listens on a Unix socket only")
    unresponsive = Unresponsive((postgres.host, postgres.port))
    yield unresponsive
    unresponsive.close()


def test_aborting_on_an_unresponsive_server_blocks_no_other_thread(
    unresponsive, postgres, database
):
    address = {"host": "127.0.0.1", "port": unresponsive.port, "sslmode": "disable"}
    connection = open_tracked(extensions.make_dsn(postgres.dsn(database), **address))
    holder = InThread(run, connection, LONG)
    until(
        lambda: (
            connection.get_transaction_status() == extensions.TRANSACTION_STATUS_ACTIVE
        )
    )
    # psycopg2's own cancel() would hold the GIL while it waits.
    driver.abort(connection, HoldTooLong("held too long"))
    unresponsive.listener.accept()[0].close()
    assert holder.is_alive()
    unresponsive.close()
    with pytest.raises(HoldTooLong):
        holder.result()
    connection.close()


def test_under_gevent_a_cancel_runs_in_a_native_thread(
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


def test_without_the_functions_of_libpq_psycopg2_cancels(
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


def test_a_cancel_is_skipped_if_no_thread_can_start(postgres, database, monkeypatch):
    def no_thread(*arguments):
        raise RuntimeError("can't start new thread")

    connection = open_tracked(postgres.dsn(database))
    monkeypatch.setattr("_thread.start_new_thread", no_thread)
    sockets.cancel(connection)
    monkeypatch.undo()
    assert run(connection, "SELECT 1") == 1
    connection.close()
