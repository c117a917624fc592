"""The watch over a pool: long holds, holds to cancel, round trips without an answer."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

from .config import PoolConfig
from .driver import Driver
from .entry import BUSY, CONNECTING, IN_USE, Holder, PoolEntry, hold_id
from .errors import HoldCancelled, HoldTooLong
from .logs import get_logger
from .report import holder_text
from .stack import Stack, where

logger = get_logger("dbpool_mw.pool")

#: Seconds that a holder whose statement was cancelled may go on waiting for its answer.
CANCEL_SECONDS = 10.0

#: Why the connection of a hold that was cancelled is closed.
_TOO_LONG, _CANCELLED = "held too long", "cancelled"


class Leak(NamedTuple):
    """A connection held longer than LEAK_AFTER: who holds it, for how many seconds."""

    holder: Holder
    stack: Stack
    seconds: float


class Doomed(NamedTuple):
    """A hold that was cancelled: ``name`` is its ``hold_id``."""

    name: str
    entry: PoolEntry
    holder: Holder


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

        What the pool itself waits for is unresponsive when its deadline is over, and so
        is a holder that was cancelled. Call with the pool's lock held.
        """
        sighting = Sighting([], [], [])
        for entry in entries:
            if (
                entry.state in (BUSY, CONNECTING, IN_USE)
                and now >= entry.deadline
                and entry.socket_number is not None
            ):
                sighting.unresponsive.append(entry)
            if entry.state is not IN_USE:
                continue
            # In this order: a checkout writes them in the other, without the lock.
            holder, since = entry.holder, entry.checked_out_at
            if holder is None:
                continue
            held = now - since
            if held >= self._leak_after and not entry.leaked:
                entry.leaked = True
                if goes_on(entry, since):
                    sighting.leaks.append(Leak(holder, entry.stack, held))
                else:
                    entry.leaked = False
            if (
                held >= self._max_hold
                and entry.cancelled is None
                and _doom(entry, since, _TOO_LONG, now)
            ):
                sighting.overdue.append((entry, holder))
        return sighting

    def doom(
        self, entries: Collection[PoolEntry], names: Collection[str], now: float
    ) -> list[Doomed]:
        """Have these holds be the last of their connections; return those that go on.

        ``names`` are of ``hold_id``. Their holders are to be cancelled: see ``cancel``.
        Call with the pool's lock held.
        """
        doomed = []
        for entry in entries:
            if entry.state is not IN_USE:
                continue
            holder, since = entry.holder, entry.checked_out_at
            if holder is None:
                continue
            name = hold_id(entry, since)
            if name in names and _doom(entry, since, _CANCELLED, now):
                doomed.append(Doomed(name, entry, holder))
        return doomed

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

    def cancel(self, doomed: Collection[Doomed]) -> None:
        """Cancel what the holders run, and have their later statements raise.

        Waits for no server. Call without the lock.
        """
        for name, entry, holder in doomed:
            text = f"pool {self._name!r}: an operator cancelled hold {name}"
            logger.warning("%s; cancelling (%s)", text, holder_text(holder.describe()))
            self._driver.abort(entry.connection, HoldCancelled(text))


def _doom(entry: PoolEntry, since: float, reason: str, now: float) -> bool:
    """Have a hold be the last of its connection; tell whether the hold goes on.

    No later holder may get a connection whose statement is being cancelled. ``reason``
    is counted when it is closed.
    """
    before, entry.cancelled = entry.cancelled, reason
    entry.expires_at = -math.inf
    # If it goes on, its checkin will find the connection expired.
    if not goes_on(entry, since):
        entry.cancelled = before
        return False
    entry.deadline = now + CANCEL_SECONDS
    return True


def goes_on(entry: PoolEntry, since: float) -> bool:
    """Tell whether a hold that began at ``since`` has not ended."""
    return entry.state is IN_USE and entry.checked_out_at == since
