"""The last quarter of an hour of a pool, in samples of one second."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, compress, count, pairwise, repeat
from operator import add, sub
from typing import Any, NamedTuple

from .background import INTERVAL
from .metrics import (
    BOUNDS,
    HISTOGRAMS,
    RECENT,
    WINDOWS,
    empty_window,
    quantile,
    with_summaries,
)

#: How many samples are kept.
MOST = 900

#: The columns of a history. "age" is the time before the reply that a sample was taken,
#: "seconds" how long it covers; both, "*_p95" and "*_max" are in seconds. What is named
#: after a gauge of the report is that gauge when the sample was taken; "*_peak" is the
#: most at once, and the counters have gone up by so much, while the sample lasted.
COLUMNS: tuple[str, ...] = (
    "age",
    "seconds",
    "size",
    "in_use",
    "idle",
    "connecting",
    "waiting",
    "in_use_peak",
    "waiting_peak",
    "checkouts",
    "timeouts",
    "refused",
    "opened",
    "wait_p95",
    "hold_p95",
    "connect_p95",
    "wait_max",
    "hold_max",
    "connect_max",
)

_GAUGES = ("size", "in_use", "idle", "connecting", "waiting")
_PEAKS = ("in_use_peak", "waiting_peak")
_COUNTERS = ("checkouts", "timeouts", "refused", "opened")
_BUCKETS = len(BOUNDS) + 1

# A sample is bytes, a sixth of what objects would take: a value for each of COLUMNS,
# but the first is when it was taken, and a p95 of nothing is _NOTHING; the histograms'
# sums since the pool began; and a pair for each bucket that is not empty, with the
# bucket's place in the row of all histograms' buckets.
_VALUES = struct.Struct("<2d11I9d")
_PAIR = struct.Struct("<HI")
# Less than any time: the highest of several is one that there was.
_NOTHING = -math.inf

_PLACE = {name: place for place, name in enumerate(COLUMNS)}
_COUNTED = slice(_PLACE["checkouts"], _PLACE["opened"] + 1)
_MAXIMA = slice(_PLACE["wait_max"], _PLACE["connect_max"] + 1)
_SUMS = slice(len(COLUMNS), None)

_Values = tuple[Any, ...]


class _Totals(NamedTuple):
    """What a pool has counted since it began."""

    at: float
    counters: Sequence[int]
    sums: Sequence[float]
    buckets: Sequence[int]


class History:
    """A ring of samples, each of what happened since the one before.

    ``began`` is when the pool did; times are those of the pool's clock. One thread at a
    time adds; any may read.
    """

    def __init__(self, began: float) -> None:
        zeros = [0] * _BUCKETS * len(HISTOGRAMS)
        self._now = _Totals(began, (0,) * 4, (0.0,) * 3, zeros)
        self._windows = {name: _Window(float(name), self._now) for name in WINDOWS}
        self._minute_peak = 0
        # What ``recent`` made of the last sample.
        self._recent: dict[str, dict[str, Any]] | None = None

    def is_due(self, now: float) -> bool:
        """Tell whether it is time for the next sample."""
        return now - self._now.at >= INTERVAL / 2

    def add(
        self,
        now: float,
        figures: Mapping[str, Any],
        maxima: Mapping[str, float],
        peaks: tuple[int, int],
    ) -> None:
        """Add a sample.

        ``figures`` is the pool's report of now; ``maxima`` by key of a histogram, and
        the peaks of connections in use and of waiters, are those since the last sample.
        """
        before = self._now
        totals = _Totals(
            now,
            [figures[key] for key in _COUNTERS],
            [figures[key]["sum"] for key in HISTOGRAMS],
            list(chain(*(figures[key]["buckets"] for key in HISTOGRAMS))),
        )
        grown = list(map(sub, totals.buckets, before.buckets))
        p95s = [
            _p95(grown[place : place + _BUCKETS], maxima[key])
            for key, place in zip(
                HISTOGRAMS, range(0, len(grown), _BUCKETS), strict=True
            )
        ]
        numbers = [figures[key] for key in _GAUGES]
        numbers += peaks
        numbers += map(sub, totals.counters, before.counters)
        sample = _VALUES.pack(
            now,
            now - before.at,
            # The pool may find that it has counted a connection too many.
            *map(max, numbers, repeat(0)),
            *p95s,
            *(maxima[key] for key in HISTOGRAMS),
            *totals.sums,
        )
        places = compress(count(), grown)
        sample += b"".join(map(_PAIR.pack, places, filter(None, grown)))
        self._now = totals
        for window in self._windows.values():
            window.add(sample)
        minute = self._windows[WINDOWS[0]].samples()
        self._minute_peak = max(s[_PLACE["in_use_peak"]] for s in minute)
        self._recent = None

    def in_use_peak(self, now: float) -> int:
        """Return the most connections in use at once in the samples of a minute."""
        age = now - self._now.at
        return self._minute_peak if age < float(WINDOWS[0]) else 0

    def recent(self, now: float) -> dict[str, dict[str, Any]]:
        """Return the figures of the last minute and quarter of an hour, by WINDOWS.

        They end with the last sample.
        """
        totals, made = self._now, self._recent
        if made is None:
            made = {name: w.figures(totals) for name, w in self._windows.items()}
            self._recent = made
        age = now - totals.at
        return {
            name: _copied(window) if age < float(name) else empty_window()
            for name, window in made.items()
        }

    def rows(
        self,
        now: float,
        seconds: float,
        most: int,
        columns: Iterable[str] | None = None,
        step: float | None = None,
    ) -> dict[str, Any]:
        """Return the samples of the last ``seconds``, at most ``most`` rows.

        The result has the "columns", all or those of ``columns`` that there are, the
        "rows", the newest last, and the "interval" between samples in seconds. What is
        older than a minute is one row for each ``step`` seconds, if one is given, with
        the highest value in each column.
        """
        window = self._windows[WINDOWS[-1]]
        since = now - min(seconds, window.seconds)
        samples = [s for s in window.samples() if s[0] > since]
        parts = _parts([now - s[0] for s in samples], step)[-most:]
        names = [c for c in dict.fromkeys(columns or COLUMNS) if c in _PLACE]
        values = list(zip(*samples, strict=True)) or [()] * len(COLUMNS)
        found = [_column(name, values, parts, now) for name in names]
        rows = list(map(list, zip(*found, strict=True)))
        return {"interval": INTERVAL, "columns": names, "rows": rows}


class _Window:
    """The samples of so many seconds up to the last, and the totals at their begin."""

    def __init__(self, seconds: float, begin: _Totals) -> None:
        self.seconds = seconds
        self._begin = begin
        self._samples: deque[bytes] = deque()

    def add(self, sample: bytes) -> None:
        """Add a sample; remove those that don't belong to the window any more."""
        self._samples.append(sample)
        since = _VALUES.unpack_from(sample)[0] - self.seconds
        while (
            len(self._samples) > MOST
            or _VALUES.unpack_from(self._samples[0])[0] <= since
        ):
            self._begin = _after(self._begin, self._samples.popleft())

    def samples(self) -> list[_Values]:
        """Return the values of the samples, the newest last."""
        # Of a copy: another thread may add one meanwhile.
        return list(map(_VALUES.unpack_from, list(self._samples)))

    def figures(self, totals: _Totals) -> dict[str, Any]:
        """Return the window's figures; ``totals`` are those of the last sample."""
        # The totals are not older than their begin, whatever is added meanwhile.
        begin, samples = self._begin, self.samples()
        found: dict[str, Any] = empty_window()
        found["seconds"] = totals.at - begin.at
        for name, number, first in zip(
            _COUNTERS, totals.counters, begin.counters, strict=True
        ):
            if name in RECENT:
                found[name] = number - first
        for name in _PEAKS:
            found[name] = max((s[_PLACE[name]] for s in samples), default=0)
        buckets = list(map(sub, totals.buckets, begin.buckets))
        maxima = list(map(max, zip(*(s[_MAXIMA] for s in samples), strict=True)))
        for index, name in enumerate(HISTOGRAMS):
            inside = buckets[index * _BUCKETS : (index + 1) * _BUCKETS]
            found[name] = with_summaries(
                {
                    "count": sum(inside),
                    "sum": max(0.0, totals.sums[index] - begin.sums[index]),
                    "max": maxima[index] if maxima else 0.0,
                    "buckets": inside,
                }
            )
        return found


