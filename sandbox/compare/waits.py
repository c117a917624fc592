"""Pages a second where a request waits for another service between two queries."""

from __future__ import annotations

from dataclasses import replace

from sandbox.compare.pages import OUTSIDE, all_served, measure_page
from sandbox.compare.report import Table
from sandbox.compare.run import Run
from sandbox.compare.subjects import CONNECTIONS, WORKERS, Subject

RELEASED = Subject(
    "dbpool-released",
    "dbpool_mw, released()",
    "psycopg",
    ("django-dbpool-mw", "psycopg"),
    "released() around the wait, a line in the view.",
)

#: Each of 32 clients has a thread, and a pool fewer connections than there are threads.
THREADS = 16


def measure(run: Run) -> list[Table]:
    """Load every subject with a page that keeps its request waiting."""
    if any(subject.key == "dbpool-psycopg" for subject in run.subjects):
        run = replace(run, subjects=[*run.subjects, RELEASED])
    with all_served(run, ("outside",), THREADS) as started:
        table = measure_page(run, "outside", started, THREADS)
    size = WORKERS * CONNECTIONS
    table.notes.append(
        f"The page selects, sleeps for {OUTSIDE * 1000:.0f} ms, and selects again. A "
        f"subject that holds one of {size} connections meanwhile can't send more than "
        f"{size / OUTSIDE:.0f} pages a second. {RELEASED.title} gives "
        "it back around the sleep, by a line in the view; with the other pools, "
        "connection.close() before the sleep would."
    )
    return [table]
