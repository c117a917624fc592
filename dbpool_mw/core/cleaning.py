"""What a checkin does to a session before the connection gets another holder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .driver import Driver
from .entry import PoolEntry
from .errors import ResetFailed, ResetRefused
from .logs import get_logger

logger = get_logger("dbpool_mw.pool")


class Cleaned(NamedTuple):
    """What came of cleaning a session.

    ``reason`` is why the connection has to be closed, None if it can be used again.
    """

    reason: str | None = None
    rolled_back: bool = False
    was_reset: bool = False


class Foreseen(NamedTuple):
    """What a checkin would do to a session as it is, and why.

    ``outcome`` is KEPT, RESET, CUSTOM (what RESET's function does) or CLOSED;
    ``reason`` is a statement or says why, "" for KEPT.
    """

    outcome: str
    reason: str = ""


KEPT, RESET, CUSTOM, CLOSED = "kept", "reset", "cleaned by RESET", "closed"


class Cleaner:
    """Cleans the sessions of one pool the way RESET says.

    ``mode`` is "auto" (reset what is dirty), "always", "never", or a function of a
    connection and of whether its session is dirty. ``reset(entry)`` makes a dirty
    session as good as a new one, or raises ResetFailed. Needs no lock: an entry that is
    cleaned is BUSY, and belongs to the calling thread.
    """

    def __init__(
        self,
        name: str,
        driver: Driver,
        mode: str | Callable[[Any, bool], object],
        reset: Callable[[PoolEntry], None],
    ) -> None:
        self._name = name
        self._driver = driver
        self._mode = mode
        self._reset = reset
        self._was_refused = False

    def clean(self, entry: PoolEntry) -> Cleaned:
        """End an open transaction and reset the session, if it needs that.

        Makes round trips. When the client library raises an error, or a reset function
        any Exception, that is logged and the connection has to be closed. Raises what
        else comes, such as the time limit of a task.
        """
        driver, connection = self._driver, entry.connection
        try:
            reason = driver.why_unusable(connection)
            if reason is not None:
                return Cleaned(reason)
            rolled_back = driver.roll_back(connection)
            was_reset = self._reset_as_configured(entry)
            clean = driver.is_clean(connection, entry.initial)
        except ResetRefused as error:
            if not self._was_refused:
                self._was_refused = True
                logger.warning(
                    "%s: %s, so every connection whose session has to be reset is "
                    "closed. Set RESET to a function that undoes what your requests "
                    "change",
                    self._name,
                    error,
                    exc_info=True,
                )
            return Cleaned("reset refused")
        except (driver.Error, ResetFailed):
            logger.warning(
                "%s: could not clean a connection; closing it",
                self._name,
                exc_info=True,
            )
            return Cleaned("not clean")
        return Cleaned(None if clean else "not clean", rolled_back, was_reset)

    def foresee(self, entry: PoolEntry) -> Foreseen:
        """Tell what ``clean`` would do to a session now; no round trip."""
        driver, connection, mode = self._driver, entry.connection, self._mode
        unusable = driver.why_unusable(connection)
        if unusable is not None:
            return Foreseen(CLOSED, unusable)
        change = driver.change(connection)
        statement = None if change is None else change.statement or "not known"
        if callable(mode):
            return Foreseen(CUSTOM, statement or "it is called at every checkin")
        if mode == "always" and change is None:
            return Foreseen(RESET, 'RESET is "always"')
        if mode == "never" or change is None:
            return Foreseen(KEPT)
        if change.no_reset_undoes is not None:
            return Foreseen(CLOSED, f"no reset undoes {change.no_reset_undoes}")
        return Foreseen(RESET, statement or "")

    def _reset_as_configured(self, entry: PoolEntry) -> bool:
        """Do to a session what RESET says; return whether it was reset."""
        connection, mode = entry.connection, self._mode
        dirty = self._driver.is_dirty(connection)
        if mode == "always" or (mode == "auto" and dirty):
            self._reset(entry)
            return True
        self._driver.accept(connection, entry.initial)
        if not callable(mode):
            return False
        try:
            mode(connection, dirty)
        except Exception as error:
            # A time limit that ends while the function runs can't be told from an error
            # of the function's own.
            raise ResetFailed("the function in RESET raised an error") from error
        self._driver.accept(connection, entry.initial)
        return True
