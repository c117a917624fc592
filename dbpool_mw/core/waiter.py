"""A caller that waits for a place in the pool."""

from __future__ import annotations

import threading

from .entry import PoolEntry


class Waiter:
    """One caller in the queue, and what it is handed.

    All is called under the pool's lock, and so is every look at ``gift`` and ``error``;
    only ``wait`` is called outside. So a waiter whose time ended takes the
    lock, and either finds its gift or leaves the queue: no hand-over is ever swallowed.
    It came at the time ``since``; one that ``passes`` is served in a pause too.
    """

    __slots__ = ("_gate", "error", "gift", "passes", "since")

    def __init__(self) -> None:
        self.since = 0.0
        self.passes = False
        self.gift: PoolEntry | None = None
        self.error: Exception | None = None
        self._gate = threading.Lock()
        self._gate.acquire()

    def wait(self, seconds: float) -> bool:
        """Wait until somebody wakes this waiter; tell whether one did in time."""
        return self._gate.acquire(timeout=max(seconds, 0.0))

    def hand_over(self, entry: PoolEntry) -> None:
        """Give an entry to this waiter: a connection, or a place to connect in."""
        self.gift = entry
        self.wake()

    def fail(self, error: Exception) -> None:
        """End the wait with an error."""
        self.error = error
        self.wake()

    def wake(self) -> None:
        """Have ``wait`` return, now or when it is called next; under the lock too."""
        # It may have been woken before, and not have come to look yet.
        if self._gate.locked():
            self._gate.release()
