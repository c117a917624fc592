"""Pages a second where a request waits for another service between two queries."""

from __future__ import annotations

from dataclasses import replace

from sandbox.compare.pages import OUTSIDE, all_served, measure_page
from sandbox.compare.report import Table
from sandbox.compare.run import Run
from sandbox.compare.subjects import CONNECTIONS, WORKERS, Subject

CLOSED = Subject(
    "native-closed",
    "Django's own pool, connection.close()",
    "psycopg",
    ("Django", "psycopg", "psycopg-pool"),
    "connection.close() before the wait, a line in the view.",
)
RELEASED = Subject(
    "dbpool-released",
    "dbpool_mw, released()",
    "psycopg",
    ("django-dbpool-mw", "psycopg"),
    "released() around the wait, a line in the view.",
)

#: Views with another line, and the subjects beside which they are measured.
CHANGED = ((CLOSED, "native"), (RELEASED, "dbpool-psycopg"))

#: Each of 32 clients has a thread, and a pool fewer connections than there are threads.
THREADS = 16


def measure(run: Run) -> list[Table]:
    """Load every subject with a page that keeps its request waiting."""
    keys = {subject.key for subject in run.subjects}
    changed = [subject for subject, beside in CHANGED if beside in keys]
    run = replace(run, subjects=[*run.subjects, *changed])
    with all_served(run, ("outside",), THREADS) as started:
        table = measure_page(run, "outside", started, THREADS)
    size = WORKERS * CONNECTIONS
    table.notes.append(
        f"The page selects, sleeps for {OUTSIDE * 1000:.0f} ms, and selects again. A "
        f"subject that holds one of {size} connections meanwhile can't send more than "
        f"{size / OUTSIDE:.0f} pages a second. Where a row names "
        "connection.close() or released(), a line in the view gives the connection "
        "back before the sleep."
    )
    return [table]
