"""The address of a PostgreSQL server, private or not."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote


class Server:
    """The address of a PostgreSQL server; creates and drops databases there.

    ``sslmode`` is libpq's, "" for its default.
    """

    def __init__(
        self,
        host: str,
        port: int,
        user: str,
        password: str,
        dbname: str = "postgres",
        sslmode: str = "",
    ) -> None:
        self.host = host
        self.port = port
        self.user = user
        self.password = password
        self.dbname = dbname
        self.sslmode = sslmode

    @classmethod
    def from_dsn(cls, dsn: str) -> Server:
        """Build the address from a libpq URL or keyword string."""
        from psycopg2.extensions import parse_dsn

        parts: dict[str, Any] = parse_dsn(dsn)
        return Server(
            host=parts.get("host", "127.0.0.1"),
            port=int(parts.get("port", 5432)),
            user=parts.get("user", "postgres"),
            password=parts.get("password", ""),
            dbname=parts.get("dbname", "postgres"),
            sslmode=parts.get("sslmode", ""),
        )

    def dsn(self, dbname: str | None = None) -> str:
        """Return the libpq URL of one of the server's databases."""
        name = quote(self.dbname if dbname is None else dbname, safe="")
        account = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        url = f"postgresql://{account}@{quote(self.host, safe='')}:{self.port}/{name}"
        return f"{url}?sslmode={self.sslmode}" if self.sslmode else url

    def create_database(self, name: str, template: str = "template1") -> None:
        """Create a database, a copy of ``template`` that nobody may be connected to."""
        self._execute(f"CREATE DATABASE {_quoted(name)} TEMPLATE {_quoted(template)}")

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and end the sessions that still use it."""
        self._execute(f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    def _execute(self, sql: str) -> None:
        import psycopg2

        connection = psycopg2.connect(self.dsn())
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
        finally:
            connection.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
