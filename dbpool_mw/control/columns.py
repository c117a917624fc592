"""The columns of the table of dbpool_stats: their names, titles and cells.

Every figure of a pool's report is a column. Others are made from it: how much a counter
goes up in a second, which takes two looks, and the figures of the last minute and
quarter of an hour.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from dbpool_mw.control.render import duration
from dbpool_mw.control.tables import Cell, Column, Tone
from dbpool_mw.core import metrics
from dbpool_mw.core.metrics import Metric
from dbpool_mw.core.text import NAME, REQUEST, shortened

#: The names of all columns, for --columns.
ALL = "all"
#: The columns that say what a row is about.
KEYS = ("pid", "alias")
_FIRST = (
    "state", "in_use", "max", "waiting", "idle", "wait_seconds_15m", "timeouts",
    "hold_seconds_15m", "wait_seconds", "hold_seconds", "checkouts", "command", "size",
)  # fmt: skip
#: What a table shows, the most important first, unless it is told what to show.
RANKED = (
    *_FIRST,
    *(m.key for m in metrics.METRICS if m.column and m.key not in _FIRST),
    "discarded",
    "uptime",
)
#: The same for --watch, which shows what happens now.
RANKED_WATCH = (
    "state", "in_use", "max", "waiting", "checkouts/s", "wait_seconds_60s", "idle",
    "timeouts/s", "hold_seconds_60s", "refused/s", "connect_errors/s", "opened/s",
    "in_use_peak_60s", "waiting_peak_60s", "command", "size", "waits/s", "uptime",
)  # fmt: skip
#: The counters that have a rate.
COUNTERS = [m for m in metrics.METRICS if m.kind == "counter" and not m.label]
# Numbers that are a sign of trouble when they aren't 0, and those to look at.
_TROUBLES = frozenset(
    ("timeouts", "refused", "connect_errors", "reclaimed", "leaked", "overdue")
)
_WARNINGS = frozenset(("waiting", "waiting_peak"))
# The width of "59.9s/59.9s/59.9s".
_SPREAD = 17
# What is left of a long text when it is cut.
_LEAST = 24
_LEAST_REASONS = 12


class PoolRow(NamedTuple):
    """What a row of the table is made from.

    `label` names the pool, `uptime` and `command` are its worker's. `rates` has what
    the pool's counters went up by in a second, None if that isn't known. The row of
    totals has a `pool` without texts.
    """

    pid: str
    label: str
    pool: Mapping[str, Any]
    rates: Mapping[str, float] | None = None
    uptime: float | None = None
    command: str = ""


class PoolColumn(NamedTuple):
    """A column: what it says, and the cell of a row."""

    column: Column
    help: str
    cell: Callable[[PoolRow], Cell]


def _columns() -> dict[str, PoolColumn]:
    """Return every column by its name, in the order in which tables have them."""
    found = [
        _text("pid", "PID", "The worker's process id.", lambda row: row.pid),
        _text("alias", "ALIAS", "The pool's database alias.", _label, _LEAST),
        PoolColumn(
            Column("state", "STATE", is_text=True),
            "running, draining or paused, and how long that lasts if it ends itself.",
            _state,
        ),
        _text("address", "ADDRESS", "What the pool connects to.", _address, _LEAST),
        *map(_figure, metrics.METRICS),
        *map(_rate, COUNTERS),
        *(_recent(key, window) for window in metrics.WINDOWS for key in _RECENT),
        PoolColumn(
            Column("uptime", "UPTIME"), "Time since the worker began to serve.", _uptime
        ),
        _text("command", "COMMAND", "The worker's command line.", _command, _LEAST),
    ]
    return {column.column.name: column for column in found}


def _text(
    name: str,
    title: str,
    help: str,
    text: Callable[[PoolRow], str],
    least: int | None = None,
) -> PoolColumn:
    column = Column(name, title, is_text=name != "pid", least=least)
    return PoolColumn(column, help, lambda row: Cell(text(row)))


def _label(row: PoolRow) -> str:
    return row.label


def _address(row: PoolRow) -> str:
    return shortened(str(row.pool.get("address", "")), NAME)


def _uptime(row: PoolRow) -> Cell:
    return Cell("" if row.uptime is None else duration(row.uptime))


def _command(row: PoolRow) -> str:
    return shortened(row.command, NAME)


def _state(row: PoolRow) -> Cell:
    """Return a pool's state, and how long it lasts if it ends by itself."""
    if "state" not in row.pool:
        return Cell("")
    state = shortened(row.pool["state"], NAME)
    left = row.pool.get("state_seconds_left")
    text = state if left is None else f"{state}, {duration(left)} left"
    return Cell(text, "" if state == "running" else "error")


def _figure(metric: Metric) -> PoolColumn:
    is_text = bool(metric.label)
    column = Column(
        metric.key,
        metric.title,
        is_text=is_text,
        least=_LEAST_REASONS if is_text else None,
        room=_SPREAD if metric.kind == "histogram" else 0,
    )

    def cell(row: PoolRow) -> Cell:
        value = row.pool.get(metric.key)
        if metric.key == "in_use" and value and value >= row.pool["max"]:
            return Cell(str(value), "warning")
        # A counter counts from the start of the worker: it says that something was.
        return _value(metric.key, value, "warning")

    return PoolColumn(column, metric.help, cell)


