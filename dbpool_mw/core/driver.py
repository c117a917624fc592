"""Everything the pool knows of psycopg2 and of SQL.

A pooled connection is a ``TrackedConnection``: psycopg2's own, which also remembers
whether a statement may have changed its session. That is how the pool knows, without
asking the server, which sessions have to be reset before another request gets them.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import time
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any

import psycopg2
from psycopg2 import extensions, sql

from .cancel import Canceller
from .green import guard_waits, original

Connection = extensions.connection

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

# --- Noticing what a statement does to its session -----------------------------------

# What can stand between two words. Each of the three begins in its own way, so that a
# search never has two ways to read the same text.
_GAP = r"(?:\s|/\*(?:[^*]|\*(?!/))*\*/|--[^\r\n]*[\r\n])"
_TEMP = rf"(?:(?:LOCAL|GLOBAL){_GAP}+)?TEMP(?:ORARY)?\b"

# Statements whose effect outlives a transaction. SET LOCAL, SET CONSTRAINTS and SET
# TRANSACTION end with theirs. DO and CALL run code that the text does not show.
_SESSION_STATEMENT = (
    r"[\s(]*(?:SET\b(?!\s*(?:LOCAL|CONSTRAINTS|TRANSACTION)\b)|RESET\b|DISCARD\b"
    r"|LISTEN\b|UNLISTEN\b|PREPARE\b(?!\s*TRANSACTION\b)|DEALLOCATE\b|DECLARE\b"
    r"|LOAD\b|DO\b|CALL\b"
    # EXPLAIN ANALYZE does what it explains.
    rf"|(?:EXPLAIN\b[^;]*?\b)?CREATE{_GAP}+(?:OR{_GAP}+REPLACE{_GAP}+)?{_TEMP})"
)

# Where a statement can begin: at the start, after a semicolon, after a comment. Apart,
# because a search for one of a few characters is many times as fast.
_FIRST = re.compile(_SESSION_STATEMENT, re.IGNORECASE)
_LATER = re.compile(r"(?:;|\*/|--[^\r\n]*[\r\n])" + _SESSION_STATEMENT, re.IGNORECASE)

# What each of the following has in it, for a look at statements that have none.
_SIGNS = ("set_", "setseed", "dblink_", "pg_", "temp")

# The same from within a statement: functions, and the target of SELECT … INTO.
_SESSION_EXPRESSION = re.compile(
    r"\b(?:set_config|set_limit|setseed|dblink_connect\w*"
    r"|pg_(?:try_)?advisory_(?:un)?lock\w*|pg_replication_origin_session_(?:re)?set\w*"
    r"|pg_create_\w+_replication_slot|pg_temp(?:_\d+)?)\b"
    rf"|\bINTO{_GAP}+{_TEMP}",
    re.IGNORECASE,
)

# What DISCARD ALL leaves behind: such a session can't be made a fresh one again.
_LASTING = re.compile(
    r"\b(?:setseed|dblink_connect\w*|pg_replication_origin_session_setup)\b",
    re.IGNORECASE,
)

# Longer statements are judged anew each time, so that the cache stays small.
_CACHED_LENGTH = 2000


def _changes_session(statement: str) -> bool:
    if _FIRST.match(statement) or _LATER.search(statement):
        return True
    lower = statement.lower()
    return any(sign in lower for sign in _SIGNS) and bool(
        _SESSION_EXPRESSION.search(statement)
    )


_changes_session_cached = lru_cache(maxsize=2048)(_changes_session)


def changes_session(statement: str) -> bool:
    """Tell whether a statement's text may leave something behind in its session.

    It errs towards True, which costs a reset. What a function or a procedure does
    inside the server is not in the text and is not seen.
    """
    if len(statement) > _CACHED_LENGTH:
        return _changes_session(statement)
    return _changes_session_cached(statement)


class _TrackedCursor(extensions.cursor):
    """Tell the connection what a statement may do to its session."""

    connection: TrackedConnection
    #: The connection's ``lease`` when the cursor was opened.
    lease: int | None = None

    def execute(self, query: Any, vars: Any = None) -> None:
        self._run(super().execute, query, vars)
        if self.name is not None:
            connection = self.connection
            connection.suspect = True
            connection.open_cursors.add(self.name)

    def executemany(self, query: Any, vars_list: Any) -> None:
        self._run(super().executemany, query, vars_list)

    def callproc(self, procname: Any, parameters: Any = None) -> Any:
        more = [] if parameters is None else [parameters]
        return self._run(super().callproc, procname, *more)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        self._run(super().copy_expert, sql, file, size)

    def copy_from(self, file: Any, *args: Any, **kwargs: Any) -> None:
        self._run(partial(super().copy_from, **kwargs), file, *args)

    def copy_to(self, file: Any, *args: Any, **kwargs: Any) -> None:
        self._run(partial(super().copy_to, **kwargs), file, *args)

    def _run(self, method: Callable[..., Any], query: Any, *arguments: Any) -> Any:
        """Call psycopg2's own method, and note what it may do to the session.

        Unless the connection's holder is doomed, or the connection was given back since
        the cursor was opened: it may be another holder's by now.
        """
        connection = self.connection
        if connection.doom is not None:
            raise connection.doom.with_traceback(None)
        if self.lease != connection.lease and self.lease is not None:
            raise psycopg2.InterfaceError(
                "cursor used after its connection was given back to the pool"
            )
        text = _text(query, self)
        if changes_session(text):
            connection.touch_by(text)
        try:
            return method(query, *arguments)
        except psycopg2.Error as error:
            if connection.doom is not None:
                # It came while the statement ran, and ended it.
                raise connection.doom.with_traceback(None) from error
            raise

    def close(self) -> None:
        super().close()
        if self.name is not None:
            self.connection.open_cursors.discard(self.name)


def _text(query: Any, cursor: extensions.cursor) -> str:
    if isinstance(query, str):
        return query
    if isinstance(query, sql.Composable):
        return query.as_string(cursor)
    if isinstance(query, (bytes, bytearray)):
        return query.decode("utf-8", "replace")
    return ""  # psycopg2 refuses it


class TrackedConnection(Connection):
    """A psycopg2 connection that remembers whether its session was touched.

    ``touched`` says that the session must be reset; ``open_cursors`` holds the names of
    the named cursors that were opened and not closed. ``suspect`` says that either may
    be so: the one flag to look at while there is nothing to see. ``lasting`` names what
    a reset would leave behind. ``lease`` is counted up when a holder gives the
    connection back: cursors opened before are of no use any more. ``doom`` is the error
    that every statement raises from now on. ``marks``, ``containers`` and ``hooks`` are
    for whoever opened the connection.
    """

    #: Whether a greenlet waits for the server's answer, and for how many seconds at a
    #: time it may while it connects; and what cancels what it waits for.
    waits = False
    connect_seconds: int | None = None
    canceller: Canceller | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if guard_waits():
            self.connect_seconds = _connect_seconds(*args)
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            # Under a wait callback psycopg2 leaves that to the end of the object, which
            # the error's traceback keeps alive.
            self.close()
            raise
        self.connect_seconds = None
        with contextlib.suppress(OSError):
            self.canceller = Canceller(self.pgconn_ptr)
        self.suspect = False
        self.touched = False
        self.lasting: str | None = None
        self.lease = 0
        self.open_cursors: set[str] = set()
        self.doom: psycopg2.Error | None = None
        self.marks: dict[str, Any] = {}
        self.containers: dict[str, Any] = {}
        self.hooks: list[Any] = []

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Open a cursor of the class asked for, with tracking added to it."""
        if len(args) > 1:
            base, args = args[1], (args[0], *args[2:])
        else:
            base = kwargs.pop("cursor_factory", None)
        own: Any = self.cursor_factory  # None, whatever its stub says
        base = base or own or extensions.cursor
        if isinstance(base, type):
            kwargs["cursor_factory"] = _tracked_cursor(base)
            cursor = super().cursor(*args, **kwargs)
            cursor.lease = self.lease
            return cursor
        # A function can make any cursor: nothing it does would be noticed.
        self.touch()
        kwargs["cursor_factory"] = base
        return super().cursor(*args, **kwargs)

    def touch(self) -> None:
        """Note that the session may differ from a fresh one."""
        self.suspect = self.touched = True

    def touch_by(self, statement: str) -> None:
        """Note that a statement may have changed the session."""
        self.touch()
        found = _LASTING.search(statement)
        if found is not None:
            self.lasting = found[0]

    def reset(self) -> None:
        """Reset the session psycopg2's way, which forgets its time zone and role."""
        self.touch()
        super().reset()


