"""What the pool asks of a driver: the one interface between it and a database library.

The pool knows no driver and no SQL. The module of a driver has these functions;
connections are whatever the driver's library makes, and to the pool they are opaque but
for ``lease``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from .errors import HoldEnded


class Change(NamedTuple):
    """What changed a session that was clean: a statement, or a call of the library.

    It is shortened, and "" where it isn't known. ``no_reset_undoes`` says what of it
    stays, None if a reset undoes all.
    """

    statement: str
    no_reset_undoes: str | None = None


class Driver(Protocol):
    """What is done to one physical connection.

    ``initial`` is what ``session_attributes`` returned when the connection was opened.
    Functions that say "no round trip" read the memory of the client library and may be
    called with the pool's lock held; every other one may block.
    """

    @property
    def Error(self) -> type[Exception]:
        """What the client library raises; its other errors inherit from it."""

    def session_attributes(self, connection: Any) -> Any:
        """Return what the client library itself remembers of a session; no round trip.

        The pool only keeps it, and passes it back as ``initial``.
        """

    def liveness(self, connection: Any) -> Callable[[], bool]:
        """Return a function that tells whether an idle connection is alive.

        The function makes no round trip. It may read what the server said meanwhile: it
        is for the thread to which the connection belongs.
        """

    def has_ended(self, connection: Any) -> bool:
        """Tell whether a connection is closed, at either side; no round trip.

        Reads nothing: another thread may have checked the connection out.
        """

    def socket_number(self, connection: Any) -> int | None:
        """Return a number that no other socket open now has, None if closed."""

    def backend_pid(self, connection: Any) -> int | None:
        """Return the server's process id for a connection; no round trip."""

    def in_transaction(self, connection: Any) -> bool:
        """Tell whether a connection is in a transaction; no round trip.

        A statement that runs outside of one counts too. Called from any thread.
        """

    def statement(self, connection: Any) -> str | None:
        """Return the text of the statement that runs now, None if none does.

        Without its parameters, but with its literals: see ``shown``. No round trip.
        Called from any thread. The text of a COMMIT, or of a fetch, isn't known.
        """

    def shown(self, statement: str) -> str:
        """Return the text of a statement without its literals and comments, shortened.

        It is printable, and of one line.
        """

    def is_clean(self, connection: Any, initial: Any) -> bool:
        """Tell whether another holder can use a connection as it is; no round trip.

        False in a transaction, too.
        """

    def is_dirty(self, connection: Any) -> bool:
        """Tell whether the session was changed and must be reset; no round trip."""

    def change(self, connection: Any) -> Change | None:
        """Return what changed a dirty session first, None if clean; no round trip."""

    def why_unusable(self, connection: Any) -> str | None:
        """Return why a connection can't be cleaned, None if it can; no round trip."""

    def roll_back(self, connection: Any) -> bool:
        """End an open transaction; return whether there was one."""

    def accept(self, connection: Any, initial: Any) -> None:
        """Take a session for a clean one as it is; no round trip."""

    def ping(self, connection: Any) -> bool:
        """Ask the server for an answer; return whether one came."""

    def close(self, *connections: Any) -> None:
        """Close connections; wait, for a limited time, until the server did too.

        Never raises an Exception.
        """

    def abort(self, connection: Any, error: HoldEnded) -> None:
        """Cancel what a holder runs, and have its later statements raise ``error``.

        Called from another thread than the holder's. Waits for nothing.
        """

    def shut_down(self, connection: Any, socket_number: int | None) -> None:
        """Shut down a connection's socket, so that a thread waiting for it goes on.

        Called from another thread, while server or network don't respond. Never raises.
        """
