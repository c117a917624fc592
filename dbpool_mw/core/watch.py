"""The watch over a pool: long holds, and round trips that get no answer."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

from .config import PoolConfig
from .driver import Driver
from .entry import BUSY, CONNECTING, IN_USE, Holder, PoolEntry
from .errors import HoldTooLong
from .logs import get_logger
from .report import holder_text
from .stack import Stack, where

logger = get_logger("dbpool_mw.pool")

#: Seconds that a holder whose statement was cancelled may go on waiting for its answer.
CANCEL_SECONDS = 10.0


class Leak(NamedTuple):
    """A connection held longer than LEAK_AFTER: who holds it, for how many seconds."""

    holder: Holder
    stack: Stack
    seconds: float


class Sighting(NamedTuple):
    """What one look at a pool's entries found, for ``Watch.act``.

    ``leaks`` are to be logged, the holders of ``overdue`` to be cancelled, and the
    sockets of ``unresponsive`` to be shut down.
    """

    leaks: list[Leak]
    overdue: list[tuple[PoolEntry, Holder]]
    unresponsive: list[PoolEntry]


class Watch:
    """Decides in ``look``, under the pool's lock, and does its I/O in ``act``."""

    def __init__(self, name: str, config: PoolConfig, driver: Driver) -> None:
        self._name = name
        self._leak_after = config.leak_after
        self._max_hold = config.max_hold
        self._driver = driver

    def look(self, entries: Collection[PoolEntry], now: float) -> Sighting:
        """Find what takes too long, each leak and each overdue hold once.

        An overdue entry is marked as expired: no later holder may get a connection
        whose statement is being cancelled. What the pool itself waits for is
        unresponsive when its deadline is over. Call with the pool's lock held.
        """
        sighting = Sighting([], [], [])
        for entry in entries:
            if entry.state in (BUSY, CONNECTING):
                if now >= entry.deadline and entry.socket_number is not None:
                    sighting.unresponsive.append(entry)
                continue
            if entry.state is not IN_USE:
                continue
            # In this order: a checkout writes them in the other, without the lock.
            holder, since = entry.holder, entry.checked_out_at
            if holder is None:
                continue
            held = now - since
            if held >= self._leak_after and not entry.leaked:
                entry.leaked = True
                if _goes_on(entry, since):
                    sighting.leaks.append(Leak(holder, entry.stack, held))
                else:
                    entry.leaked = False
            if held >= self._max_hold and not entry.overdue:
                entry.overdue = True
                entry.expires_at = -math.inf
                # If it goes on, its checkin will find the connection expired.
                if _goes_on(entry, since):
                    sighting.overdue.append((entry, holder))
                else:
                    entry.overdue = False
            elif held >= self._max_hold + CANCEL_SECONDS:
                sighting.unresponsive.append(entry)
        return sighting

    def act(self, sighting: Sighting) -> None:
        """Log the leaks, cancel the overdue holds, shut unresponsive sockets down.

        Waits for no server. Call without the lock.
        """
        for leak in sighting.leaks:
            logger.warning(
                "%s: a connection is held for %.1f s (%s), %s",
                self._name,
                leak.seconds,
                holder_text(leak.holder.describe()),
                where(leak.holder.thread_id, leak.stack),
            )
        for entry, holder in sighting.overdue:
            text = (
                f"pool {self._name!r}: held longer than MAX_HOLD, {self._max_hold:g} s"
            )
            logger.warning("%s; cancelling (%s)", text, holder_text(holder.describe()))
            self._driver.abort(entry.connection, HoldTooLong(text))
        for entry in sighting.unresponsive:
            self._driver.shut_down(entry.connection, entry.socket_number)


def _goes_on(entry: PoolEntry, since: float) -> bool:
    """Tell whether a hold that began at ``since`` has not ended."""
    return entry.state is IN_USE and entry.checked_out_at == since
