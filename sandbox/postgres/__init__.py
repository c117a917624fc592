"""A private PostgreSQL for the tests and for the sandbox, removed after use.

``python -m sandbox.postgres --env NAME -- COMMAND...`` runs a command with the variable
NAME set to the DSN of such a server. When NAME is set already, it starts no server.
"""

from __future__ import annotations

from sandbox.postgres.address import Server
from sandbox.postgres.machine import PostgresMissing, find_binaries
from sandbox.postgres.server import PostgresServer

__all__ = ["PostgresMissing", "PostgresServer", "Server", "find_binaries"]
