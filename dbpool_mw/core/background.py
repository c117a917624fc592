"""Work in the background: a loop that decides, and threads that wait for servers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

logger = logging.getLogger("dbpool_mw.pool")

#: Seconds between two rounds.
INTERVAL = 1.0


def spawn(function: Callable[..., object], *arguments: object) -> bool:
    """Call a function in a daemon thread of its own; return whether one could start.

    None can at the interpreter's end, or where the system allows no more threads.
    """
    thread = threading.Thread(
        target=function, args=arguments, name="dbpool_mw-background", daemon=True
    )
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


class Maintained(Protocol):
    """A pool, as far as the loop needs to know."""

    name: str

    def maintain(self) -> None:
        """Do what is due."""


class Maintenance:
    """One daemon thread that calls ``maintain`` of every pool, every second.

    ``pools()`` returns the pools of the process, and is called in each round;
    ``interval`` is in seconds. Whatever one pool raises is logged, and the thread goes
    on with the next. ``last_round`` is when the last round ended, by the monotonic
    clock.
    """

    def __init__(
        self,
        pools: Callable[[], Iterable[Maintained]],
        interval: float = INTERVAL,
    ) -> None:
        self._pools = pools
        self._interval = interval
        self._stopped = threading.Event()
        self.last_round = time.monotonic()
        self._thread = threading.Thread(
            target=self._run, name="dbpool_mw-maintenance", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """End the thread; wait at most ``timeout`` seconds for its end."""
        self._stopped.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            for pool in self._pools():
                try:
                    pool.maintain()
                except BaseException:
                    # SystemExit would end the thread without a word.
                    logger.exception("%s: maintenance failed", pool.name)
            self.last_round = time.monotonic()
