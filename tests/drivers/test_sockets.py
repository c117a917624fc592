"""Liveness, closing and shutting down, on sockets without a server."""

from __future__ import annotations

import select
import socket
from types import SimpleNamespace

import pytest

from dbpool_mw.drivers.postgresql import sockets
from dbpool_mw.drivers.postgresql.libpq import ACTIVE, IDLE
from dbpool_mw.drivers.postgresql.tracked import Tracked


class LibraryError(Exception):
    """What the database library raises."""


class Connection(Tracked):
    """The part of a library's connection that these functions use.

    ``error`` is raised by ``close()``, and by ``fileno()`` if it is the library's.
    """

    Error = LibraryError
    library_close = None  # the project's class closes in its own way

    def __init__(self, error=None):
        self.socket, self.server = socket.socketpair()
        self.error = error
        self.closed = 0
        self.status = IDLE
        self.read: list[bytes] = []
        self.failed_over = False

    def fileno(self):
        # Libraries raise if another thread has just closed the connection.
        if isinstance(self.error, LibraryError):
            raise self.error
        return self.socket.fileno()

    def get_transaction_status(self):
        return self.status

    def read_unasked(self):
        """Read what is there, a notice if it begins with N."""
        self.read.append(self.socket.recv(100))
        if self.read[-1].startswith(b"?"):
            raise LibraryError("lost synchronization")
        return self.read[-1].startswith(b"N")

    def look_for_failover(self):
        return self.failed_over

    def close(self):
        if self.error is not None:
            raise self.error
        self.closed = 1


@pytest.fixture
def connection():
    made = Connection()
    with made.socket, made.server:
        yield made


def test_a_connection_on_which_the_server_sent_nothing_is_alive(connection):
    alive = sockets.liveness(connection)
    assert alive() is True
    assert alive() is True


def test_a_connection_that_the_server_closed_is_dead(connection):
    alive = sockets.liveness(connection)
    connection.server.close()
    assert alive() is False


@pytest.fixture(params=["epoll", "poll"])
def alive(request, connection, monkeypatch):
    """Give the liveness of the connection, with epoll and without."""
    if request.param == "poll":
        monkeypatch.delattr(select, "epoll")
    return sockets.liveness(connection)


def test_a_connection_on_which_the_server_said_something_is_read_from_and_alive(
    alive, connection
):
    connection.server.send(b"S")
    assert [alive(), alive()] == [True, True]
    assert connection.read == [b"S"]


def test_a_notice_after_which_the_server_closes_is_a_farewell(alive, connection):
    connection.server.send(b"N")
    # It closes while the connection is looked at.
    read = connection.read_unasked
    connection.read_unasked = lambda: (read(), connection.server.close())
    assert alive() is False
    assert connection.read == [b"N"]


def test_a_server_that_says_something_and_closes_is_not_read_from(alive, connection):
    connection.server.send(b"S")
    connection.server.close()
    assert alive() is False
    assert connection.read == []


def test_what_libpq_cant_read_is_the_end(alive, connection):
    connection.server.send(b"?")
    assert alive() is False


def test_a_server_that_says_it_became_read_only_is_left(alive, connection):
    connection.server.send(b"S")
    connection.failed_over = True
    assert alive() is False


def test_a_server_that_never_stops_speaking_is_left(alive, connection):
    connection.server.send(b"S")
    read = connection.read_unasked
    connection.read_unasked = lambda: (read(), connection.server.send(b"S"))
    assert alive() is False


def test_a_connection_that_a_holder_got_meanwhile_is_not_read_from(alive, connection):
    connection.status = ACTIVE
    connection.server.send(b"D")
    assert alive() is True
    assert connection.read == []


def test_a_connection_is_looked_at_where_the_system_has_no_epoll(
    connection, monkeypatch
):
    monkeypatch.delattr(select, "epoll")
    alive = sockets.liveness(connection)
    assert alive() is True
    connection.server.close()
    assert alive() is False


def test_a_connection_that_this_process_closed_is_dead(connection):
    alive = sockets.liveness(connection)
    connection.close()
    connection.socket.close()
    assert alive() is False


def test_a_connection_closed_by_another_thread_is_dead_and_raises_nothing(connection):
    connection.error = LibraryError("connection already closed")
    assert sockets.liveness(connection)() is False


@pytest.mark.parametrize("error", [LibraryError("closed"), RuntimeError()])
def test_closing_raises_none_of_the_drivers_and_none_of_the_projects_errors(
    connection, error
):
    connection.error = error
    sockets.close(connection)


def test_an_interruption_of_a_close_is_raised(connection):
    connection.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        sockets.close(connection)


@pytest.mark.parametrize("status", range(5))
def test_only_a_running_statement_is_cancelled_before_a_close(connection, status):
    cancelled = []
    connection.status = status
    connection.canceller = SimpleNamespace(start=lambda: cancelled.append(status))
    connection.server.close()
    sockets.close(connection)
    assert cancelled == [status] * (status == ACTIVE)
    assert connection.closed


def test_a_socket_is_shut_down_only_under_its_own_number(connection):
    number = sockets.socket_number(connection)
    for other in (number - 1, number + 1, None):
        sockets.shut_down(connection, other)
    connection.server.send(b"x")
    assert connection.socket.recv(1) == b"x"
    sockets.shut_down(connection, number)
    assert connection.server.recv(1) == b""


class Clock:
    """A manual replacement of the module ``time``."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class EndingSocket:
    """A socket that receives data ``sends`` times, every half second, then the end.

    With None it receives nothing, and times out.
    """

    def __init__(self, clock, sends):
        self.clock, self.sends = clock, sends
        self.limits = []
        self.closed = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True

    def settimeout(self, seconds):
        self.limits.append(seconds)

    def recv(self, size):
        if self.sends is None:
            self.clock.now += self.limits[-1]
            raise TimeoutError
        self.clock.now += 0.5
        self.sends -= 1
        return b"x" if self.sends >= 0 else b""


def test_a_close_waits_two_seconds_for_all_backends_together(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(sockets, "time", clock)
    copies = [EndingSocket(clock, sends) for sends in (0, 1, None, 0)]
    sockets._wait_for_the_end(copies)
    assert [copy.limits for copy in copies] == [[2.0], [1.5, 1.0], [0.5], []]
    assert all(copy.closed for copy in copies)
