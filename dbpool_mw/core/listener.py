"""Who is told of each duration that a pool measures, as what exports them one by one.

Without a listener, which is the rule, a pool only counts durations by bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Listener(Protocol):
    """Is told by one pool; its methods return at once and raise nothing."""

    def ended(
        self, holds: Sequence[float], after_wait: Sequence[tuple[float, float]]
    ) -> None:
        """Note the seconds of holds without a wait, and of waits and their holds.

        Called with the pools' lock held, within a second of their ends: it must not use
        a pool.
        """

    def opened(self, seconds: float) -> None:
        """Note how long a connection took to open; called with the pools' lock held."""

    def waited(self, seconds: float, error: Exception | None) -> None:
        """Note a checkout that queued, or failed with an error.

        Called in the thread that checks out, when the checkout ends, without the lock.
        """
