"""What a thread does with its pools for a while: its checkouts, waits and holds.

Nothing is recorded, and nothing costs anything, until somebody begins a ``Usage``: that
replaces the list in which each binding of the thread has what it holds.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, SupportsIndex

from dbpool_mw.binding.binding import Binding, thread_state
from dbpool_mw.core.cleaning import KEPT, Foreseen
from dbpool_mw.core.entry import PoolEntry
from dbpool_mw.core.pool import ConnectionPool

#: A binding's hold: the pool, the entry, and the time of the checkout.
Held = tuple[ConnectionPool, PoolEntry, float]


@dataclass(slots=True)
class Checkout:
    """One checkout and its hold; times in seconds.

    ``at_start`` tells whether it was before the recording began, as that of a request's
    start, and ``goes_on`` whether the hold was to end after it. ``outcome`` is what the
    checkin did to the session, or would do at the end of the recording, and ``reason``
    why: see ``core.cleaning``.
    """

    alias: str
    at_start: bool
    wait_seconds: float
    hold_seconds: float = 0.0
    goes_on: bool = True
    outcome: str = KEPT
    reason: str = ""


class Usage:
    """Record what the calling thread checks out and in, from now until ``stop``."""

    def __init__(self) -> None:
        self.checkouts: list[Checkout] = []
        self._held: dict[tuple[PoolEntry, float], tuple[Checkout, Held]] = {}
        self._watched = [_watched(b) for b in thread_state.bindings.values()]
        for watched in self._watched:
            for held in tuple(watched):
                self.begin(watched.alias, held, at_start=True)
            watched.usages = (*watched.usages, self)

    def stop(self) -> None:
        """End the recording. May be called in another thread, while this one rests."""
        for watched in self._watched:
            others = (usage for usage in watched.usages if usage is not self)
            watched.usages = tuple(others)
        for _, held in list(self._held.values()):
            self.end(held, goes_on=True)
        self._watched.clear()

    def as_list(self) -> list[dict[str, Any]]:
        """Return the checkouts in their order, as plain data."""
        return [asdict(checkout) for checkout in self.checkouts]

    def begin(self, alias: str, held: Held, at_start: bool = False) -> None:
        """Record a checkout."""
        _, entry, since = held
        checkout = Checkout(alias, at_start, entry.waited)
        self.checkouts.append(checkout)
        self._held[entry, since] = checkout, held

    def end(self, held: Held, goes_on: bool = False) -> None:
        """Record the end of a hold, which is about to be checked in."""
        pool, entry, since = held
        found = self._held.pop((entry, since), None)
        if found is None:
            return
        checkout, _ = found
        checkout.hold_seconds = time.monotonic() - since
        checkout.goes_on = goes_on
        foreseen: Foreseen = pool.foresee(entry)
        checkout.outcome, checkout.reason = foreseen


class _Watched(list[Held]):
    """What a binding holds, where usages are told of it.

    They are told before a hold leaves it: if that fails, the binding still holds.
    """

    def __init__(self, alias: str, held: list[Held]) -> None:
        super().__init__(held)
        self.alias = alias
        self.usages: tuple[Usage, ...] = ()

    def append(self, held: Held) -> None:
        super().append(held)
        for usage in self.usages:
            usage.begin(self.alias, held)

    def pop(self, index: SupportsIndex = -1) -> Held:
        for held in self[-1:]:
            self._end(held)
        return super().pop(index)

    def remove(self, held: Held) -> None:
        self._end(held)
        super().remove(held)

    def _end(self, held: Held) -> None:
        for usage in self.usages:
            usage.end(held)


def _watched(binding: Binding) -> _Watched:
    """Return what a binding of the running thread holds, as a list that is watched.

    It stays so: while the thread goes on, nobody could put another list there safely.
    """
    held = binding.held
    if not isinstance(held, _Watched):
        held = binding.held = _Watched(binding.alias, held)
    return held
