"""A caller that waits in a pool's queue."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .entry import Holder, PoolEntry


def _never() -> bool:
    return False


class Waiter:
    """One position in the queue of a pool, and what the caller in it was given.

    The pool calls every method except ``wait()`` with its lock held, and sets ``entry``
    and ``error`` only while the caller is in the queue. A caller that timed out takes
    the lock before it leaves the queue, so it either finds the entry it was given
    meanwhile or has left: no entry is handed to a caller that has gone.

    ``holder`` is who gets the entry. ``since`` is when the caller came, by the pool's
    clock. One that ``bypasses_pause`` is served while the pool is paused. One that is
    ``eager`` doesn't wait any longer once an attempt to connect fails.
    ``is_cancelled()`` tells whether nobody wants the entry any more.
    """

    __slots__ = (
        "_wakeup",
        "bypasses_pause",
        "eager",
        "entry",
        "error",
        "holder",
        "is_cancelled",
        "since",
    )

    def __init__(self) -> None:
        self.since = 0.0
        self.holder: Holder | None = None
        self.bypasses_pause = False
        self.eager = False
        self.is_cancelled: Callable[[], bool] = _never
        self.entry: PoolEntry | None = None
        self.error: Exception | None = None
        # A lock that is taken from the start is a binary semaphore. An Event would
        # bring a condition and a second lock.
        self._wakeup = threading.Lock()
        self._wakeup.acquire()

    def wait(self, seconds: float) -> bool:
        """Block until ``wake()``, at most so many seconds; return whether it came."""
        return self._wakeup.acquire(timeout=max(seconds, 0.0))

    def is_served(self) -> bool:
        """Tell whether the caller was given an entry or an error."""
        return self.entry is not None or self.error is not None

    def hand_over(self, entry: PoolEntry) -> None:
        """Give the caller an entry: a connection, or a slot to connect in."""
        self.entry = entry
        self.wake()

    def fail(self, error: Exception) -> None:
        """End the wait with an error."""
        self.error = error
        self.wake()

    def wake(self) -> None:
        """Have ``wait()`` return, now or at its next call."""
        # Releasing a lock that is free raises; two wakes before a wait are one.
        if self._wakeup.locked():
            self._wakeup.release()