def _rate(metric: Metric) -> PoolColumn:
    def cell(row: PoolRow) -> Cell:
        if row.rates is None:
            return Cell("-")
        rate = row.rates[metric.key]
        bad = metric.key in _TROUBLES and rate > 0
        return Cell(_rate_text(rate), "error" if bad else "")

    help = metric.help.removesuffix(".") + ", in a second; with --watch."
    return PoolColumn(
        Column(f"{metric.key}/s", f"{metric.title}/S", room=6), help, cell
    )


#: What a window of the recent figures has, and the titles.
_RECENT = {
    "checkouts": "CHECKOUTS",
    "timeouts": "TIMEOUTS",
    "refused": "REFUSED",
    "in_use_peak": "USED PEAK",
    "waiting_peak": "WAITING PEAK",
    "wait_seconds": "WAIT",
    "hold_seconds": "HOLD",
    "connect_seconds": "CONNECT",
}


def _span(window: str) -> str:
    """Return a window of the recent figures as names and titles have it: 60s, 15m."""
    seconds = int(window)
    return f"{seconds}s" if seconds <= 60 else f"{seconds // 60}m"


def _recent(key: str, window: str) -> PoolColumn:
    span = _span(window)
    is_spread = key in metrics.HISTOGRAMS
    # "MEAN" would make it too wide for a narrow terminal.
    title = f"{_RECENT[key]} {span}" + (" M/P95/MAX" if is_spread else "")

    def cell(row: PoolRow) -> Cell:
        figures = row.pool.get("recent", {}).get(window, {})
        return _value(key, figures.get(key), "error")

    return PoolColumn(
        Column(f"{key}_{span}", title, room=_SPREAD if is_spread else 0),
        f"{key} of the last {window} s.",
        cell,
    )


def _value(key: str, value: Any, trouble: Tone = "") -> Cell:
    """Return the cell of a figure, with the tone `trouble` where it shouldn't be."""
    if value is None:
        return Cell("-")
    if isinstance(value, Mapping):
        return Cell(spread(value) if "count" in value else _by_label(value))
    if not value:
        return Cell("0")
    tone: Tone = trouble if key in _TROUBLES else ""
    tone = "warning" if key in _WARNINGS else tone
    return Cell(duration(value) if key.endswith("_seconds") else str(value), tone)


def spread(histogram: Mapping[str, Any]) -> str:
    """Return mean, 95th percentile and maximum, "-" if nothing was counted."""
    count = histogram["count"]
    if not count:
        return "-"
    p95 = histogram.get("p95")
    if p95 is None:
        p95 = metrics.quantile(histogram, 0.95) or 0.0
    return "/".join(map(duration, (histogram["sum"] / count, p95, histogram["max"])))


def _by_label(numbers: Mapping[str, int]) -> str:
    """Return the numbers that aren't 0, the largest first: "idle:9 expired:2"."""
    ordered = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    text = " ".join(f"{label}:{n}" for label, n in ordered if n)
    return shortened(text, REQUEST) or "-"


def _rate_text(rate: float) -> str:
    if not rate:
        return "0"
    if rate < 0.005:
        return "<0.01"
    return f"{rate:.2f}" if rate < 1 else f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"


#: Every column by its name.
COLUMNS = _columns()
#: The names of those of the last minute and quarter of an hour.
RECENT = frozenset(f"{key}_{_span(w)}" for key in _RECENT for w in metrics.WINDOWS)
#: The names of those that take two looks.
RATES = frozenset(f"{metric.key}/s" for metric in COUNTERS)


def chosen(texts: Iterable[str], *, with_rates: bool = True) -> list[str]:
    """Return the names of columns in texts such as "waiting,checkouts", in order.

    A title such as USED stands for its column's name. Raises ValueError for a name that
    no column has; its text lists those that exist. Without rates, which take two looks,
    `all` leaves them out, and their names raise ValueError.
    """
    titles = {each.column.title.lower(): name for name, each in COLUMNS.items()}
    given = [name.strip().lower() for text in texts for name in text.split(",")]
    names = list(dict.fromkeys(titles.get(name, name) for name in given if name))
    unknown = [name for name in names if name not in COLUMNS and name != ALL]
    if unknown or not names:
        raise ValueError(_unknown(unknown[0] if unknown else ""))
    for name in names:
        if name in RATES and not with_rates:
            raise ValueError(
                f"{name} needs --watch: it is how much a counter goes up in a second, "
                "from one look to the next."
            )
    if ALL in names:
        names = [name for name in COLUMNS if with_rates or name not in RATES]
    return [*KEYS, *(name for name in names if name not in KEYS)]


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, COLUMNS, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    known = textwrap.fill(", ".join([ALL, *COLUMNS]), 76, break_on_hyphens=False)
    return (
        f"There is no column {shortened(name, NAME)!r}{hint} Known are:\n"
        f"{textwrap.indent(known, '  ')}"
    )
