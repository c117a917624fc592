"""psycopg2 connections that remember whether their sessions were changed.

Every pooled connection is a ``TrackedConnection``. It looks at the text of each
statement, so that the pool knows without a round trip which sessions have to be reset
before another request gets them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import psycopg2
from psycopg2 import extensions, sql

from dbpool_mw.drivers.postgresql.statements import effect

from .cancel import Canceller
from .greenlets import guard_waits

Connection = extensions.connection


class _TrackedCursor(extensions.cursor):
    """A cursor that tells its connection what each statement may do to the session."""

    connection: TrackedConnection
    #: The connection's ``lease`` when the cursor was opened.
    lease: int | None = None

    def execute(self, query: Any, vars: Any = None) -> None:
        self._run(super().execute, query, vars)
        if self.name is not None:
            connection = self.connection
            connection.maybe_dirty = True
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
        """Call psycopg2's own method, and record what it may do to the session.

        Raises the error that the connection was aborted with, and InterfaceError for a
        cursor from before the connection's last checkin: another holder may have the
        connection.
        """
        connection = self.connection
        if connection.aborted is not None:
            raise connection.aborted.with_traceback(None)
        if self.lease != connection.lease and self.lease is not None:
            raise psycopg2.InterfaceError(
                "cursor used after its connection was given back to the pool"
            )
        text = _text(query, self)
        found = effect(text)
        if found.dirty:
            connection.mark_dirty(found.not_resettable)
        try:
            return method(query, *arguments)
        except psycopg2.Error as error:
            if connection.aborted is not None:
                # The abort came while the statement ran, and ended it.
                raise connection.aborted.with_traceback(None) from error
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
    return ""  # psycopg2 raises TypeError


def _marking_attribute(name: str) -> Any:
    """Return a property for an attribute of psycopg2's that marks dirty when set."""
    original: Any = getattr(Connection, name)

    def set_value(self: TrackedConnection, value: Any) -> None:
        self.mark_dirty()
        original.__set__(self, value)

    return property(original.__get__, set_value)


class TrackedConnection(Connection):
    """A psycopg2 connection that remembers whether its session was changed.

    - ``dirty``: the session must be reset.
    - ``open_cursors``: names of the named cursors that were opened and not closed.
    - ``maybe_dirty``: either of the two may be so; the one flag that a checkin reads
      for a clean session.
    - ``not_resettable``: the function, called by a statement, that a reset can't undo.
    - ``lease``: grows with each checkin. A cursor of an earlier lease is refused.
    - ``aborted``: the error that every statement raises from now on, or None.
    - ``waits``: a greenlet is waiting for the server's answer.
    - ``connect_seconds``: how long each wait may take while connecting; None: no limit.
    - ``canceller``: cancels a statement without blocking; None where it can't be had.
    """

    waits = False
    connect_seconds: int | None = None
    canceller: Canceller | None = None

    isolation_level = _marking_attribute("isolation_level")
    readonly = _marking_attribute("readonly")
    deferrable = _marking_attribute("deferrable")
    cursor_factory = _marking_attribute("cursor_factory")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if guard_waits():
            self.connect_seconds = _connect_seconds(*args)
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            # Under a wait callback psycopg2 closes the socket when the object is freed,
            # and the error's traceback keeps the object alive.
            self.close()
            raise
        self.connect_seconds = None
        with contextlib.suppress(OSError):
            self.canceller = Canceller(self.pgconn_ptr)
        self.maybe_dirty = False
        self.dirty = False
        self.not_resettable: str | None = None
        self.lease = 0
        self.open_cursors: set[str] = set()
        self.aborted: Exception | None = None

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Open a cursor of the class asked for, with tracking mixed in."""
        given = args[1] if len(args) > 1 else kwargs.get("cursor_factory")
        # The stub says that it is never None, and it is until somebody sets it.
        default: Any = self.cursor_factory
        factory = given or default or extensions.cursor
        is_class = isinstance(factory, type)
        if is_class:
            factory = _tracked_cursor(factory)
        else:
            # A function can make any cursor, and what that one executes isn't tracked.
            self.mark_dirty()
        if len(args) > 1:
            args = (args[0], factory, *args[2:])
        else:
            kwargs["cursor_factory"] = factory
        cursor = super().cursor(*args, **kwargs)
        if is_class:
            cursor.lease = self.lease
        return cursor

    def mark_dirty(self, not_resettable: str | None = None) -> None:
        """Record that the session may differ, and the function no reset undoes."""
        self.maybe_dirty = self.dirty = True
        self.not_resettable = not_resettable or self.not_resettable

    # psycopg2's own ways to change a session, besides statements. autocommit is not
    # among them: a checkin compares it, because Django sets it all the time.

    def reset(self) -> None:
        """Reset the session psycopg2's way, which forgets its time zone and role."""
        self.mark_dirty()
        super().reset()

    def set_session(self, *args: Any, **kwargs: Any) -> None:
        """Set session characteristics, and mark the session as dirty."""
        self.mark_dirty()
        super().set_session(*args, **kwargs)

    def set_isolation_level(self, *args: Any, **kwargs: Any) -> None:
        """Set the isolation level, and mark the session as dirty."""
        self.mark_dirty()
        super().set_isolation_level(*args, **kwargs)

    def set_client_encoding(self, *args: Any, **kwargs: Any) -> None:
        """Set the client encoding, and mark the session as dirty."""
        self.mark_dirty()
        super().set_client_encoding(*args, **kwargs)


def _connect_seconds(dsn: str = "", *args: object) -> int | None:
    """Return the ``connect_timeout`` of a connection string, None for no limit."""
    try:
        seconds = int(extensions.parse_dsn(dsn).get("connect_timeout", 0))
    except (psycopg2.Error, ValueError):
        return None  # libpq raises the error
    return seconds if seconds > 0 else None


# Bounded: django-prometheus makes a cursor class for each connection it opens.
@lru_cache(maxsize=256)
def _tracked_cursor(base: Any) -> Any:
    return _mixed(_TrackedCursor, base)


@lru_cache(maxsize=64)
def tracked_connection(base: Any = None) -> Any:
    """Return the connection factory to pass to ``psycopg2.connect``.

    ``base`` is the factory that would be used without the pool, if there is one. Raises
    TypeError if ``base`` is no class: tracking is mixed in by inheritance.
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
