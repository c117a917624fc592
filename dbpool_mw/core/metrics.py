"""The figures in a pool's report: their table, histograms, quantiles and totals.

Reports consist of numbers, strings, lists and dicts only, because workers send them to
the commands as JSON. Durations are seconds.
"""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from .listener import Listener

_T = TypeVar("_T")

#: Upper edges of the histogram's buckets, in seconds: 10 µs to about 20 minutes, each
#: 2 ** (1/4) times the one before, so that a quantile is read at most 19 % too high.
BOUNDS: tuple[float, ...] = tuple(1e-5 * 2 ** (step / 4) for step in range(108))


class Metric(NamedTuple):
    """A figure in a pool's report.

    ``key`` is its key in the report and ``help`` what it says, in one sentence. Its
    Prometheus name is ``exported_as``; without one it is ``dbpool_mw_<key>``, with
    ``_total`` behind a counter's. A metric that isn't ``exported`` has no Prometheus
    series of its own. ``column`` is its title in the table of ``dbpool_stats``, None
    for a figure shown on demand only. The pool counts a counter one by one under
    its key, unless the counter is ``computed`` from other figures. A figure with a
    ``label`` is a dict in the report: a number for each value of the label. Totals of
    several pools have the ``total`` of their figures, the sum or the greatest.
    """

    key: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    exported_as: str = ""
    exported: bool = True
    column: str | None = None
    computed: bool = False
    label: str = ""
    total: Literal["sum", "greatest"] = "sum"

    @property
    def prometheus_name(self) -> str:
        """The name of the metric's family in Prometheus' text format."""
        suffix = "_total" if self.kind == "counter" else ""
        return self.exported_as or f"dbpool_mw_{self.key}{suffix}"

    @property
    def title(self) -> str:
        """The title of its column in a table."""
        title = self.key.removesuffix("_seconds").replace("_", " ").upper()
        spread = " MEAN/P95/MAX" if self.kind == "histogram" else ""
        return self.column or title + spread


#: Every figure of a pool's report, in the report's order. The report, the totals, the
#: check of a worker's reply, the commands' table and the Prometheus export all read
#: this table: a new counter needs a line here and the code that counts it.
METRICS: tuple[Metric, ...] = (
    # Exported together, as db_client_connection_count by state.
    Metric(
        "size",
        "gauge",
        "Connections open or being opened.",
        exported=False,
        column="SIZE",
    ),
    Metric("in_use", "gauge", "Connections in use.", exported=False, column="USED"),
    Metric("idle", "gauge", "Idle connections.", exported=False, column="IDLE"),
    Metric(
        "min",
        "gauge",
        "Connections that a pool keeps open.",
        exported_as="db_client_connection_idle_min",
    ),
    Metric(
        "max",
        "gauge",
        "Connections that a pool may open.",
        exported_as="db_client_connection_max",
        column="MAX",
    ),
    Metric("connecting", "gauge", "Connections being opened."),
    Metric(
        "waiting",
        "gauge",
        "Checkouts waiting for a connection.",
        exported_as="db_client_connection_pending_requests",
        column="WAITING",
    ),
    Metric("stale", "gauge", "Connections that a drain waits for."),
    Metric(
        "in_use_peak",
        "gauge",
        "Most connections in use at once during the last minute.",
    ),
    Metric("in_transaction", "gauge", "Connections in use and in a transaction."),
    Metric(
        "oldest_wait_seconds",
        "gauge",
        "Time that the oldest checkout in the queue has waited.",
        total="greatest",
    ),
    Metric(
        "oldest_hold_seconds",
        "gauge",
        "Time that a connection has been in use, the longest.",
        total="greatest",
    ),
    Metric("checkouts", "counter", "Checkouts.", column="CHECKOUTS", computed=True),
    Metric("waits", "counter", "Checkouts that had to wait.", column="WAITS"),
    Metric(
        "timeouts",
        "counter",
        "Checkouts that waited in vain.",
        exported_as="db_client_connection_timeouts_total",
        column="TIMEOUTS",
        computed=True,
    ),
    # Exported by reason.
    Metric(
        "refused",
        "counter",
        "Checkouts that ended without a connection.",
        exported=False,
        computed=True,
    ),
    Metric(
        "refused_by_reason",
        "counter",
        "Checkouts that ended without a connection, by reason.",
        exported_as="dbpool_mw_refused_total",
        label="reason",
        computed=True,
    ),
    Metric("cancelled", "counter", "Checkouts whose request or block was cancelled."),
    Metric("connect_errors", "counter", "Connections that could not be opened."),
    Metric("checks", "counter", "Idle connections pinged."),
    Metric("rollbacks", "counter", "Connections returned inside a transaction."),
    Metric("resets", "counter", "Sessions reset at checkin."),
    Metric(
        "reclaimed",
        "counter",
        "Connections taken back from holders that never returned them.",
        column="RECLAIMED",
    ),
    Metric("leaked", "counter", "Connections held longer than LEAK_AFTER."),
    Metric("overdue", "counter", "Holders cancelled after MAX_HOLD."),
    Metric(
        "wait_seconds",
        "histogram",
        "Time from asking for a connection to having it.",
        exported_as="db_client_connection_wait_time_seconds",
        column="WAIT MEAN/P95/MAX",
    ),
    Metric(
        "hold_seconds",
        "histogram",
        "Time from checkout to checkin.",
        exported_as="db_client_connection_use_time_seconds",
        column="HOLD MEAN/P95/MAX",
    ),
    Metric(
        "connect_seconds",
        "histogram",
        "Time to open a connection.",
        exported_as="db_client_connection_create_time_seconds",
    ),
    Metric("opened", "counter", "Connections opened.", column="OPENED", computed=True),
    Metric(
        "discarded",
        "counter",
        "Connections closed, by reason.",
        label="reason",
        computed=True,
    ),
)

