"""Everything the pool does to one physical connection, in psycopg2 and in SQL."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

import psycopg2
from psycopg2 import extensions

from .connection import TrackedConnection
from .greenlets import original

Connection = extensions.connection
OperationalError = psycopg2.OperationalError

#: What libpq says of a connection that is neither in a transaction nor busy.
_IDLE = extensions.TRANSACTION_STATUS_IDLE
_BUSY = extensions.TRANSACTION_STATUS_ACTIVE
_UNKNOWN = extensions.TRANSACTION_STATUS_UNKNOWN

#: What libpq is told of a network that may go deaf, unless the project says otherwise:
#: seconds, the last in milliseconds. Without them, connecting to a host that doesn't
#: answer takes minutes, and a connection to one that is gone is waited on for hours.
NETWORK_LIMITS = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}

#: Seconds that a close waits for the end of its backend, and bytes to read at once.
_BACKEND_END, _CHUNK = 2.0, 64 * 1024

Character = tuple[object, ...]


def character(connection: Connection) -> Character:
    """Give what psycopg2's own attributes say of a session; no round trip."""
    return (
        connection.autocommit,
        connection.isolation_level,
        connection.readonly,
        connection.deferrable,
        connection.cursor_factory,
    )


def is_clean(connection: Any, origin: Character) -> bool:
    """Tell whether a connection can go to another holder just as it is.

    Reads libpq's and psycopg2's own memory: no round trip, so that it may be called
    under a lock. ``origin`` is the connection's character when it was opened.
    """
    return (
        connection.get_transaction_status() == _IDLE
        and not connection.suspect
        and connection.autocommit == origin[0]
    )


def why_unusable(connection: Any) -> str | None:
    """Give the reason why a connection can't be cleaned at all, or None if it can."""
    if connection.closed:
        return "closed"
    status = connection.get_transaction_status()
    if status == _BUSY:
        return "busy"
    if status == _UNKNOWN:
        return "dead"
    if connection.open_cursors:
        # Whoever still has the cursor object would close it in the next one's session.
        return "cursor left open"
    return None


def roll_back(connection: Connection) -> bool:
    """End an open transaction; tell whether there was one.

    A round trip if there was. Raises psycopg2.Error when the connection is broken.
    """
    # psycopg2 sends nothing for a transaction that it did not begin itself, as with
    # BEGIN by SQL in autocommit.
    if connection.get_transaction_status() == _IDLE:
        connection.rollback()
        return False
    connection.rollback()
    if connection.get_transaction_status() != _IDLE:
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")
    return True


def is_touched(connection: Any) -> bool:
    """Tell whether the session has to be reset before another holder gets it."""
    return bool(connection.touched)


def forget_session(connection: Any, origin: Character) -> None:
    """Throw away everything that was set in the session; not in a transaction.

    One round trip, and one more for each session characteristic that was changed or
    that ``origin`` sets. What Django and the application set up when the connection
    was opened is gone as well: the caller has to do it again. Raises psycopg2.Error
    when the connection is broken, or holds what can't be thrown away.
    """
    if connection.lasting is not None:
        raise psycopg2.NotSupportedError(
            f"DISCARD ALL does not undo {connection.lasting}"
        )
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("DISCARD ALL")
    # psycopg2 keeps its own copy of the characteristics and sends them with BEGIN, or
    # as defaults of the session when autocommit is switched on.
    connection.autocommit = False
    connection.isolation_level, connection.readonly, connection.deferrable = origin[1:4]
    connection.cursor_factory = origin[4]
    connection.autocommit = origin[0]
    connection.notifies.clear()
    settle(connection)


def settle(connection: Any) -> None:
    """Take the session as it is now for one that nobody touched."""
    connection.notices.clear()
    connection.suspect = connection.touched = False


def keep(connection: Connection) -> None:
    """Take the session as it was just set up for one that nobody touched.

    A round trip where autocommit is off and the set-up left a transaction open: the
    rollback of the first holder would undo it for all others.
    """
    if connection.get_transaction_status() == extensions.TRANSACTION_STATUS_INTRANS:
        connection.commit()
    settle(connection)


def accept(connection: Any, origin: Character) -> None:
    """Take a session as it is, less autocommit, which is put back; no round trip.

    Not in a transaction. For a session found untouched, or cleaned by somebody else.
    """
    connection.autocommit = origin[0]
    settle(connection)


