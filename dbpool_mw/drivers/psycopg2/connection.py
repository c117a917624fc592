"""psycopg2 connections that remember whether their sessions were changed.

Every pooled connection is a ``TrackedConnection``. Its statements are judged by their
texts (see ``tracking``), so that the pool knows without a round trip which sessions
have to be reset before another request gets them.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import psycopg2
from psycopg2 import extensions

from dbpool_mw.core.errors import HoldCancelled, HoldTooLong
from dbpool_mw.drivers.postgresql.tracked import Tracked

from .cancel import Canceller
from .cursor import TrackedCursor, mixed, tracked_cursor
from .greenlets import guard_waits

Connection = extensions.connection


def _marking_attribute(name: str) -> Any:
    """Return a property for an attribute of psycopg2's that marks dirty when set."""
    original: Any = getattr(Connection, name)

    def set_value(self: TrackedConnection, value: Any) -> None:
        self.mark_dirty(statement=f"connection.{name} = ...")
        original.__set__(self, value)

    return property(original.__get__, set_value)


class _HoldTooLong(HoldTooLong, extensions.QueryCanceledError):
    """What an overdue holder's statements raise: to Django, a driver's error."""


class _HoldCancelled(HoldCancelled, extensions.QueryCanceledError):
    """What a cancelled holder's statements raise: to Django, a driver's error."""


class TrackedConnection(Tracked, Connection):
    """A psycopg2 connection that remembers whether its session was changed.

    ``waits``: a greenlet waits for the server's answer. psycopg2's ``close()`` in
    another one would wait for it, and it could not run: both would wait for ever.

    ``connect_seconds``: how long each wait may take while connecting; None: no limit.
    """

    library_close = staticmethod(Connection.close)
    errors_of_holds = MappingProxyType(
        {HoldTooLong: _HoldTooLong, HoldCancelled: _HoldCancelled}
    )

    connect_seconds: int | None = None

    isolation_level = _marking_attribute("isolation_level")
    readonly = _marking_attribute("readonly")
    deferrable = _marking_attribute("deferrable")
    cursor_factory = _marking_attribute("cursor_factory")
    notices = _marking_attribute("notices")
    notifies = _marking_attribute("notifies")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.begin_tracking()
        if guard_waits():
            self.connect_seconds = _connect_seconds(*args)
        try:
            super().__init__(*args, **kwargs)
            self.connect_seconds = None
            with contextlib.suppress(OSError):
                self.canceller = Canceller(self.pgconn_ptr)
        except BaseException:
            # psycopg2 closes the socket when the object is freed, and the traceback of
            # the exception keeps the object alive.
            self.close()
            raise

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Open a cursor of the class asked for, with tracking mixed in."""
        name = args[0] if args else kwargs.get("name")
        given = args[1] if len(args) > 1 else kwargs.get("cursor_factory")
        # The stub says that it is never None, and it is until somebody sets it.
        default: Any = self.cursor_factory
        factory = given or default or extensions.cursor
        if isinstance(factory, type):
            factory = tracked_cursor(factory, name is not None)
        if len(args) > 1:
            args = (args[0], factory, *args[2:])
        else:
            kwargs["cursor_factory"] = factory
        cursor = super().cursor(*args, **kwargs)
        if isinstance(cursor, extensions.cursor):
            self.set_lease(cursor)
            # A function can make any cursor.
            if cursor.name is not None and not isinstance(cursor, TrackedCursor):
                self.add_open_cursor(cursor.name)
        return cursor

    def read_unasked(self) -> bool:
        """Read what the server said to an idle connection; return whether a notice."""
        self.poll()
        has_notice = bool(self.notices)
        self.notices.clear()
        self.notifies.clear()
        return has_notice

    def commit(self) -> None:
        """Commit, unless the holder has lost the connection: see ``aborted``."""
        self.refuse_if_aborted()
        super().commit()

    def tpc_prepare(self) -> None:
        """Prepare a two-phase transaction, unless the holder lost the connection."""
        self.refuse_if_aborted()
        super().tpc_prepare()

    def tpc_commit(self, *args: Any) -> None:
        """Commit a two-phase transaction, unless the holder lost the connection."""
        self.refuse_if_aborted()
        super().tpc_commit(*args)

    # psycopg2's own ways to change a session, besides statements. autocommit is not
    # among them: a checkin compares it, because Django sets it all the time.

    def reset(self) -> None:
        """Reset the session psycopg2's way, which forgets its time zone and role."""
        self.mark_dirty(statement="connection.reset()")
        super().reset()

    def tpc_begin(self, *args: Any, **kwargs: Any) -> None:
        """Begin a two-phase transaction, and mark the session as dirty."""
        self.mark_dirty(statement="connection.tpc_begin()")
        super().tpc_begin(*args, **kwargs)

    def set_session(self, *args: Any, **kwargs: Any) -> None:
        """Set session characteristics, and mark the session as dirty."""
        self.mark_dirty(statement="connection.set_session()")
        super().set_session(*args, **kwargs)

    def set_isolation_level(self, *args: Any, **kwargs: Any) -> None:
        """Set the isolation level, and mark the session as dirty."""
        self.mark_dirty(statement="connection.set_isolation_level()")
        super().set_isolation_level(*args, **kwargs)

    def set_client_encoding(self, *args: Any, **kwargs: Any) -> None:
        """Set the client encoding, and mark the session as dirty."""
        self.mark_dirty(statement="connection.set_client_encoding()")
        super().set_client_encoding(*args, **kwargs)


class _Connection(TrackedConnection):
    """A ``TrackedConnection`` that has its ``statement`` in a slot.

    Each statement sets it twice. To set any other attribute of psycopg2's connections
    takes eight times as long.
    """

    __slots__ = ("statement",)


def _connect_seconds(dsn: str = "", *args: object) -> int | None:
    """Return the ``connect_timeout`` of a connection string, None for no limit."""
    try:
        seconds = int(extensions.parse_dsn(dsn).get("connect_timeout", 0))
    except (psycopg2.Error, ValueError):
        return None  # libpq raises the error
    return seconds if seconds > 0 else None


@lru_cache(maxsize=64)
def tracked_connection(base: Any = None) -> Any:
    """Return the connection factory to pass to ``psycopg2.connect``.

    ``base`` is the factory that would be used without the pool, if there is one. Raises
    TypeError if ``base`` is no class: tracking is mixed in by inheritance.
    """
    if base is not None and not isinstance(base, type):
        raise TypeError(f"connection_factory must be a class, not {base!r}")
    try:
        return mixed(_Connection, base or Connection)
    except TypeError:  # it has slots of its own
        return mixed(TrackedConnection, base or Connection)