def _copied(window: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy in which its reader may change keys."""
    return {k: dict(v) if isinstance(v, dict) else v for k, v in window.items()}


def _after(begin: _Totals, sample: bytes) -> _Totals:
    """Return the totals at a sample's end, from those at its begin."""
    values: _Values = _VALUES.unpack_from(sample)
    buckets = list(begin.buckets)
    for place, number in _PAIR.iter_unpack(sample[_VALUES.size :]):
        buckets[place] += number
    counters = list(map(add, begin.counters, values[_COUNTED]))
    return _Totals(values[0], counters, values[_SUMS], buckets)


def _p95(buckets: list[int], largest: float) -> float:
    found = quantile({"count": sum(buckets), "max": largest, "buckets": buckets}, 0.95)
    return _NOTHING if found is None else found


def _parts(ages: Sequence[float], step: float | None) -> list[slice]:
    """Return which samples share a row, of samples with these ages."""
    if step is not None:
        minute = float(WINDOWS[0])
        ages = [age if age < minute else age // step for age in ages]
    ends = [at for at in range(1, len(ages)) if ages[at] != ages[at - 1]]
    bounds = [0, *ends, len(ages)] if ages else []
    return [slice(begin, end) for begin, end in pairwise(bounds)]


def _column(
    name: str, values: Sequence[_Values], parts: Sequence[slice], now: float
) -> list[float | None]:
    """Return a column's highest value in each part, of the samples' values by place."""

    def highest(place: int) -> list[Any]:
        return [max(values[place][part]) for part in parts]

    found = highest(_PLACE[name])
    if name == "age":
        return [round(now - at, 3) for at in found]
    if name == "seconds":
        return [round(seconds, 3) for seconds in found]
    if not name.endswith(("_p95", "_max")):
        return found
    p95s = found if name.endswith("_p95") else highest(_PLACE[name[:-4] + "_p95"])
    return [
        None if p95 == _NOTHING else round(time, 6)
        for time, p95 in zip(found, p95s, strict=True)
    ]
