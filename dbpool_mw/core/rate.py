"""How often a message may be repeated."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple


class Others(NamedTuple):
    """The calls that a call which was let through stands for, besides itself."""

    #: How many were not let through since the last one that was.
    number: int
    #: Seconds since that one; 0 for the first call of a process.
    seconds: float


class RateLimit:
    """Let one call through, and no other for ``seconds``; may be called by any thread.

    It counts for one process: the child of a fork begins anew, also where no hook runs
    at a fork, and whichever thread of the parent held the lock.
    """

    def __init__(
        self, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._last: float | None = None
        self._number = 0

    def admit(self) -> Others | None:
        """Return what the call stands for, or None if it is not let through."""
        if self._pid != os.getpid():
            self._begin()
        with self._lock:
            now = self._clock()
            last = now if self._last is None else self._last
            if self._last is not None and now - last < self._seconds:
                self._number += 1
                return None
            others = Others(self._number, now - last)
            self._last, self._number = now, 0
            return others
