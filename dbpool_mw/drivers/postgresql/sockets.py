"""What is done to the socket of a connection of libpq's: poll, close, shut down.

Connections are ``Tracked`` ones, or a tracer's proxies of them.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from dbpool_mw.core.errors import HoldEnded
from dbpool_mw.core.logs import get_logger

from .libpq import ACTIVE, IDLE
from .original import original
from .tracked import Tracked

logger = get_logger("dbpool_mw.pool")

#: Seconds that a close waits for the end of its backend.
_BACKEND_END = 2.0

#: Milliseconds that a connection is given to end after a notice.
_FAREWELL = 100

#: How often an idle connection is read from at most, until nothing is left.
_MOST_READS = 10

#: What poll reports when the other side has ended the stream; Linux has it.
_END_OF_STREAM = getattr(select, "POLLRDHUP", 0)

#: Bytes to read at once.
_CHUNK = 64 * 1024

#: Seconds after which what another thread or greenlet waits for is cancelled again.
_SECOND_CANCEL = 0.3


def liveness(connection: Any) -> Callable[[], bool]:
    """Return a function that tells whether an idle connection is still alive.

    The function polls the socket without waiting, and makes no round trip. If anything
    can be read, it is the end of the stream, or something that the server said unasked:
    see ``_reads_the_end``. It is for the thread to which the connection belongs.

    Where there is epoll, it is used: it costs a descriptor for each connection, and a
    checkout two thirds of the time that poll takes.
    """
    try:
        descriptor = connection.fileno()
    except connection.Error:
        # Closed, perhaps by another thread at this moment.
        return lambda: False
    # gevent's would switch to other greenlets.
    try:
        poller = original("select", "epoll")()
    except AttributeError:  # not on this system
        poller = original("select", "poll")()
    # The end of a socket and its errors are reported whatever is asked for.
    poller.register(descriptor, select.POLLIN | _END_OF_STREAM)
    poll = poller.poll
    # epoll says nothing of a socket that this process has closed.
    return lambda: not ((poll(0) and _reads_the_end(connection)) or connection.closed)


def has_ended(connection: Any) -> bool:
    """Tell whether a connection is closed, at either side; reads nothing of it."""
    poller = original("select", "poll")()
    try:
        poller.register(connection.fileno(), _END_OF_STREAM)
        return bool(poller.poll(0)) or bool(connection.closed)
    except connection.Error:
        return True


def _reads_the_end(connection: Any) -> bool:
    """Tell whether an idle connection ended; libpq reads what the server said to it.

    A server, or a TLS proxy before it, may say something and go on: a setting changed,
    a notice, a session ticket. A backend that ends says why, as a notice to libpq, and
    closes its socket a moment later: that moment is waited for.
    """
    poller = original("select", "poll")()
    wait = 0
    try:
        poller.register(connection.fileno(), select.POLLIN | _END_OF_STREAM)
        for _ in range(_MOST_READS):
            events = poller.poll(wait)
            if not events:
                return bool(connection.look_for_failover())
            if events[0][1] != select.POLLIN:
                return True
            if connection.get_transaction_status() != IDLE:
                return False
            wait = _FAREWELL if connection.read_unasked() else 0
    except connection.Error:
        pass
    return True


def socket_number(connection: Any) -> int | None:
    """Return a number that no other socket open now has, None if closed."""
    try:
        return os.fstat(connection.fileno()).st_ino
    except (connection.Error, OSError):
        return None


def close(*connections: Any) -> None:
    """Close connections, whatever their state, and wait until their backends ended.

    The slots they free may be filled at once, and the server must have room then. So
    this waits, at most two seconds for all of them, until PostgreSQL closes its side,
    which a backend does last (``socket_close()`` in PostgreSQL's ``pqcomm.c`` leaves
    the socket open until the process ends, for clients that want to know). Every
    connection is closed even if this is interrupted. Never raises an Exception.
    """
    copies: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        stack.callback(_wait_for_the_end, copies)
        for connection in connections:
            stack.callback(_close, connection, copies)


def _close(connection: Any, copies: list[socket.socket]) -> None:
    """Close a connection, and append a copy of its socket, on which its end shows."""
    if not isinstance(connection, Tracked):
        with contextlib.suppress(Exception):
            connection.close()
        return
    if connection.waits:
        # With its socket shut down, the one that waits gets an error, and the library
        # closes the connection.
        cancel_twice(connection)
        shut_down(connection, socket_number(connection))
        return
    try:
        with contextlib.suppress(connection.Error, OSError):
            copies.append(_copy_of_socket(connection))
            if connection.get_transaction_status() == ACTIVE:
                # The server would run the statement to its end before it sees the
                # close.
                cancel(connection)
    finally:
        # A connection class of the project's may raise anything, the library's nothing.
        # A tracer's proxy has no such attribute.
        close = getattr(type(connection), "close", None)
        is_librarys = close is connection.library_close
        with contextlib.suppress(connection.Error if is_librarys else Exception):
            connection.close()


def _copy_of_socket(connection: Any) -> socket.socket:
    # A copy: another thread may close the descriptor, whose number is then used anew.
    return socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)


def _wait_for_the_end(copies: Iterable[socket.socket]) -> None:
    """Wait until the server has closed its sides, and close the copies."""
    deadline = time.monotonic() + _BACKEND_END
    with contextlib.ExitStack() as stack:
        for copy in copies:
            stack.enter_context(copy)
        for copy in copies:
            with contextlib.suppress(OSError):
                ended = False
                while not ended and (left := deadline - time.monotonic()) > 0:
                    copy.settimeout(left)
                    ended = not copy.recv(_CHUNK)


def abort(connection: Tracked, error: HoldEnded) -> None:
    """Cancel what a holder runs, and have its later statements raise ``error``.

    They raise it as an error of the library's. Called from another thread than the
    holder's. Doesn't wait for the server. Never raises an error of the library's.
    """
    connection.aborted = connection.errors_of_holds[type(error)](*error.args)
    cancel_twice(connection)


def cancel(connection: Tracked) -> None:
    """Ask the server to end what a connection runs; raise no error of the library's."""
    if connection.canceller is not None:
        connection.canceller.start()
        return
    with contextlib.suppress(connection.Error):
        connection.cancel()


def cancel_twice(connection: Tracked) -> None:
    """Cancel what a connection runs, and do so again a moment later.

    A cancel that comes before the server began with a statement has no effect.
    """
    cancel(connection)
    if connection.canceller is not None:
        connection.canceller.start(_SECOND_CANCEL)


def shut_down(connection: Any, socket_number: int | None) -> None:
    """Shut down a connection's socket, so that a thread waiting for its answer goes on.

    Called from another thread, while the server or the network doesn't respond.
    ``socket_number`` is the connection's: if the descriptor has become another socket's
    meanwhile, nothing is done. Logs that a cancel had no effect, if one was to end what
    the connection runs. Never raises.
    """
    aborted = getattr(connection, "aborted", None)
    runs = connection.get_transaction_status() == ACTIVE
    with (
        contextlib.suppress(connection.Error, OSError),
        _copy_of_socket(connection) as copy,
    ):
        if os.fstat(copy.fileno()).st_ino == socket_number:
            copy.shutdown(socket.SHUT_RDWR)
            if aborted is not None and runs:
                canceller = connection.canceller
                logger.warning(
                    "%s; the cancel had no effect (%s): its connection is shut down, "
                    "and the server may run the statement to its end",
                    aborted,
                    (canceller and canceller.refused) or "the request was sent",
                )
