"""What one request leaves in its session, and the next one finds."""

from __future__ import annotations

from collections import Counter

from sandbox.compare.apart import call
from sandbox.compare.report import Cell, Figure, Plot, Table
from sandbox.compare.run import Run
from sandbox.compare.served import connected
from sandbox.compare.subjects import Subject
from sandbox.postgres import PostgresServer

#: What the rows need that a server doesn't offer by default.
SETTINGS: dict[str, object] = {
    "allow_in_place_tablespaces": True,
    "max_prepared_transactions": 5,
    "timezone": "UTC",
    "wal_level": "logical",
}

#: Of how many rows a quick run takes one.
QUICK = 25

#: Seconds for a row, and until a process that hangs all the same is killed.
PATIENCE, TIMEOUT = 10, 300.0

#: What can become of a row; the names are those that leaks.rows() returns.
ENDS = {
    "leaked": "Leaked",
    "broken": "Next request failed",
    "hung": "Never ended",
    "clean": "Clean, the same session",
    "replaced": "Clean, another session",
    "unable": "Not run",
}


def measure(run: Run) -> list[Table]:
    """Have one request do each row of the corpus; look at what the next one finds."""
    share = f"A random one in {QUICK} is taken. " if run.quick else ""
    table = Table(
        "Sessions",
        "The rows are those of dbpool_mw's own tests, tests/postgres/oracle: each is "
        "something that a request does to its session, be it a SQL command, a volatile "
        "function, one of the library's ways, or a text that hides what it does. "
        f"{share}How many they are differs between psycopg and "
        "psycopg2, whose ways differ. One request does a row, on a pool of one "
        "connection. The next request's session is compared with one that Django opens "
        "by itself at that time: settings, roles, prepared statements, cursors, locks, "
        "channels, temporary objects, libraries, and the library's own state. What "
        "differs after a row that does nothing isn't counted. A row can't run where "
        "the pool or PgBouncer refuses what it does. A row has never ended when one of "
        f"the two requests hangs for {PATIENCE} s; after it, and after a request that "
        "failed, the process is another one. "
        "Before each row all sessions of the subject are ended. One round.",
        tuple(ENDS.values()),
        plot=Plot(
            "comparison-sessions",
            "Rows of the corpus that reach the next request",
            "rows",
            (ENDS["leaked"],),
        ),
        notes=[
            "A library's own connection object is what a row works on: that of "
            "SQLAlchemy's pools is inside of what they give to Django."
        ],
    )
    for subject in run.subjects:
        table.add(subject, run.attempt(subject, lambda each: _leaks(run, each)))
    return [table]


def _leaks(run: Run, subject: Subject) -> list[Cell]:
    ends: list[str] = []
    left = 1
    while left:
        done, left = _ends(subject, QUICK if run.quick else 1, len(ends))
        ends += done
    counts = Counter(ends)
    return [Figure([counts[name]], f"of {len(ends)}") for name in ENDS]


def _ends(subject: Subject, every: int, first: int) -> tuple[list[str], int]:
    """Return how the rows from number ``first`` on ended, and how many are left."""
    # A row may change the whole server: each process has one of its own.
    with PostgresServer(SETTINGS) as server:
        server.create_database(subject.database)
        # The oracle itself asks on another connection, before the first row.
        with connected(subject, server, connections=2) as front:
            done, left = call(
                subject,
                front,
                "sandbox.compare.leaks.rows",
                server.dsn(subject.database),
                every,
                first,
                PATIENCE,
                connections=1,
                timeout=TIMEOUT,
                # tests/library.py asks for it.
                DBPOOL_MW_TEST_LIBRARY=subject.library,
            )
    return done, left
