"""When a pool may try to connect again after a failure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

#: Seconds until the next attempt: doubled with each failure, then shortened by up to
#: half at random, so that workers don't all reconnect at the same moment.
FIRST_DELAY = 0.1
LONGEST_DELAY = 2.0

#: Where doubling stops: beyond it the longest delay is reached, and a float overflows.
_MOST_DOUBLINGS = 10


class Backoff:
    """The failed attempts to connect in a row, and the time of the next attempt.

    ``failures`` counts them, ``error`` is the text of the last one. Not thread-safe:
    the pool calls everything with its lock held.
    """

    __slots__ = ("_clock", "error", "failures", "retry_at")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.failures = 0
        self.error = ""
        self.retry_at = 0.0

    def failed(self, error: str) -> None:
        """Count a failure and put the next attempt off."""
        doublings = min(self.failures, _MOST_DOUBLINGS)
        self.failures += 1
        self.error = error
        delay = min(FIRST_DELAY * 2**doublings, LONGEST_DELAY)
        self.retry_at = self._clock() + delay * (1 - random.random() / 2)

    def succeeded(self) -> bool:
        """Forget the failures; return whether there were any."""
        had_failures = self.failures > 0
        self.failures = 0
        return had_failures

    def is_due(self) -> bool:
        """Tell whether the next attempt may begin."""
        return not self.failures or self._clock() >= self.retry_at

    def was_recent(self) -> bool:
        """Tell whether the last attempt failed, and not long ago.

        Not before the next one is due, and for the longest delay after that.
        """
        return self.failures > 0 and self._clock() < self.retry_at + LONGEST_DELAY

    def seconds(self) -> float:
        """Return the seconds to sleep before it is worth looking again.

        Infinite without a failure. Never less than half of the first delay: another
        caller's attempt may be under way.
        """
        if not self.failures:
            return math.inf
        return max(self.retry_at - self._clock(), FIRST_DELAY / 2)
