"""What a connection for the pool remembers of its session, whatever library made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from dbpool_mw.core.errors import HoldEnded
from dbpool_mw.core.text import REQUEST, one_line

from . import failover
from .statements import CLEAN, Judgement, judge


class Canceller(Protocol):
    """Cancels what a connection runs, in a thread or greenlet of its own.

    ``refused`` says why the last request had no effect, "" if it had or may have.
    """

    refused: str

    def start(self, delay: float = 0.0) -> None:
        """Ask the server to end what runs, after ``delay`` seconds; wait for nothing.

        Called from any thread and any greenlet.
        """


class Tracked:
    """The part of a connection's class that remembers whether its session was changed.

    - ``dirty``: the session must be reset.
    - ``dirtied_by``: the statement or call that made it dirty, "" if it isn't known.
    - ``open_cursors``: names of the named cursors that were opened and not closed.
    - ``maybe_dirty``: either of the two may be so; the one flag that a checkin reads
      for a clean session.
    - ``not_resettable``: what a reset can't undo, and the statement that did it.
    - ``login_triggers``: names of the event triggers that ran at the login, or None.
    - ``lease``: grows with each checkin. A cursor of an earlier lease is refused.
    - ``aborted``: the error that every statement raises from now on, or None.
    - ``statement``: the text of the statement that is being executed, or None.
    - ``canceller``: cancels a statement without blocking; None where it can't be had.
    - ``on_failover``: see the driver's function; None until that is called.
    - ``opened_writable``: whether the server took writes when that was called.
    """

    maybe_dirty = False
    dirty = False
    dirtied_by = ""
    not_resettable: str | None = None
    login_triggers: str | None = None
    lease = 0
    aborted: Exception | None = None
    statement: str | None = None
    canceller: Canceller | None = None
    on_failover: Callable[[str], None] | None = None
    opened_writable = False

    #: Whether a thread or greenlet is in a call that ``close()`` would wait for, or
    #: take the socket away from.
    waits = False

    # Of the library.
    Error: Any
    InterfaceError: Any
    close: Callable[[], None]
    cancel: Callable[[], None]
    fileno: Callable[[], int]
    get_parameter_status: Callable[[str], str | None]
    get_transaction_status: Callable[[], int]
    #: The library's own ``close``.
    library_close: Any
    #: What a holder that was aborted gets, by the error that the pool gave.
    errors_of_holds: Mapping[type[HoldEnded], type[Exception]]

    def begin_tracking(self) -> None:
        """Begin with a session in which nothing was opened."""
        self.lease = 0
        self.statement = None
        self.open_cursors: set[str] = set()
        # Of the cursors that can't have an attribute for it.
        self._leases: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    def read_unasked(self) -> bool:
        """Read what the server said to an idle connection; return whether a notice.

        Keeps nothing of it: the next holder shall not take it for its own.
        """
        raise NotImplementedError

    def set_lease(self, cursor: Any) -> None:
        """Note that a cursor is the present holder's."""
        try:
            cursor.lease = self.lease
        except AttributeError:
            self._leases[cursor] = self.lease

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
            raise self.InterfaceError(
                "cursor used after its connection was given back to the pool"
            )

    def note_error(self, error: Any) -> None:
        """Find out what the error of a statement says of the connection's server.

        Raises the error that the connection was aborted with, if it was.
        """
        if self.aborted is not None:
            raise self.aborted.with_traceback(None) from error
        sqlstate = error.diag.sqlstate
        if sqlstate == failover.READ_ONLY:
            self.look_for_failover()
        elif sqlstate in failover.SHUTDOWN and self.on_failover is not None:
            reason = "the server shuts down, or ended this session"
            self.on_failover(f"{reason} ({sqlstate})")

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

        ``statement`` is the one, or the call, that did that.
        """
        if not self.dirty:
            self.dirtied_by = statement[:REQUEST]
        self.maybe_dirty = self.dirty = True
        if not_resettable is not None and self.not_resettable is None:
            shown = one_line(statement, REQUEST)
            self.not_resettable = f"{not_resettable} (in: {shown})"

    def judge(self, text: str) -> Judgement:
        """Return what a text may do to the session, and mark the session if it may."""
        found = judge(text, self.reads_escapes)
        if found.effect is not CLEAN:
            self.mark_dirty(found.effect.not_resettable, text)
        return found

    def refuse_if_aborted(self) -> None:
        """Raise the error that the connection was aborted with, if it was."""
        if self.aborted is not None:
            raise self.aborted.with_traceback(None)


def unwrapped(connection: Any) -> Any:
    """Return the library's own object where a tracer has put a proxy around it."""
    inner = getattr(connection, "__wrapped__", None)
    return connection if inner is None else unwrapped(inner)
