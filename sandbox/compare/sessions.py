"""What one request leaves in its session, and the next one finds."""

from __future__ import annotations

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

#: Of how many rows that dbpool_mw sees one is taken, by a quick run too.
EVERY, QUICK = 10, 25

#: Seconds until a process that hangs is killed.
TIMEOUT = 180.0

#: What can become of a row; the names are those that leaks.rows() counts.
ENDS = {
    "leaked": "Leaked",
    "broken": "Next request failed",
    "clean": "Clean, the same session",
    "replaced": "Clean, another session",
    "unable": "Not run",
}


def measure(run: Run) -> list[Table]:
    """Have one request do each row of the corpus; look at what the next one finds."""
    every = QUICK if run.quick else EVERY
    table = Table(
        "Sessions",
        "The rows are those of dbpool_mw's own tests, tests/postgres/oracle: each is "
        "something that a request does to its session, be it a SQL command, a volatile "
        "function, one of the library's ways, or a text that hides what it does. Taken "
        "are all rows that dbpool_mw itself is known to miss, and a random one in "
        f"{every} of the others. How many they are differs between psycopg and "
        "psycopg2, whose ways differ. One request does a row, on a pool of one "
        "connection. The next request's session is compared with one that Django opens "
        "by itself at that time: settings, roles, prepared statements, cursors, locks, "
        "channels, temporary objects, libraries, and the library's own state. What "
        "differs after a row that does nothing isn't counted. A row can't run where "
        "the pool or PgBouncer refuses what it does. Before each row all sessions of "
        "the subject are ended. One round.",
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
    every = QUICK if run.quick else EVERY
    # A row may change the whole server: each subject has one of its own.
    with PostgresServer(SETTINGS) as server:
        server.create_database(subject.database)
        # The oracle itself asks on another connection, before the first row.
        with connected(subject, server, connections=2) as front:
            ends: dict[str, int] = call(
                subject,
                front,
                "sandbox.compare.leaks.rows",
                server.dsn(subject.database),
                every,
                connections=1,
                timeout=TIMEOUT,
                # tests/library.py asks for it.
                DBPOOL_MW_TEST_LIBRARY=subject.library,
            )
    return [Figure([ends[name]], f"of {sum(ends.values())}") for name in ENDS]
