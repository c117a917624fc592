"""Rows whose changes reach the next holder: to be mended, or seen by no pool.

Rows are of commands, functions, ways and texts, by their names.
"""

from __future__ import annotations

from tests.library import IS_PSYCOPG

BOTH = ("auto", "always")
AUTO = ("auto",)
ALWAYS = ("always",)

#: Cause: rows that fail today, and the modes of RESET. Each mend removes its rows.
KNOWN: dict[str, dict[str, tuple[str, ...]]] = {}

#: What docs/sessions.rst says that no pool sees: rows, and modes of RESET.
NOT_SEEN: dict[str, dict[str, tuple[str, ...]]] = {
    "``ALTER ROLE`` or ``ALTER DATABASE … SET``, for its own sessions": {
        "ALTER DATABASE: of the own database": BOTH,
        "ALTER ROLE: of the own role": BOTH,
    },
    "values of a sequence (``currval()``, ``lastval()``), also by ``INSERT``": {
        "COPY: FROM": AUTO,
        "INSERT: into a serial column": AUTO,
        "WITH: INSERT into a serial column": AUTO,
        "COPY FROM into a serial column": AUTO,
        "currval(regclass)": AUTO,
        "lastval()": AUTO,
        "nextval(regclass)": AUTO,
        "setval(regclass,bigint)": AUTO,
        "setval(regclass,bigint,boolean)": AUTO,
    },
    "a change within a function, trigger, view or column default": {
        "EXPLAIN: ANALYZE a view that sets": AUTO,
        "INSERT: with a default": AUTO,
        "INSERT: with a trigger": AUTO,
        "SELECT: a function that sets": AUTO,
        "SELECT: a view that sets": AUTO,
        "TABLE: a view that sets": AUTO,
        "callproc('o_become')": AUTO,
        "COPY FROM with a trigger": AUTO,
    },
    "within a function, what no reset undoes: ``setseed()``": {
        "SELECT: a function that seeds": BOTH,
    },
    "a query of a foreign table: its server's connection stays open": {
        "IMPORT FOREIGN SCHEMA": BOTH,
        "SELECT: from a server of postgres_fdw": BOTH,
        "postgres_fdw_disconnect_all()": BOTH,
    },
    "attributes added to the library's connection object": {
        "an attribute of the application's own": BOTH,
    },
}

#: The same that only the library offers, by the rows of docs/drivers.rst.
NOT_SEEN_OF_THE_LIBRARY: dict[str, dict[str, tuple[str, ...]]] = {}
if IS_PSYCOPG:
    NOT_SEEN_OF_THE_LIBRARY = {
        "a statement by ``pgconn``": {"a statement that libpq sends": AUTO},
        "a statement by ``wait()``": {"wait() of a generator": AUTO},
    }
