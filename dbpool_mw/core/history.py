"""The last quarter of an hour of a pool, in samples of one second."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .background import INTERVAL
from .metrics import BOUNDS, HISTOGRAMS, WINDOWS, empty_window, with_summaries

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
    "wait_max",
    "hold_p95",
    "hold_max",
    "connect_p95",
    "connect_max",
)

_GAUGES = ("size", "in_use", "idle", "connecting", "waiting")
_COUNTERS = ("checkouts", "timeouts", "refused", "opened")
_BUCKETS = len(BOUNDS) + 1

# A sample is bytes, a sixth of what an object would take: when it was taken, how long
# it lasts, the sum and the maximum of each histogram; the numbers; and a pair for each
# bucket that is not empty, with the bucket's place in the row of all histograms.
_FIXED = struct.Struct("<8d11I")
_PAIR = struct.Struct("<HI")
_AT = struct.Struct("<d")
_MOST_NUMBER = 2**32 - 1


class _Sample(NamedTuple):
    at: float
    seconds: float
    sums: tuple[float, ...]
    maxima: tuple[float, ...]
    gauges: tuple[int, ...]
    peaks: tuple[int, ...]
    counters: tuple[int, ...]
    pairs: list[tuple[int, int]]


class History:
    """A ring of samples, each of what happened since the one before.

    ``began`` is when the pool did; times are those of the pool's clock. One thread at a
    time adds; any may read.
    """

    def __init__(self, began: float) -> None:
        self._ring: deque[bytes] = deque(maxlen=MOST)
        self._last = began
        self._counters: tuple[int, ...] = (0,) * len(_COUNTERS)
        self._sums: tuple[float, ...] = (0.0,) * len(HISTOGRAMS)
        self._buckets: list[int] = [0] * _BUCKETS * len(HISTOGRAMS)
        self._minute_peak = 0
        # What ``recent`` returned last, and when: it changes once a second.
        self._recent: tuple[float, dict[str, Any]] | None = None

    def is_due(self, now: float) -> bool:
        """Tell whether it is time for the next sample."""
        return now - self._last >= INTERVAL / 2

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
        counters = tuple(figures[key] for key in _COUNTERS)
        sums = tuple(figures[key]["sum"] for key in HISTOGRAMS)
        buckets = [n for key in HISTOGRAMS for n in figures[key]["buckets"]]
        numbers = [figures[key] for key in _GAUGES]
        numbers += peaks
        numbers += map(int.__sub__, counters, self._counters)
        sample = _FIXED.pack(
            now,
            now - self._last,
            *map(float.__sub__, sums, self._sums),
            *(maxima[key] for key in HISTOGRAMS),
            *(min(max(number, 0), _MOST_NUMBER) for number in numbers),
        )
        grown = map(int.__sub__, buckets, self._buckets)
        sample += b"".join(
            _PAIR.pack(place, min(number, _MOST_NUMBER))
            for place, number in enumerate(grown)
            if number > 0
        )
        self._last = now
        self._counters, self._sums, self._buckets = counters, sums, buckets
        self._ring.append(sample)
        newest = self._newest(now, float(WINDOWS[0]))
        self._minute_peak = max(sample.peaks[0] for sample in newest)
        self._recent = None

    def in_use_peak(self, now: float) -> int:
        """Return the most connections in use at once in the minute before the last."""
        return self._minute_peak if now - self._last < float(WINDOWS[0]) else 0

    def recent(self, now: float) -> dict[str, dict[str, Any]]:
        """Return the figures of the last minute and quarter of an hour, by WINDOWS."""
        known = self._recent
        if known is None or now - known[0] >= INTERVAL:
            windows = {window: self._window(now, float(window)) for window in WINDOWS}
            self._recent = known = now, windows
        return known[1]

    def _window(self, now: float, seconds: float) -> dict[str, Any]:
        window = empty_window()
        histograms = [window[key] for key in HISTOGRAMS]
        buckets = [0] * _BUCKETS * len(HISTOGRAMS)
        for sample in self._newest(now, seconds):
            window["seconds"] += sample.seconds
            for key, number in zip(_COUNTERS, sample.counters, strict=True):
                if key in window:
                    window[key] += number
            for key, peak in zip(_PEAKS, sample.peaks, strict=True):
                window[key] = max(window[key], peak)
            for place, number in sample.pairs:
                buckets[place] += number
            for histogram, total, largest in zip(
                histograms, sample.sums, sample.maxima, strict=True
            ):
                histogram["sum"] += total
                histogram["max"] = max(histogram["max"], largest)
        for index, key in enumerate(HISTOGRAMS):
            window[key]["buckets"] = buckets[index * _BUCKETS : (index + 1) * _BUCKETS]
            window[key]["count"] = sum(window[key]["buckets"])
            window[key] = with_summaries(window[key])
        return window

    def rows(self, now: float, seconds: float, most: int) -> dict[str, Any]:
        """Return the samples of the last ``seconds``, at most ``most``.

        The result has the "columns", the "rows", the newest last, and the "interval"
        between samples in seconds.
        """
        newest = list(zip(range(most), self._newest(now, seconds), strict=False))
        rows = [_row(sample, now) for _, sample in reversed(newest)]
        return {"interval": INTERVAL, "columns": list(COLUMNS), "rows": rows}

    def _newest(self, now: float, seconds: float) -> Iterator[_Sample]:
        """Give the samples taken in the last ``seconds``, the newest first."""
        # A copy: another thread may add one meanwhile.
        for sample in reversed(list(self._ring)):
            (at,) = _AT.unpack_from(sample)
            if now - at >= min(seconds, MOST * INTERVAL):
                return
            yield _unpacked(sample)


_PEAKS = ("in_use_peak", "waiting_peak")


def _unpacked(sample: bytes) -> _Sample:
    values = _FIXED.unpack_from(sample)
    at, seconds, *_ = values
    pairs = _PAIR.iter_unpack(sample[_FIXED.size :])
    return _Sample(
        at,
        seconds,
        sums=values[2:5],
        maxima=values[5:8],
        gauges=values[8:13],
        peaks=values[13:15],
        counters=values[15:19],
        pairs=list(pairs),
    )


def _row(sample: _Sample, now: float) -> list[float | None]:
    row: list[float | None] = [round(now - sample.at, 3), round(sample.seconds, 3)]
    row += [*sample.gauges, *sample.peaks, *sample.counters]
    for index, largest in enumerate(sample.maxima):
        first = index * _BUCKETS
        pairs = [
            (place - first, number)
            for place, number in sample.pairs
            if first <= place < first + _BUCKETS
        ]
        row += _p95_and_max(pairs, largest)
    return row


def _p95_and_max(
    pairs: list[tuple[int, int]], largest: float
) -> tuple[float | None, float | None]:
    """Return the maximum, and the quantile as ``metrics.quantile`` has it."""
    if not pairs:
        return None, None
    needed = 0.95 * sum(number for _, number in pairs)
    seen, edge = 0, math.inf
    for bucket, number in pairs:
        seen += number
        if seen >= needed:
            edge = BOUNDS[bucket] if bucket < len(BOUNDS) else math.inf
            break
    return round(min(edge, largest), 6), round(largest, 6)
