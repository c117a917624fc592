"""What the README shows of a comparison: one plot, and one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

from dbpool_mw.core.docs import SITE
from sandbox.compare.report import Cell, Figure, Table
from sandbox.compare.subjects import CONNECTIONS, SUBJECTS, WORKERS
from sandbox.documents import list_table, write_between
from sandbox.server import ROOT, THREADS

README = ROOT / "README.rst"
BEGIN, END = ".. comparison: begin", ".. comparison: end"

#: Absolute addresses, because a package index shows the README too.
PLOT = (
    "https://raw.githubusercontent.com/dbpool-mw/django-dbpool-mw/main"
    "/docs/images/comparison-selects.svg"
)
PAGE = f"{SITE}comparison.html"

#: The subjects that have a row: each way to connect once, as it is used most.
ROWS = (
    "django",
    "persistent",
    "native",
    "connection-pool",
    "postgrespool2",
    "real-pool",
    "geventpool",
    "pgbouncer-session",
    "pgbouncer-transaction-persistent",
    "dbpool-psycopg2",
    "dbpool-psycopg",
)
SHOWN = tuple(each.title for each in SUBJECTS if each.key in ROWS)

#: The titles of the columns, and which columns of which tables they are. What a run
#: didn't measure is left out.
COLUMNS = {
    "Pages/s": ("Three selects: pages a second", "Pages/s, 8 clients"),
    "p99": ("Three selects: pages a second", "p99, 8 clients"),
    "Round trips": ("Round trips for a page", "Three selects"),
    "Longest wait": ("50 threads, pools of 10", "Longest wait"),
    "Failed": ("Failed requests", "Backends killed: failed"),
    "Leaked": ("Sessions", "Leaked"),
}
MEANINGS = {
    "Pages/s": "pages a second with 8 clients",
    "p99": "what 99 of 100 of these requests, of all rounds, take at most",
    "Round trips": "what a page of three selects waits for",
    "Longest wait": "of 50 threads, on pools of 10; without a pool each thread may "
    "have a connection",
    "Failed": "requests that failed when all backends were killed",
    "Leaked": "changes of a session, of those that dbpool_mw's own tests try, that "
    "reach the next request",
}


def write(about: Mapping[str, str], tables: Sequence[Table]) -> None:
    """Replace what is between the two comments of the README. Raises ValueError."""
    write_between(README, BEGIN, END, summary(about, tables))


def summary(about: Mapping[str, str], tables: Sequence[Table]) -> str:
    """Return the plot and the table, a row for each subject of the first table."""
    known = {table.title: table for table in tables}
    columns = {
        title: _column(known[table], column)
        for title, (table, column) in COLUMNS.items()
        if table in known
    }
    rows = [["", *columns]]
    for title, _ in next(iter(known.values())).rows:
        if title in SHOWN:
            rows.append([title, *(each.get(title, "") for each in columns.values())])
    lines = [
        f".. image:: {PLOT}",
        "   :alt: Pages a second, of three selects each.",
        "",
    ]
    lines += list_table(rows)
    meanings = "; ".join(
        f"{title}: {MEANINGS[title]}{_rounds(known[COLUMNS[title][0]], column)}"
        for title, (_, column) in COLUMNS.items()
        if title in columns
    )
    conditions = (
        f"{meanings}. What names no rounds was measured once. All but "
        "django-postgrespool2, and what says so, are on psycopg 3. gunicorn has "
        f"{WORKERS} workers, of {THREADS} threads each or on gevent, with a pool of "
        f"{CONNECTIONS} each; clients, workers and PostgreSQL share one machine: "
        f"{about['processor']}, {about['date']}. `The comparison <{PAGE}>`_ has the "
        "versions, the settings, the spread, the other subjects, pages and faults, and "
        "what another does better."
    )
    # A hyphen may be part of an address.
    wrapped = fill(conditions, 98, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, "", wrapped])


def _rounds(table: Table, column: str) -> str:
    """Return of how many rounds a column has the medians, "" if of one."""
    index = list(table.columns).index(column)
    cells = [cells[index] for _, cells in table.rows]
    most = max(
        (len(each.rounds) for each in cells if isinstance(each, Figure)), default=0
    )
    return f", the median of {most} rounds" if most > 1 else ""


def _column(table: Table, column: str) -> dict[str, str]:
    index = list(table.columns).index(column)
    return {title: _short(cells[index] or cells[0]) for title, cells in table.rows}


def _short(cell: Cell) -> str:
    """Return a figure without its rounds, or in short why there is none."""
    if isinstance(cell, Figure):
        return f"{cell.median:.{cell.digits}f} {cell.unit}".rstrip()
    return cell.partition(":")[0]
