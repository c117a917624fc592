"""A throw-away PostgreSQL for the tests and for the sandbox.

``python -m sandbox.postgres --env NAME -- COMMAND...`` runs a command with NAME set
to the DSN of such a server, or as it is when NAME names a server already.
"""

from __future__ import annotations

from sandbox.postgres.address import Server
from sandbox.postgres.machine import PostgresMissing, find_binaries
from sandbox.postgres.server import PostgresServer

__all__ = ["PostgresMissing", "PostgresServer", "Server", "find_binaries"]
