"""Tables of text that fit a terminal.

What doesn't fit is left out, the least important columns first, or stands in another
table below. The functions here have no side effects; what they are given is printable.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

#: What a cell says, by which a style is chosen: nothing special, something to look at,
#: something that is wrong.
Tone = Literal["", "warning", "error"]
#: Return the text as it is shown in a tone.
Paint = Callable[[str, Tone], str]

_GAP = "  "
_MORE = "..."


class Column(NamedTuple):
    """A column of a table.

    A text that may be cut keeps at least so many characters (`least`), of its beginning
    or, if it `keeps_end`, of both its ends. A column has `room` for so many, even if no
    cell needs them: it doesn't move while they change.
    """

    name: str
    title: str
    is_text: bool = False
    least: int | None = None
    room: int = 0
    keeps_end: bool = False


class Cell(NamedTuple):
    """What stands in a column of one row."""

    text: str
    tone: Tone = ""


class Row(NamedTuple):
    """Cells by their columns' names, and the lines that stand below them, indented."""

    cells: Mapping[str, Cell]
    below: Sequence[str] = ()


class Message(NamedTuple):
    """A row that has a text in place of cells, behind the cell of the first column."""

    first: str
    text: str
    tone: Tone = ""


def plain(text: str, tone: Tone) -> str:
    """Paint nothing."""
    return text


def table(
    columns: Sequence[Column],
    rows: Sequence[Row | Message],
    width: int | None = None,
    *,
    keys: int = 2,
    ranked: Sequence[str] | None = None,
    paint: Paint = plain,
) -> str:
    """Return a table of the columns, at most `width` characters wide (None: any).

    The first `keys` columns say what a row is about, and are always shown. Of the
    others those that fit are, in the order of the names in `ranked`; without it all
    are, in as many tables as it takes.
    """
    full = [row for row in rows if isinstance(row, Row)]
    widths = {
        column.name: max(
            len_shown(column.title),
            column.room,
            *(len_shown(row.cells[column.name].text) for row in full),
        )
        for column in columns
    }
    first = columns[0].name
    texts = [row.first for row in rows if isinstance(row, Message)]
    widths[first] = max(widths[first], *map(len_shown, texts), 0)
    least = {
        column.name: min(widths[column.name], column.least or widths[column.name])
        for column in columns
    }
    heads, others = list(columns[:keys]), list(columns[keys:])
    for head in heads:
        # What a row is about may take a third of the width.
        third = min(widths[head.name], (width or 0) // 3)
        least[head.name] = max(least[head.name], third)
    if width is None:
        parts = [others]
    elif ranked is None:
        parts = _split(heads, others, least, width)
    else:
        parts = [_fitting(heads, others, least, width, ranked)]
    return "\n\n".join(
        _lines(heads + part, rows, widths, least, width, paint) for part in parts
    )


def _fitting(
    heads: Sequence[Column],
    others: Sequence[Column],
    least: Mapping[str, int],
    width: int,
    ranked: Sequence[str],
) -> list[Column]:
    """Return those that fit beside the heads; one that doesn't makes room for none."""
    left = width - _sum(heads, least)
    taken = set()
    by_name = {column.name: column for column in others}
    for name in filter(by_name.__contains__, ranked):
        needed = len(_GAP) + least[name]
        if needed <= left:
            taken.add(name)
            left -= needed
    return [column for column in others if column.name in taken]


def _split(
    heads: Sequence[Column],
    others: Sequence[Column],
    least: Mapping[str, int],
    width: int,
) -> list[list[Column]]:
    """Return the columns in parts that each fit beside the heads."""
    parts: list[list[Column]] = [[]]
    for column in others:
        if parts[-1] and _sum([*heads, *parts[-1], column], least) > width:
            parts.append([])
        parts[-1].append(column)
    return parts


def _sum(columns: Iterable[Column], widths: Mapping[str, int]) -> int:
    """Return the width of a table of these columns."""
    needed = [widths[column.name] for column in columns]
    return sum(needed) + len(_GAP) * max(0, len(needed) - 1)


def _lines(
    columns: Sequence[Column],
    rows: Sequence[Row | Message],
    widths: Mapping[str, int],
    least: Mapping[str, int],
    width: int | None,
    paint: Paint,
) -> str:
    shown = {column.name: widths[column.name] for column in columns}
    if width is not None:
        shown = {name: least[name] for name in shown}
        left = width - _sum(columns, shown)
        for name in shown:
            more = max(0, min(left, widths[name] - shown[name]))
            shown[name] += more
            left -= more
    titles = {column.name: Cell(column.title) for column in columns}
    lines = []
    for row in (Row(titles), *rows):
        if isinstance(row, Message):
            lines += _message(row, columns[0], shown, width, paint)
            continue
        cells = [
            _padded(row.cells[column.name], column, shown[column.name], paint)
            for column in columns
        ]
        lines.append(_GAP.join(cells).rstrip())
        lines += [indented for text in row.below for indented in _below(text, width)]
    return "\n".join(lines)


def _padded(cell: Cell, column: Column, width: int, paint: Paint) -> str:
    text = (cut_inside if column.keeps_end else cut)(cell.text, width)
    space = " " * (width - len_shown(text))
    text = paint(text, cell.tone) if cell.tone else text
    return text + space if column.is_text else space + text


def _message(
    row: Message,
    column: Column,
    shown: Mapping[str, int],
    width: int | None,
    paint: Paint,
) -> list[str]:
    head = _padded(Cell(row.first), column, shown[column.name], plain) + _GAP
    lines = wrapped(row.text, width, indent=len(head))
    lines = [paint(line, row.tone) if row.tone else line for line in lines]
    return [head + lines[0], *(" " * len(head) + line for line in lines[1:])]


def _below(text: str, width: int | None) -> list[str]:
    return ["    " + line for line in wrapped(text, width, indent=4)]


def wrapped(text: str, width: int | None, indent: int = 0) -> list[str]:
    """Return a text's lines of at most `width` characters, less those of the indent.

    White space at its beginning stays, also before the lines that follow the first.
    """
    if width is None or indent + len_shown(text) <= width:
        return [text]
    body = text.lstrip()
    own = " " * (len(text) - len(body))
    # Narrower than that is no terminal that somebody reads.
    wide = max(20, width - indent)
    lines = textwrap.wrap(
        body, wide, initial_indent=own, subsequent_indent=own, break_on_hyphens=False
    )
    return lines or [""]


def with_values(
    columns: Iterable[Column], rows: Collection[Row], optional: Collection[str]
) -> list[Column]:
    """Return the columns, of the `optional` ones those that aren't all dashes."""
    return [
        column
        for column in columns
        if column.name not in optional
        or any(row.cells[column.name].text != "-" for row in rows)
    ]


def cut(text: str, width: int) -> str:
    """Return the text, shortened to so many characters of a terminal."""
    if len_shown(text) <= width:
        return text
    kept = text[:width]
    while kept and len_shown(kept) > width - len(_MORE):
        kept = kept[:-1]
    return kept + _MORE[:width]


def cut_inside(text: str, width: int) -> str:
    """Return the text without its middle, in so many characters of a terminal."""
    # Narrower than that there is no room for both ends.
    if len_shown(text) <= width or width < 3 * len(_MORE):
        return cut(text, width)
    half = (width - len(_MORE)) // 2
    end = text[-half:]
    while len_shown(end) > half:
        end = end[1:]
    return cut(text, width - len_shown(end)) + end


def len_shown(text: str) -> int:
    """Return how many characters of a terminal a printable text takes.

    Chinese and Japanese ones take two, combining ones none.
    """
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )  # fmt: skip
