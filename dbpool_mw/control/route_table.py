"""The table of dbpool_stats --routes: a row for each alias and name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dbpool_mw.control import tables
from dbpool_mw.control.client import Answer
from dbpool_mw.control.columns import spread
from dbpool_mw.control.render import duration, silent_rows
from dbpool_mw.control.tables import Cell, Column, Paint, Row
from dbpool_mw.core.text import NAME, shortened

_COLUMNS = (
    Column("alias", "ALIAS", is_text=True, least=24),
    # Routes that begin alike differ at their ends.
    Column("route", "ROUTE", is_text=True, least=18, keeps_end=True),
    Column("holds", "HOLDS"),
    Column("held", "HELD"),
    Column("hold", "HOLD M/P95/MAX"),
    Column("wait", "WAIT M/P95/MAX"),
)
#: What a narrow table shows first. 80 characters have room for all.
_RANKED = ("route", "held", "hold", "wait", "holds")


def route_table(
    rows: Sequence[Mapping[str, Any]],
    answers: Sequence[Answer] = (),
    *,
    width: int | None = None,
    paint: Paint = tables.plain,
) -> str:
    """Return a table of merged rows; HELD is the time of all holds together.

    At most `width` characters wide (None: any). Each of the `answers` that is none has
    a row with its error.
    """
    silent = silent_rows(answers)
    if not rows and not silent:
        return "No hold has ended yet."
    shown = [Row(_cells(row)) for row in rows]
    return tables.table(
        _COLUMNS, [*shown, *silent], width, keys=1, ranked=_RANKED, paint=paint
    )


def _cells(row: Mapping[str, Any]) -> dict[str, Cell]:
    holds, waits = row["holds"], row["waits"]
    texts = {
        "alias": shortened(row["alias"], NAME),
        "route": shortened(row["name"], NAME),
        "holds": str(holds["count"]),
        "held": duration(holds["sum"]),
        "hold": spread(holds),
        "wait": spread(waits),
    }
    return {name: Cell(text) for name, text in texts.items()}