def _connect_seconds(dsn: str = "", *args: object) -> int | None:
    """Give the ``connect_timeout`` of a connection string, if it is a limit."""
    try:
        seconds = int(extensions.parse_dsn(dsn).get("connect_timeout", 0))
    except (psycopg2.Error, ValueError):
        return None  # libpq will say so
    return seconds if seconds > 0 else None


def _touching(name: str) -> Any:
    """Make a method that notes a touch and does what psycopg2's own does."""

    def method(self: TrackedConnection, *args: Any, **kwargs: Any) -> Any:
        self.touch()
        return getattr(Connection, name)(self, *args, **kwargs)

    return method


def _touching_attribute(name: str) -> Any:
    """Make a property of psycopg2's attribute that notes a touch when it is set."""
    original: Any = getattr(Connection, name)

    def set_value(self: TrackedConnection, value: Any) -> None:
        self.touch()
        original.__set__(self, value)

    return property(original.__get__, set_value)


for _name in ("set_session", "set_isolation_level", "set_client_encoding"):
    setattr(TrackedConnection, _name, _touching(_name))
for _name in ("isolation_level", "readonly", "deferrable", "cursor_factory"):
    setattr(TrackedConnection, _name, _touching_attribute(_name))


# Bounded: django-prometheus makes a cursor class for each connection it opens.
@lru_cache(maxsize=256)
def _tracked_cursor(base: Any) -> Any:
    return _mixed(_TrackedCursor, base)


@lru_cache(maxsize=64)
def tracked_connection(base: Any = None) -> Any:
    """Give the connection factory to pass to ``psycopg2.connect``.

    ``base`` is the factory that would be used without the pool, if there is one. Raises
    TypeError if it is no class: only what a class makes can be given a memory.
    """
    if base is not None and not isinstance(base, type):
        raise TypeError(f"connection_factory must be a class, not {base!r}")
    return _mixed(TrackedConnection, base or Connection)


def _mixed(tracked: type, base: type) -> type:
    if issubclass(base, tracked):
        return base
    if issubclass(tracked, base):
        return tracked
    return type(base.__name__, (tracked, base), {"__module__": base.__module__})


# --- One physical connection ---------------------------------------------------------

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
    poller.register(descriptor, select.POLLIN | select.POLLHUP | select.POLLERR)
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
