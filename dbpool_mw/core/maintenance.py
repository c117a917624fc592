"""The thread that keeps a process's pools in shape."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable

from .entry import PoolEntry
from .pool import ConnectionPool

logger = logging.getLogger("dbpool_mw.pool")

#: Seconds between two rounds.
INTERVAL = 1.0


class Maintenance:
    """One daemon thread that maintains pools, and takes back what was lost.

    ``pools()`` gives the pools as they are at each round.
    """

    def __init__(self, pools: Callable[[], Iterable[ConnectionPool]]) -> None:
        self._pools = pools
        # SimpleQueue.put is reentrant: the one thing that is safe in a weakref callback
        # or a __del__, which can run in any thread at any allocation, locks held.
        self._lost: queue.SimpleQueue[tuple[ConnectionPool, PoolEntry] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(
            target=self._run, name="dbpool_mw-maintenance", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """End the thread, and wait for its end at most ``timeout`` seconds."""
        self._lost.put(None)
        self._thread.join(timeout)

    def reclaim(self, pool: ConnectionPool, entry: PoolEntry) -> None:
        """Have a connection taken back whose holder is gone.

        May be called from a finaliser: it takes no lock.
        """
        self._lost.put((pool, entry))

    def _run(self) -> None:
        while True:
            try:
                lost = self._lost.get(timeout=INTERVAL)
            except queue.Empty:
                self._maintain()
                continue
            if lost is None:
                return
            pool, entry = lost
            try:
                pool.reclaim(entry)
            except Exception:
                logger.exception("%s: could not reclaim a connection", pool.name)

    def _maintain(self) -> None:
        for pool in self._pools():
            try:
                pool.maintain()
            except Exception:
                logger.exception("%s: maintenance failed", pool.name)
