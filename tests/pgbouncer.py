"""A private PgBouncer in front of the run's PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sandbox.postgres import Server, machine
from sandbox.postgres.watchdog import Watchdog
from tests.process.servers import wait_until
from tests.vocabulary import OperationalError, connect

# Debian installs pgbouncer into /usr/sbin, which is on root's PATH only.
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
STOP_SECONDS = 30.0

needs_pgbouncer = pytest.mark.skipif(
    PROGRAM is None, reason="no pgbouncer on PATH or in /usr/sbin: install it to test"
)


@contextmanager
def pgbouncer(
    server: Server, mode: str, size: int = 5, **settings: object
) -> Iterator[Server]:
    """Run PgBouncer in front of a server for the block; give PgBouncer's address.

    ``size`` is the most connections that PgBouncer opens to one database. PgBouncer
    also ends with this process. Its console is the database "pgbouncer".
    """
    assert PROGRAM is not None
    # PgBouncer refuses to run as root, like PostgreSQL.
    account = machine.unprivileged_account()
    directory = machine.new_directory(account)
    watchdog = Watchdog(directory)
    try:
        front = Server("127.0.0.1", machine.free_port(), server.user, "", server.dbname)
        settings = {
            "listen_addr": front.host,
            "listen_port": front.port,
            "unix_socket_dir": "",
            # Every user of the file may connect, with any password.
            "auth_type": "trust",
            "auth_file": directory / "users",
            "admin_users": server.user,
            "pool_mode": mode,
            "default_pool_size": size,
            "max_client_conn": 100,
            **settings,
        }
        users = directory / "users"
        users.touch(0o600)
        users.write_text(f"{_quoted(server.user)} {_quoted(server.password)}\n")
        (directory / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={server.host} port={server.port}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        machine.give(directory, account)
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [PROGRAM, str(directory / "pgbouncer.ini")],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **account,
            )
        watchdog.tell(process.pid)

        def answers() -> bool:
            assert process.poll() is None, (directory / "log").read_text()
            with contextlib.suppress(OperationalError):
                connect(front.dsn("pgbouncer")).close()
                return True
            return False

        try:
            wait_until(answers, "PgBouncer answers")
            yield front
        finally:
            # Versions of PgBouncer differ in which signal waits for clients.
            process.kill()
            process.wait(STOP_SECONDS)
            watchdog.tell(None)
    finally:
        watchdog.release(STOP_SECONDS)


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'
