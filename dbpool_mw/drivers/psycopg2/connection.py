"""psycopg2 connections that remember whether their sessions were changed.

Every pooled connection is a ``TrackedConnection``. Its statements are judged by their
texts (see ``tracking``), so that the pool knows without a round trip which sessions
have to be reset before another request gets them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import psycopg2
from psycopg2 import extensions

from dbpool_mw.core.text import REQUEST, one_line
from dbpool_mw.drivers.postgresql import failover

from .cancel import Canceller
from .cursor import TrackedCursor, mixed, tracked_cursor
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
    - ``not_resettable``: what a reset can't undo, and the statement that did it.
    - ``login_triggers``: names of the event triggers that ran at the login, or None.
    - ``lease``: grows with each checkin. A cursor of an earlier lease is refused.
    - ``aborted``: the error that every statement raises from now on, or None.
    - ``waits``: a greenlet is waiting for the server's answer.
    - ``connect_seconds``: how long each wait may take while connecting; None: no limit.
    - ``canceller``: cancels a statement without blocking; None where it can't be had.
    - ``on_failover``: see the driver's function; None until that is called.
    - ``opened_writable``: whether the server took writes when that was called.
    """

    waits = False
    connect_seconds: int | None = None
    canceller: Canceller | None = None
    on_failover: Callable[[str], None] | None = None
    opened_writable = False

    isolation_level = _marking_attribute("isolation_level")
    readonly = _marking_attribute("readonly")
    deferrable = _marking_attribute("deferrable")
    cursor_factory = _marking_attribute("cursor_factory")
    notices = _marking_attribute("notices")
    notifies = _marking_attribute("notifies")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.maybe_dirty = False
        self.dirty = False
        self.not_resettable: str | None = None
        self.login_triggers: str | None = None
        self.lease = 0
        # Of the cursors that can't have an attribute for it.
        self._leases: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self.open_cursors: set[str] = set()
        self.aborted: Exception | None = None
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
        if isinstance(cursor, TrackedCursor):
            cursor.lease = self.lease
        elif isinstance(cursor, extensions.cursor):
            # A function can make any cursor.
            self._leases[cursor] = self.lease
            if cursor.name is not None:
                self.add_open_cursor(cursor.name)
        return cursor

    def is_current(self, cursor: Any) -> bool:
        """Tell whether a cursor is the present holder's.

        A cursor that was made by its class is the holder's who uses it first.
        """
        lease = getattr(cursor, "lease", None)
        if lease is None:
            lease = self._leases.setdefault(cursor, self.lease)
        return bool(lease == self.lease)

    def check(self, cursor: Any) -> None:
        """Refuse to run a statement for a holder that has lost the connection.

        Raises the error that the connection was aborted with, and InterfaceError for a
        cursor from before the connection's last checkin: another holder may have the
        connection.
        """
        if self.aborted is not None:
            raise self.aborted.with_traceback(None)
        if getattr(cursor, "lease", None) != self.lease and not self.is_current(cursor):
            raise psycopg2.InterfaceError(
                "cursor used after its connection was given back to the pool"
            )

    def note_error(self, error: psycopg2.Error) -> None:
        """Find out what the error of a statement says of the connection's server.

        Raises the error that the connection was aborted with, if it was.
        """
        if self.aborted is not None:
            raise self.aborted.with_traceback(None) from error
        if error.pgcode == failover.READ_ONLY:
            self.look_for_failover()
        elif error.pgcode in failover.SHUTDOWN and self.on_failover is not None:
            reason = "the server shuts down, or ended this session"
            self.on_failover(f"{reason} ({error.pgcode})")

    def look_for_failover(self) -> bool:
        """Tell whether the server took writes and takes none now; no round trip.

        Then ``on_failover`` is called.
        """
        if (
            self.on_failover is None
            or not self.opened_writable
            or not failover.refuses_writes(self.get_parameter_status, own=self.dirty)
        ):
            return False
        self.on_failover("the server has become read-only")
        return True

    def add_open_cursor(self, name: str) -> None:
        """Record that the server has a cursor of this name, until it is closed."""
        self.maybe_dirty = True
        self.open_cursors.add(name)

    def remove_open_cursor(self, name: str) -> None:
        """Record that the server has no cursor of this name any more."""
        self.open_cursors.discard(name)
        self.maybe_dirty = self.dirty or bool(self.open_cursors)

    def reads_escapes(self) -> bool:
        """Tell whether each string may have backslash escapes; no round trip."""
        return self.get_parameter_status("standard_conforming_strings") == "off"

    def mark_dirty(
        self, not_resettable: str | None = None, statement: str = ""
    ) -> None:
        """Record that the session may differ, and what no reset undoes.

        ``statement`` is the one that did that.
        """
        self.maybe_dirty = self.dirty = True
        if not_resettable is not None and self.not_resettable is None:
            shown = one_line(statement, REQUEST)
            self.not_resettable = f"{not_resettable} (in: {shown})"

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
