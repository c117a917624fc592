"""How long connections are held, and waited for, by what the work is called.

A request is called by its route, a task by its name. The number of names is bounded:
what comes later counts as OTHER.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any

from .entry import Holder
from .metrics import OTHER, Histogram
from .text import REQUEST, shortened

#: What is counted as the name of work without a name, such as a request whose path has
#: no route.
NAMELESS = "-"


class Routes:
    """The waits and holds of one pool, by name.

    Any thread may call ``note``. The rest is not thread-safe: the pool calls it with
    its lock held.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._ended: deque[tuple[str, float, float]] = deque()
        self._by_name: dict[str, tuple[Histogram, Histogram]] = {}

    def note(self, holder: Holder | None, wait: float, hold: float) -> None:
        """Note the seconds of a hold that has ended, and those of its wait."""
        name = None if holder is None else holder.describe()["route"]
        self._ended.append((name or NAMELESS, wait, hold))

    def fold(self) -> None:
        """Count what was noted since the last call."""
        found: dict[str, list[tuple[float, float]]] = {}
        # As many as there are now: other threads go on adding some, and a finaliser may
        # take them.
        with contextlib.suppress(IndexError):
            for _ in range(len(self._ended)):
                name, wait, hold = self._ended.popleft()
                found.setdefault(name, []).append((wait, hold))
        for name, ended in found.items():
            waits, holds = self._counted_as(shortened(name, REQUEST))
            waits.record(*(wait for wait, _ in ended))
            holds.record(*(hold for _, hold in ended))

    def _counted_as(self, name: str) -> tuple[Histogram, Histogram]:
        found = self._by_name.get(name)
        if found is None:
            if len(self._by_name) >= self._most:
                name = OTHER
            found = self._by_name.setdefault(name, (Histogram(), Histogram()))
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Return the name, waits and holds of each, as plain data."""
        self.fold()
        return [
            {"name": name, "holds": holds.as_dict(), "waits": waits.as_dict()}
            for name, (waits, holds) in self._by_name.items()
        ]