def ping(connection: Connection) -> bool:
    """Ask the server for an answer: one round trip. Never raises a psycopg2 error."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if not connection.autocommit:
            connection.rollback()
    except psycopg2.Error:
        return False
    return True


def liveness(connection: Connection) -> Callable[[], bool]:
    """Give a function that tells whether an idle connection is still alive.

    It looks at the socket with a zero-time poll: what can be read on an idle connection
    is the server's farewell, or its end. No round trip. The function is for one thread
    at a time: Python refuses a poll while the same one runs elsewhere.
    """
    try:
        descriptor = connection.fileno()
    except psycopg2.Error:
        # Closed, perhaps by another thread at this moment.
        return lambda: False
    # gevent's switches to other greenlets, which a look of no time needn't.
    poller = original("select", "poll")()
    # An end or an error of the socket is told of whatever is asked for.
    poller.register(descriptor, select.POLLIN)
    poll = poller.poll
    return lambda: not poll(0)


def close(*connections: Any) -> None:
    """Close connections, whatever their state, and see their backends end.

    When a place is free, the server must have one too. So this waits, at most two
    seconds for all, until PostgreSQL closes its side: it leaves that to the end of the
    process, for those who want to know (``socket_close()`` in its ``pqcomm.c``). Each
    is closed even if this is interrupted. Never raises an Exception.
    """
    copies: list[socket.socket] = []
    with contextlib.ExitStack() as last:
        last.callback(_read_to_the_end, copies)
        for connection in connections:
            last.callback(_close, connection, copies)


def _close(connection: Any, copies: list[socket.socket]) -> None:
    """Close a connection, and add a copy of its socket, where its end can be seen."""
    if getattr(connection, "waits", False):
        # A greenlet waits for its answer: psycopg2 would wait for the greenlet, and
        # nothing else would run. So it gets an error there, and psycopg2 closes it.
        cancel(connection)
        sever(connection, socket_of(connection))
        return
    # A connection class of others may raise anything.
    with contextlib.suppress(Exception):
        copies.append(_copy_of_socket(connection))
        if connection.get_transaction_status() == _BUSY:
            # The server would go on to its end before it hears of the close.
            cancel(connection)
    with contextlib.suppress(Exception):
        connection.close()


def _copy_of_socket(connection: Connection) -> socket.socket:
    # A copy: the descriptor may be closed, and become another's, at any moment.
    return socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)


def _read_to_the_end(copies: Iterable[socket.socket]) -> None:
    """Wait until the other sides have closed, and let go of the sockets."""
    give_up = time.monotonic() + _BACKEND_END
    with contextlib.ExitStack() as stack:
        for copy in copies:
            stack.enter_context(copy)
        for copy in copies:
            with contextlib.suppress(OSError):
                ended = False
                while not ended and (left := give_up - time.monotonic()) > 0:
                    copy.settimeout(left)
                    ended = not copy.recv(_CHUNK)


def doom(connection: TrackedConnection, error: psycopg2.Error) -> None:
    """Cancel what a connection's holder runs, and have each later statement fail.

    For another thread than the holder's. It doesn't wait for the server. Never raises a
    psycopg2 error.
    """
    connection.doom = error
    cancel(connection)


def cancel(connection: TrackedConnection) -> None:
    """Ask the server to end what a connection runs. Never raises a psycopg2 error."""
    if connection.canceller is not None:
        connection.canceller.start()
        return
    with contextlib.suppress(psycopg2.Error):
        connection.cancel()


def socket_of(connection: Connection) -> int | None:
    """Give a number that tells a connection's socket from every other open now."""
    try:
        return os.fstat(connection.fileno()).st_ino
    except (psycopg2.Error, OSError):
        return None


def sever(connection: Connection, socket_number: int | None) -> None:
    """Shut a connection's socket down, so that whoever waits for its answer goes on.

    For another thread than the one that waits, while the network or the server is deaf.
    Never raises.
    """
    with (
        contextlib.suppress(psycopg2.Error, OSError),
        _copy_of_socket(connection) as copy,
    ):
        if os.fstat(copy.fileno()).st_ino == socket_number:
            copy.shutdown(socket.SHUT_RDWR)


def backend_pid(connection: Connection) -> int | None:
    """Give the server's process id for a connection; no round trip."""
    try:
        return connection.get_backend_pid()
    except psycopg2.Error:
        return None
