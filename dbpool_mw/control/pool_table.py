"""The table of dbpool_stats: a row for each worker and pool, and one of totals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dbpool_mw.control import columns, tables
from dbpool_mw.control.client import Answer
from dbpool_mw.control.columns import COLUMNS, KEYS, PoolRow
from dbpool_mw.control.rates import Key, key_of
from dbpool_mw.control.render import error_of, labels, order_text, worker_names
from dbpool_mw.control.tables import Message, Paint, Row
from dbpool_mw.core import metrics
from dbpool_mw.core.text import NAME, shortened

Rates = Mapping[Key, Mapping[str, float]]

#: Rows that are shown in any case, however low the terminal is.
_LEAST_ROWS = 3


def pool_table(
    answers: Sequence[Answer],
    *,
    names: Sequence[str] | None = None,
    ranked: Sequence[str] = columns.RANKED,
    rates: Rates | None = None,
    width: int | None = None,
    height: int | None = None,
    paint: Paint = tables.plain,
) -> str:
    """Return a row for each worker and pool, and totals of several rows.

    `names` are the columns to show, all of them; None for those of `ranked` that fit in
    `width` characters, None for all of `ranked`. `rates` are those of `Rates.look`. At
    most `height` rows are shown (None: all), and how many more there are. A worker that
    didn't answer has a row with its error.
    """
    rows = list(_rows(answers, rates or {}))
    pools = [row for row in rows if isinstance(row, PoolRow)]
    if height is not None and len(rows) > max(height, _LEAST_ROWS):
        kept = max(height, _LEAST_ROWS) - 1
        more = f"{len(rows) - kept} more rows; choose with --alias and --pid"
        rows = [*rows[:kept], Message("...", more)]
    if len(pools) > 1:
        rows.append(_totals(pools))
    if names is None:
        has_recent = any("recent" in row.pool for row in pools)
        ranked = [n for n in ranked if has_recent or n not in columns.RECENT]
        shown = [COLUMNS[n] for n in COLUMNS if n in (*KEYS, *ranked)]
    else:
        shown = [COLUMNS[n] for n in names]
    return tables.table(
        [each.column for each in shown],
        [
            row
            if isinstance(row, Message)
            else Row({each.column.name: each.cell(row) for each in shown})
            for row in rows
        ],
        width,
        keys=len(KEYS),
        ranked=ranked if names is None else None,
        paint=paint,
    )


def _rows(answers: Sequence[Answer], rates: Rates) -> Iterator[PoolRow | Message]:
    names, label = worker_names(answers), labels(answers)
    for answer in answers:
        name = names[answer.path]
        if answer.reply is None:
            yield Message(name, error_of(answer), "error")
            continue
        uptime, command = answer.reply["uptime"], answer.reply["command"]
        if not answer.reply["pools"]:
            orders = ", ".join(map(order_text, answer.reply.get("orders", [])))
            text = f"no pool open; {orders}" if orders else "no pool open"
            yield Message(name, f"{text} ({shortened(command, NAME)})")
        for pool in answer.reply["pools"]:
            rate = rates.get(key_of(answer, pool))
            yield PoolRow(name, label(pool), pool, rate, uptime, command)


def _totals(rows: Sequence[PoolRow]) -> PoolRow:
    """Return the row of totals; its rates are those that are known."""
    known = [row.rates for row in rows if row.rates is not None]
    rates: dict[str, float] | None = None
    if known:
        rates = {key: sum(each[key] for each in known) for key in known[0]}
    return PoolRow("total", "", metrics.merge(row.pool for row in rows), rates)
