"""A subject's connections as PostgreSQL lists them, on a connection of our own."""

from __future__ import annotations

import threading

import psycopg2

_OTHERS = (
    "FROM pg_stat_activity WHERE datname = current_database()"
    " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


class Outside:
    """Count and end the other sessions of a database. For one thread at a time."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg2.connect(dsn, connect_timeout=10)
        self._connection.autocommit = True

    def __enter__(self) -> Outside:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._connection.close()

    def count(self) -> int:
        """Return how many sessions there are."""
        return self._ask(f"SELECT count(*) {_OTHERS}")

    def terminate(self) -> int:
        """Have PostgreSQL end all of them; return how many they were."""
        return self._ask(f"SELECT count(pg_terminate_backend(pid)) {_OTHERS}")

    def _ask(self, statement: str) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            ((number,),) = cursor.fetchall()
        return int(number)


class Busiest:
    """Count a database's sessions for a block, twenty times a second.

    ``connections`` is the most there were at a time.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._count)
        self.connections = 0

    def __enter__(self) -> Busiest:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._done.set()
        self._thread.join()

    def _count(self) -> None:
        with Outside(self._dsn) as outside:
            while not self._done.wait(0.05):
                self.connections = max(self.connections, outside.count())
