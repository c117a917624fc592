"""The thread that maintains the pools of a process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from .pool import ConnectionPool

logger = logging.getLogger("dbpool_mw.pool")

#: Seconds between two rounds.
INTERVAL = 1.0


class Maintenance:
    """One daemon thread that calls ``maintain`` of every pool, every second.

    ``pools()`` returns the pools of the process, and is called in each round;
    ``interval`` is in seconds. An Exception of one pool is logged, and the thread goes
    on with the next.
    """

    def __init__(
        self,
        pools: Callable[[], Iterable[ConnectionPool]],
        interval: float = INTERVAL,
    ) -> None:
        self._pools = pools
        self._interval = interval
        self._stopped = threading.Event()
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
                except Exception:
                    logger.exception("%s: maintenance failed", pool.name)
