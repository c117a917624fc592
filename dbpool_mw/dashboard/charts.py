"""Charts of the last minutes, as the points of SVG lines: drawn without a script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.db import DEFAULT_DB_ALIAS

from dbpool_mw.control import render
from dbpool_mw.control.client import Answer
from dbpool_mw.core.text import NAME, shortened
from dbpool_mw.dashboard.presentation import WINDOWS, rows_of

WIDTH, HEIGHT = 600, 120
#: How many seconds are one point, by those that a chart covers.
_STEPS = {60: 1, 900: 6}
#: The most aliases that charts are drawn for, the default one first.
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
#: What of the workers' histories a survey asks for: no more than a chart can show.
ASKED = {
    "history": True,
    "columns": ["age", *(name for _, columns, _ in _CHARTS for name, _ in columns)],
    "step": _STEPS[900],
}


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
    return [
        _chart(alias, found, seconds, chart)
        for alias, found in _by_alias(answers)[:_ALIASES]
        for chart in _CHARTS
        for seconds in WINDOWS
    ]


def note(answers: Iterable[Answer]) -> str:
    """Return how many aliases have no charts, and which have; "" if all have."""
    aliases = [shortened(alias, NAME) for alias, _ in _by_alias(answers)]
    shown, missing = aliases[:_ALIASES], len(aliases[_ALIASES:])
    if not missing:
        return ""
    have = "1 more alias has" if missing == 1 else f"{missing} more aliases have"
    return f"Charts of {', '.join(shown)}; {have} none."


def _by_alias(answers: Iterable[Answer]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    histories: dict[str, list[Mapping[str, Any]]] = {}
    for _, history in rows_of(answers, "history"):
        histories.setdefault(history["alias"], []).append(history)
    return sorted(histories.items(), key=lambda i: (i[0] != DEFAULT_DB_ALIAS, i[0]))


def _chart(
    alias: str,
    histories: Sequence[Mapping[str, Any]],
    length: int,
    chart: tuple[str, Sequence[tuple[str, str]], bool],
) -> Chart:
    step, called = _STEPS[length], f"the {WINDOWS[length]}"
    title, columns, is_seconds = chart
    values = _series(histories, [column for column, _ in columns], length, step)
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
    histories: Iterable[Mapping[str, Any]], names: Sequence[str], length: int, step: int
) -> dict[str, list[float | None]]:
    """Return the values of columns, oldest first, one for each ``step`` seconds.

    None where no worker has one. Of a worker's seconds of one point the highest counts,
    and workers are added up point by point.
    """
    total: dict[str, list[float | None]]
    total = {name: [None] * (length // step) for name in names}
    for history in histories:
        places = {name: at for at, name in enumerate(history["columns"])}
        if "age" not in places:
            continue
        at_age = places["age"]
        rows = [
            (int(row[at_age] // step), row)
            for row in history["rows"]
            if 0 <= row[at_age] < length
        ]
        for name in places.keys() & total:
            _add(total[name], rows, places[name], is_added=name in _ADDED)
    return {name: found[::-1] for name, found in total.items()}


def _add(
    total: list[float | None],
    rows: Iterable[tuple[int, Sequence[Any]]],
    place: int,
    *,
    is_added: bool,
) -> None:
    """Add what a worker has at a place of its rows, each with its point, to a total."""
    of_worker: dict[int, float] = {}
    for point, row in rows:
        value = row[place]
        if value is not None and value >= of_worker.get(point, value):
            of_worker[point] = value
    for point in range(max(of_worker, default=-1) + 1):
        # A sample that came a little late leaves a second without one.
        value = of_worker.get(point, of_worker.get(point + 1))
        before = total[point]
        if value is None or before is None:
            total[point] = before if value is None else value
        else:
            total[point] = before + value if is_added else max(before, value)


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
