"""A hot standby of a private PostgreSQL: a server that can take its place."""

from __future__ import annotations

import subprocess

from sandbox.postgres import PostgresServer, machine


class Standby(PostgresServer):
    """A copy of a running server that follows it, read-only until it is promoted."""

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__({**primary.settings, "primary_conninfo": primary.dsn()})
        self.password = primary.password
        self._primary = primary

    def promote(self) -> None:
        """Make it a primary, and wait until it takes writes."""
        self._execute("SELECT pg_promote(true, 30)")

    def _initdb(self) -> None:
        assert self.directory is not None
        data = self.directory / "data"
        command = [str(self._binaries / "pg_basebackup"), "-D", str(data)]
        command += ["-d", self._primary.dsn(), "--checkpoint=fast", "--no-sync"]
        done = self._popen(command, stdout=subprocess.PIPE)
        self._tell_watchdog(done.pid)
        output, _ = done.communicate()
        self._tell_watchdog(None)
        if done.returncode:
            raise RuntimeError(f"pg_basebackup failed:\n{output.decode()}")
        (data / "standby.signal").touch()
        machine.give(data / "standby.signal", self._account)
        with (data / "postgresql.conf").open("a") as file:
            for name, value in {
                "unix_socket_directories": str(self.directory),
                "primary_conninfo": self._primary.dsn(),
            }.items():
                file.write(f"{name} = '{value}'\n")