#: Keys of a pool's report that hold a histogram.
HISTOGRAMS: tuple[str, ...] = tuple(m.key for m in METRICS if m.kind == "histogram")

#: Keys of a pool's report that hold numbers by the value of a label.
LABELLED: tuple[str, ...] = tuple(m.key for m in METRICS if m.label)

#: Keys of a pool's report that hold seconds of which totals have the greatest.
GREATEST: tuple[str, ...] = tuple(m.key for m in METRICS if m.total == "greatest")

#: Keys of a pool's report that hold a number, of which totals have the sum.
SUMMED: tuple[str, ...] = tuple(
    m.key for m in METRICS if m.key not in (*HISTOGRAMS, *LABELLED, *GREATEST)
)

#: Keys of the counters that the pool counts one by one.
COUNTED: tuple[str, ...] = tuple(
    m.key for m in METRICS if m.kind == "counter" and not m.computed
)


#: Why a checkout ends without a connection: TIMEOUT passed; MAX_WAITING others waited
#: already; the pool was closed; no connection could be opened, and none was in use.
REFUSALS: tuple[str, ...] = ("timeout", "max_waiting", "closed", "connect")

#: The windows of a report's recent figures, in seconds, as keys.
WINDOWS: tuple[str, ...] = ("60", "900")

#: What a window of the recent figures counts. Totals have the sums.
RECENT: tuple[str, ...] = (
    "checkouts",
    "timeouts",
    "refused",
    "in_use_peak",
    "waiting_peak",
)


class Histogram:
    """Count durations by bucket.

    ``latest_max`` is the largest since ``take_latest_max`` was called. Not thread-safe:
    the pool calls every method with its lock held.
    """

    __slots__ = ("buckets", "latest_max", "max", "sum")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0
        self.max = 0.0
        self.latest_max = 0.0

    def record(self, *seconds: float) -> None:
        """Count durations, in seconds."""
        durations = sorted(seconds)
        if not durations:
            return
        self.sum += sum(durations)
        self.max = max(self.max, durations[-1])
        self.latest_max = max(self.latest_max, durations[-1])
        # Bucket by bucket: many durations are in few of them.
        begin = 0
        while begin < len(durations):
            bucket = bisect_left(BOUNDS, durations[begin])
            edge = BOUNDS[bucket] if bucket < len(BOUNDS) else math.inf
            end = bisect_right(durations, edge, begin)
            self.buckets[bucket] += end - begin
            begin = end

    def take_latest_max(self) -> float:
        """Return the largest duration since the last call, 0.0 if there was none."""
        latest, self.latest_max = self.latest_max, 0.0
        return latest

    def as_dict(self) -> dict[str, Any]:
        """Return the histogram as plain data: count, sum, max and buckets."""
        return {
            "count": sum(self.buckets),
            "sum": self.sum,
            "max": self.max,
            "buckets": list(self.buckets),
        }


