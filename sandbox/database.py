"""A database for one run, and the connections to it that PostgreSQL lists."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2.extensions import make_dsn

from sandbox.postgres import PostgresServer, Server

#: The application_name of the connection that looks at PostgreSQL.
OBSERVER = "dbpool_mw sandbox observer"


@dataclass(frozen=True)
class Session:
    """A row of pg_stat_activity; ``age`` and ``unchanged`` in seconds."""

    pid: int
    started: str
    state: str
    age: float
    unchanged: float
    query: str


@contextmanager
def own_database() -> Iterator[str]:
    """Yield the URL of a new database, and drop the database at the end of the block.

    The database is on the server that ``SANDBOX_DSN`` names, else on a private server.
    """
    named = os.environ.get("SANDBOX_DSN")
    if not named:
        with PostgresServer() as private:
            private.create_database("shop")
            yield private.dsn("shop")
        return
    server = Server.from_dsn(named)
    name = f"dbpool_mw_sandbox_{os.getpid()}"
    server.create_database(name)
    try:
        yield server.dsn(name)
    finally:
        server.drop_database(name)


class Observer:
    """Look at the application's connections from outside, on a separate connection."""

    def __init__(self, url: str, application_name: str) -> None:
        self._connection = psycopg2.connect(
            make_dsn(url, application_name=OBSERVER), connect_timeout=10
        )
        self._connection.autocommit = True
        self._application_name = application_name

    def close(self) -> None:
        """Close the observer's connection."""
        self._connection.close()

    def version(self) -> str:
        """Return PostgreSQL's ``server_version``."""
        (row,) = self._rows("SHOW server_version")
        return str(row[0])

    def sessions(self) -> list[Session]:
        """Return the application's connections from pg_stat_activity."""
        rows = self._rows(
            "SELECT pid, backend_start::text, coalesce(state, 'starting'),"
            " extract(epoch FROM clock_timestamp() - backend_start)::float8,"
            " extract(epoch FROM clock_timestamp()"
            " - coalesce(state_change, backend_start))::float8,"
            " regexp_replace(query, '\\s+', ' ', 'g')"
            " FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = %s"
            " ORDER BY backend_start, pid",
            [self._application_name],
        )
        return [Session(*row) for row in rows]

    def wait_until_none(self, timeout: float) -> list[Session]:
        """Wait ``timeout`` seconds for the connections to end; return those left."""
        deadline = time.monotonic() + timeout
        while True:
            left = self.sessions()
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.02)

    def _rows(
        self, statement: str, values: list[str] | None = None
    ) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows
