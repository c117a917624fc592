"""psycopg2 connections that remember what their holders did.

A pooled connection is a ``TrackedConnection``: psycopg2's own, which also remembers
whether a statement may have changed its session. That is how the pool knows, without
asking the server, which sessions have to be reset before another request gets them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import psycopg2
from psycopg2 import extensions, sql

from dbpool_mw.drivers.postgresql.statements import changes_session, lasting

from .cancel import Canceller
from .greenlets import guard_waits

Connection = extensions.connection


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
        given = args[1] if len(args) > 1 else kwargs.get("cursor_factory")
        own: Any = self.cursor_factory  # None, whatever its stub says
        factory = given or own or extensions.cursor
        is_class = isinstance(factory, type)
        if is_class:
            factory = _tracked_cursor(factory)
        else:
            # A function can make any cursor: nothing it does would be noticed.
            self.touch()
        if len(args) > 1:
            args = (args[0], factory, *args[2:])
        else:
            kwargs["cursor_factory"] = factory
        cursor = super().cursor(*args, **kwargs)
        if is_class:
            cursor.lease = self.lease
        return cursor

    def touch(self) -> None:
        """Note that the session may differ from a fresh one."""
        self.suspect = self.touched = True

    def touch_by(self, statement: str) -> None:
        """Note that a statement may have changed the session."""
        self.touch()
        self.lasting = lasting(statement) or self.lasting

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