class PoolMetrics:
    """What one pool counts and measures.

    ``count`` holds the counters that go up one by one, by key; ``discarded`` counts
    closed connections by reason, ``refused`` checkouts by one of REFUSALS. The wait of
    a checkout that found a living idle connection at once isn't recorded, because that
    is frequent: in ``as_dict``, each hold without a wait had one of no time.

    Any thread may append to ``ended`` the seconds of a hold that had no wait, and to
    ``ended_after_wait`` those of a wait and of its hold; ``fold`` counts them, and
    tells the ``listener``, if there is one. The rest is not thread-safe: the pool uses
    it under its lock.
    """

    __slots__ = (
        "connect",
        "count",
        "discarded",
        "ended",
        "ended_after_wait",
        "hold",
        "listener",
        "opened",
        "refused",
        "wait",
    )

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.discarded: Counter[str] = Counter()
        self.refused: Counter[str] = Counter(dict.fromkeys(REFUSALS, 0))
        self.opened = 0
        self.wait = Histogram()
        self.hold = Histogram()
        self.connect = Histogram()
        self.ended: deque[float] = deque()
        self.ended_after_wait: deque[tuple[float, float]] = deque()
        self.listener: Listener | None = None

    def take_maxima(self) -> dict[str, float]:
        """Return the longest wait, hold and connect since the last call, by key."""
        return {
            "wait_seconds": self.wait.take_latest_max(),
            "hold_seconds": self.hold.take_latest_max(),
            "connect_seconds": self.connect.take_latest_max(),
        }

    def fold(self) -> None:
        """Count the holds that have ended since the last call."""
        ended = _taken_from(self.ended)
        after_wait = _taken_from(self.ended_after_wait)
        self.hold.record(*ended)
        for wait, hold in after_wait:
            self.wait.record(wait)
            self.hold.record(hold)
        if self.listener is not None and (ended or after_wait):
            self.listener.ended(ended, after_wait)

    def record_connect(self, seconds: float) -> None:
        """Count a connection that took so many seconds to open."""
        self.opened += 1
        self.connect.record(seconds)
        if self.listener is not None:
            self.listener.opened(seconds)

    def reconcile(self, connections: int) -> None:
        """Make the figures of connections add up: opened = open + discarded.

        An exception between two lines can keep an event from being counted.
        """
        missing = self.opened - connections - sum(self.discarded.values())
        if missing > 0:
            self.discarded["interrupted"] += missing
        elif missing < 0:
            self.opened -= missing

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain data, by the keys of a pool's report."""
        self.fold()
        wait, hold = self.wait.as_dict(), self.hold.as_dict()
        found_idle = hold["count"] - wait["count"]
        wait["count"] += found_idle
        wait["buckets"][0] += found_idle
        return {
            **{key: self.count[key] for key in COUNTED},
            "timeouts": self.refused["timeout"],
            "refused": sum(self.refused.values()),
            "refused_by_reason": dict(self.refused),
            "opened": self.opened,
            "discarded": dict(self.discarded),
            "wait_seconds": wait,
            "hold_seconds": hold,
            "connect_seconds": self.connect.as_dict(),
        }


def _taken_from(queue: deque[_T]) -> list[_T]:
    """Take everything out of a queue to which other threads append.

    A finaliser may take it out at the same time.
    """
    taken: list[_T] = []
    with contextlib.suppress(IndexError):
        while queue:
            taken.append(queue.popleft())
    return taken


def mean(histogram: Mapping[str, Any]) -> float | None:
    """Return the mean duration of a histogram's dict, None if nothing was counted."""
    count: int = histogram["count"]
    return histogram["sum"] / count if count else None


def quantile(histogram: Mapping[str, Any], q: float) -> float | None:
    """Return the duration that a share ``q`` (0 to 1) of those counted didn't exceed.

    The result is the upper edge of the bucket in which that share is reached, at most
    the largest duration counted; None if nothing was counted.
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


def with_summaries(histogram: Mapping[str, Any]) -> dict[str, Any]:
    """Return a histogram's dict with its "mean", "p50", "p95" and "p99" too."""
    return {
        **histogram,
        "mean": mean(histogram),
        "p50": quantile(histogram, 0.5),
        "p95": quantile(histogram, 0.95),
        "p99": quantile(histogram, 0.99),
    }


def empty_window() -> dict[str, Any]:
    """Return a window of the recent figures in which nothing happened."""
    window: dict[str, Any] = {"seconds": 0.0, **dict.fromkeys(RECENT, 0)}
    return window | {k: with_summaries(Histogram().as_dict()) for k in HISTOGRAMS}


def merge(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up the reports of several pools into one report of totals.

    The totals have every key of METRICS, and the recent figures. Peaks are added up
    too, though they need not have been at the same time.
    """
    totals: dict[str, Any] = {
        **dict.fromkeys(SUMMED, 0),
        **dict.fromkeys(GREATEST, 0.0),
        **{key: {} for key in LABELLED},
        **{key: Histogram().as_dict() for key in HISTOGRAMS},
        "recent": {window: empty_window() for window in WINDOWS},
    }
    for report in reports:
        for key in SUMMED:
            totals[key] += report[key]
        for key in GREATEST:
            totals[key] = max(totals[key], report[key])
        for key in LABELLED:
            for value, number in report[key].items():
                totals[key][value] = totals[key].get(value, 0) + number
        for key in HISTOGRAMS:
            _add(totals[key], report[key])
        for window, total in totals["recent"].items():
            _add_window(total, report["recent"][window])
    for total in totals["recent"].values():
        for key in HISTOGRAMS:
            total[key] = with_summaries(total[key])
    return totals


def _add(total: dict[str, Any], part: Mapping[str, Any]) -> None:
    total["count"] += part["count"]
    total["sum"] += part["sum"]
    total["max"] = max(total["max"], part["max"])
    total["buckets"] = [
        a + b for a, b in zip(total["buckets"], part["buckets"], strict=True)
    ]


def _add_window(total: dict[str, Any], part: Mapping[str, Any]) -> None:
    total["seconds"] = max(total["seconds"], part["seconds"])
    for key in RECENT:
        total[key] += part[key]
    for key in HISTOGRAMS:
        _add(total[key], part[key])


#: What is counted by name is counted under this one beyond a number of names.
OTHER = "other"


def sum_of(histograms: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the dict of a histogram of all that these have counted."""
    total = Histogram().as_dict()
    for histogram in histograms:
        _add(total, histogram)
    return total
