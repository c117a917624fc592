"""A database of a run's own, and what the server knows of the connections to it."""

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

#: What the sandbox's own looks at the server call themselves.
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
    """Yield the URL of a new database; it is gone when the block ends.

    It is made on the server that ``SANDBOX_DSN`` names, else on one started for it.
    """
    named = os.environ.get("SANDBOX_DSN")
    if not named:
        with PostgresServer() as own:
            own.create_database("shop")
            yield own.dsn("shop")
        return
    server = Server.from_dsn(named)
    name = f"dbpool_mw_sandbox_{os.getpid()}"
    server.create_database(name)
    try:
        yield server.dsn(name)
    finally:
        server.drop_database(name)


class Observer:
    """Look at the server from outside the application, on a connection of its own."""

    def __init__(self, url: str, application_name: str) -> None:
        self._connection = psycopg2.connect(
            make_dsn(url, application_name=OBSERVER), connect_timeout=10
        )
        self._connection.autocommit = True
        self._application_name = application_name

    def close(self) -> None:
        """Close the connection that looks."""
        self._connection.close()

    def version(self) -> str:
        """Return the server's version as it writes it itself."""
        (row,) = self._rows("SHOW server_version")
        return str(row[0])

    def sessions(self) -> list[Session]:
        """Return the application's connections as the server sees them."""
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
        """Wait until the application has no connection; return those left in time."""
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
