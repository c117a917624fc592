"""The tables and plots of a comparison: as text, as JSON, and in the documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from textwrap import fill, wrap

from sandbox.compare.subjects import Subject
from sandbox.documents import list_table, write_between

BEGIN = ".. figures begin: written by python -m sandbox.compare --write-docs"
END = ".. figures end"


@dataclass(frozen=True)
class Figure:
    """What was measured once in every round; ``digits`` are those after the point."""

    rounds: Sequence[float]
    unit: str = ""
    digits: int = 0

    @property
    def median(self) -> float:
        """Return the middle round."""
        return median(self.rounds)

    def __str__(self) -> str:
        """Return the median with its unit, and the least and the most in brackets."""
        unit = f" {self.unit}" if self.unit else ""
        text = f"{self.median:.{self.digits}f}{unit}"
        least, most = (
            f"{each:.{self.digits}f}" for each in (min(self.rounds), max(self.rounds))
        )
        return text if least == most else f"{text} ({least} to {most})"


Cell = Figure | str


@dataclass(frozen=True)
class Plot:
    """Bars for each subject: the medians of some of a table's columns.

    ``name`` is the file's, without its suffix. ``columns`` have Figures.
    """

    name: str
    title: str
    unit: str
    columns: Sequence[str]


@dataclass
class Table:
    """A row for each subject: its title, then a cell for each of ``columns``.

    ``method`` says how it was measured, and ``notes`` what to know when reading it.
    """

    title: str
    method: str
    columns: Sequence[str]
    rows: list[tuple[str, Sequence[Cell]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plot: Plot | None = None

    def add(self, subject: Subject, cells: Sequence[Cell] | str) -> None:
        """Add a subject's row; a text instead of cells says why there are none."""
        if isinstance(cells, str):
            cells = [cells, *[""] * (len(self.columns) - 1)]
        self.rows.append((subject.title, cells))


def as_text(about: Mapping[str, str], tables: Sequence[Table]) -> str:
    """Return everything as text for a terminal."""
    lines = [f"{key}: {value}" for key, value in about.items()]
    for table in tables:
        lines += ["", table.title, "-" * len(table.title), fill(table.method, 88), ""]
        rows = [["", *table.columns]]
        rows += [[title, *map(str, cells)] for title, cells in table.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = zip(row, widths, strict=True)
            lines.append("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
        lines += [line for note in table.notes for line in ["", *wrap(note, 88)]]
    return "\n".join(lines)


def as_json(about: Mapping[str, str], tables: Sequence[Table]) -> str:
    """Return everything, each round included, as JSON."""

    def plain(cell: Cell) -> object:
        if isinstance(cell, str):
            return cell
        return {"median": cell.median, "unit": cell.unit, "rounds": list(cell.rounds)}

    return json.dumps(
        {
            "version": 1,
            "about": about,
            "tables": [
                {
                    "title": table.title,
                    "method": table.method,
                    "columns": list(table.columns),
                    "rows": {
                        title: [plain(cell) for cell in cells]
                        for title, cells in table.rows
                    },
                    "notes": table.notes,
                }
                for table in tables
            ],
        },
        indent=2,
    )


def restructured_text(about: Mapping[str, str], tables: Sequence[Table]) -> str:
    """Return everything as reStructuredText."""
    lines = ["Measured on:", ""]
    for key, value in about.items():
        lines += wrap(f":{key}: {value}", 96, subsequent_indent="   ")
    for table in tables:
        lines += ["", table.title, "~" * len(table.title), "", fill(table.method, 96)]
        if table.plot:
            lines += ["", f".. image:: images/{table.plot.name}.svg"]
            lines += [f"   :alt: {table.plot.title}, as in the table below"]
        rows: list[list[str]] = [["", *table.columns]]
        rows += [[title, *map(str, cells)] for title, cells in table.rows]
        lines += ["", *list_table([list(map(_escaped, row)) for row in rows])]
        lines += [line for note in table.notes for line in ["", *wrap(note, 96)]]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Return a text, such as an error, that reStructuredText takes as it is."""
    return re.sub(r"([\\*`|]|_(?=\W|$))", r"\\\1", text)


def write_into(page: Path, text: str) -> None:
    """Replace the figures of a page. Raises ValueError."""
    write_between(page, BEGIN, END, text)
