"""psycopg2 connections that remember whether their sessions were changed.

Every pooled connection is a ``TrackedConnection``. It looks at the text of each
statement, so that the pool knows without a round trip which sessions have to be reset
before another request gets them.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import Any

import psycopg2
from psycopg2 import extensions

from .cancel import Canceller
from .cursor import mixed, tracked_cursor
from .greenlets import guard_waits

Connection = extensions.connection


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
    notices = _marking_attribute("notices")
    notifies = _marking_attribute("notifies")

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
            factory = tracked_cursor(factory)
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

    def commit(self) -> None:
        """Commit, unless the holder has lost the connection: see ``aborted``."""
        self._refuse_if_aborted()
        super().commit()

    def tpc_prepare(self) -> None:
        """Prepare a two-phase transaction, unless the holder lost the connection."""
        self._refuse_if_aborted()
        super().tpc_prepare()

    def tpc_commit(self, *args: Any) -> None:
        """Commit a two-phase transaction, unless the holder lost the connection."""
        self._refuse_if_aborted()
        super().tpc_commit(*args)

    def _refuse_if_aborted(self) -> None:
        if self.aborted is not None:
            raise self.aborted.with_traceback(None)

    # psycopg2's own ways to change a session, besides statements. autocommit is not
    # among them: a checkin compares it, because Django sets it all the time.

    def reset(self) -> None:
        """Reset the session psycopg2's way, which forgets its time zone and role."""
        self.mark_dirty()
        super().reset()

    def tpc_begin(self, *args: Any, **kwargs: Any) -> None:
        """Begin a two-phase transaction, and mark the session as dirty."""
        self.mark_dirty()
        super().tpc_begin(*args, **kwargs)

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


@lru_cache(maxsize=64)
def tracked_connection(base: Any = None) -> Any:
    """Return the connection factory to pass to ``psycopg2.connect``.

    ``base`` is the factory that would be used without the pool, if there is one. Raises
    TypeError if ``base`` is no class: tracking is mixed in by inheritance.
    """
    if base is not None and not isinstance(base, type):
        raise TypeError(f"connection_factory must be a class, not {base!r}")
    return mixed(TrackedConnection, base or Connection)
