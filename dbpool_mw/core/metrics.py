"""What a pool counts, and the arithmetic on it.

Everything here is plain numbers, lists and dicts, so that it crosses a process boundary
as JSON. Durations are seconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

#: Upper edges of the histogram's buckets, in seconds: 10 µs to about 20 minutes, each
#: 2 ** (1/4) times the one before, so that a quantile is read at most 19 % too high.
BOUNDS: tuple[float, ...] = tuple(1e-5 * 2 ** (step / 4) for step in range(108))

#: Keys of a pool's report that totals add up.
SUMMED = (
    "min",
    "max",
    "size",
    "in_use",
    "idle",
    "connecting",
    "waiting",
    "stale",
    "checkouts",
    "waits",
    "timeouts",
    "refused",
    "connect_errors",
    "checks",
    "rollbacks",
    "resets",
    "reclaimed",
    "leaked",
    "overdue",
    "opened",
)

#: Keys of the counters that a pool counts one by one.
COUNTED = (
    "waits",
    "timeouts",
    "refused",
    "connect_errors",
    "checks",
    "rollbacks",
    "resets",
    "reclaimed",
    "leaked",
    "overdue",
)

#: Keys of a pool's report that hold a histogram.
HISTOGRAMS = ("wait_seconds", "hold_seconds", "connect_seconds")


class Histogram:
    """Count durations by bucket.

    Not thread-safe: the pool records under its own lock.
    """

    __slots__ = ("buckets", "max", "sum")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0
        self.max = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration, in seconds."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds
        if seconds > self.max:
            self.max = seconds

    def as_dict(self) -> dict[str, Any]:
        """Give the histogram as plain data."""
        return {
            "count": sum(self.buckets),
            "sum": self.sum,
            "max": self.max,
            "buckets": list(self.buckets),
        }


class PoolMetrics:
    """What one pool counts and measures.

    ``count`` holds the counters that go up one by one, by key; ``discarded`` counts
    closed connections by reason. A checkout that found a living idle connection at once
    is counted in ``found_idle`` alone, because that is frequent: ``as_dict`` adds it to
    the waits as one of no time. Not thread-safe: the pool records under its lock.
    """

    __slots__ = (
        "connect",
        "count",
        "discarded",
        "found_idle",
        "hold",
        "opened",
        "wait",
    )

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.discarded: Counter[str] = Counter()
        self.opened = 0
        self.found_idle = 0
        self.wait = Histogram()
        self.hold = Histogram()
        self.connect = Histogram()

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain data, by the keys of a pool's report."""
        wait = self.wait.as_dict()
        wait["count"] += self.found_idle
        wait["buckets"][0] += self.found_idle
        return {
            **{key: self.count[key] for key in COUNTED},
            "opened": self.opened,
            "discarded": dict(self.discarded),
            "wait_seconds": wait,
            "hold_seconds": self.hold.as_dict(),
            "connect_seconds": self.connect.as_dict(),
        }


def mean(histogram: Mapping[str, Any]) -> float | None:
    """Give the mean duration of a histogram's dict, or None if it is empty."""
    count: int = histogram["count"]
    return histogram["sum"] / count if count else None


def quantile(histogram: Mapping[str, Any], q: float) -> float | None:
    """Give the duration that a share ``q`` (0 to 1) of the counted ones did not exceed.

    It is the upper edge of the bucket in which that share is reached, and never more
    than the largest duration counted. None if the histogram is empty.
    """
    count: int = histogram["count"]
    largest: float = histogram["max"]
    if not count:
        return None
    needed = q * count
    seen = 0
    for edge, inside in zip(BOUNDS, histogram["buckets"], strict=False):
        seen += inside
        if seen >= needed:
            return min(edge, largest)
    return largest


def merge(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up the reports of several pools into one report of totals.

    The totals carry every key of ``SUMMED`` and ``HISTOGRAMS``, and ``discarded``.
    """
    totals: dict[str, Any] = dict.fromkeys(SUMMED, 0)
    totals["discarded"] = {}
    for key in HISTOGRAMS:
        totals[key] = Histogram().as_dict()
    for report in reports:
        for key in SUMMED:
            totals[key] += report[key]
        for reason, number in report["discarded"].items():
            totals["discarded"][reason] = totals["discarded"].get(reason, 0) + number
        for key in HISTOGRAMS:
            _add(totals[key], report[key])
    return totals


def _add(total: dict[str, Any], part: Mapping[str, Any]) -> None:
    total["count"] += part["count"]
    total["sum"] += part["sum"]
    total["max"] = max(total["max"], part["max"])
    total["buckets"] = [
        a + b for a, b in zip(total["buckets"], part["buckets"], strict=True)
    ]
