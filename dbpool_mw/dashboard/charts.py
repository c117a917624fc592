"""Charts of the last minutes, as the points of SVG lines: drawn without a script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dbpool_mw.control import render
from dbpool_mw.control.client import Answer
from dbpool_mw.core.text import NAME, shortened
from dbpool_mw.dashboard.presentation import WINDOWS

WIDTH, HEIGHT = 600, 120
#: How many seconds are one point, by those that a chart covers.
_STEPS = {60: 1, 900: 6}
#: The most aliases that charts are drawn for.
_ALIASES = 6

#: For each chart: its title, its columns with their names, whether they are seconds.
_CHARTS = (
    (
        "Connections",
        (
            ("in_use_peak", "most in use"),
            ("idle", "idle"),
            ("waiting_peak", "most waiting"),
        ),
        False,
    ),
    (
        "Wait and hold, 95th percentile",
        (("wait_p95", "wait"), ("hold_p95", "hold")),
        True,
    ),
)
#: The columns that are added up for several workers; of the others the highest counts.
_ADDED = ("in_use_peak", "idle", "waiting_peak")


class Line(NamedTuple):
    """A line: its name, its number in the style sheet, its points, its last value."""

    name: str
    number: int
    points: Sequence[str]
    last: str


class Chart(NamedTuple):
    """A chart: what it is of, its lines, its highest value, and all of it in words."""

    key: str
    title: str
    lines: Sequence[Line]
    top: str
    since: str
    words: str


def charts(answers: Iterable[Answer]) -> list[Chart]:
    """Return the charts of the workers' histories, by alias."""
    histories: dict[str, list[Mapping[str, Any]]] = {}
    for answer in answers:
        for history in (answer.reply or {}).get("history") or ():
            histories.setdefault(history["alias"], []).append(history)
    return [
        _chart(alias, found, seconds, chart)
        for alias, found in sorted(histories.items())[:_ALIASES]
        for chart in _CHARTS
        for seconds in WINDOWS
    ]


def _chart(
    alias: str,
    histories: Sequence[Mapping[str, Any]],
    length: int,
    chart: tuple[str, Sequence[tuple[str, str]], bool],
) -> Chart:
    step, called = _STEPS[length], f"the {WINDOWS[length]}"
    title, columns, is_seconds = chart
    values = {column: _series(histories, column, length, step) for column, _ in columns}
    every = [value for found in values.values() for value in found]
    top = _highest(every) or 0
    # An empty chart is not a line at the top.
    scale = top or 1

    def shown(value: float | None) -> str:
        if value is None:
            return "none"
        return render.duration(value) if is_seconds else f"{value:g}"

    lines = [
        Line(name, at, _points(values[column], scale), shown(values[column][-1]))
        for at, (column, name) in enumerate(columns, start=1)
    ]
    words = ", ".join(
        f"{name} now {shown(found[-1])}, at most {shown(_highest(found))}"
        for (_, name), found in zip(columns, values.values(), strict=True)
    )
    name = shortened(alias, NAME)
    return Chart(
        f"{alias}-{title}-{length}",
        f"{name}: {title[0].lower()}{title[1:]}, {called}",
        lines,
        shown(top),
        f"{length // 60} min ago",
        f"{name}, {called}: {words}",
    )


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _series(
    histories: Iterable[Mapping[str, Any]], column: str, length: int, step: int
) -> list[float | None]:
    """Return the values of a column, oldest first, one for each ``step`` seconds.

    None where no worker has one. Workers are added up second by second, and of the
    seconds of one point the highest counts.
    """
    total: list[float | None] = [None] * length
    for history in histories:
        columns = history["columns"]
        if column not in columns or "age" not in columns:
            continue
        place, at_age = columns.index(column), columns.index("age")
        of_worker: dict[int, float] = {}
        for row in history["rows"]:
            value, second = row[place], int(row[at_age])
            if value is not None and 0 <= second < length:
                of_worker[second] = max(value, of_worker.get(second, value))
        for second in range(min(length, max(of_worker, default=-1) + 1)):
            # A sample that came a little late leaves a second without one.
            value = of_worker.get(second, of_worker.get(second + 1))
            if value is None:
                continue
            before = total[second]
            if before is None:
                total[second] = value
            elif column in _ADDED:
                total[second] = before + value
            else:
                total[second] = max(before, value)
    parts = [total[at : at + step] for at in range(0, length, step)]
    return [_highest(part) for part in reversed(parts)]


def _points(values: Sequence[float | None], scale: float) -> list[str]:
    """Return the points of a line; several lines where values are missing between."""
    lines: list[list[str]] = [[]]
    width = WIDTH / max(len(values) - 1, 1)
    for at, value in enumerate(values):
        if value is None:
            lines.append([])
            continue
        y = HEIGHT - 2 - value / scale * (HEIGHT - 4)
        lines[-1].append(f"{at * width:.1f},{y:.1f}")
    # A point alone is a line of no length, which is drawn as a dot.
    return [" ".join(line if len(line) > 1 else line * 2) for line in lines if line]
