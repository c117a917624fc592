"""A private PgBouncer in front of the run's PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest

from sandbox.postgres import Server, machine
from tests.process.servers import wait_until

# Debian puts it where only root looks.
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

needs_pgbouncer = pytest.mark.skipif(
    PROGRAM is None, reason="no pgbouncer on PATH or in /usr/sbin: install it to test"
)


@contextmanager
def pgbouncer(server: Server, mode: str, size: int = 5) -> Iterator[Server]:
    """Run PgBouncer in front of a server; give its address.

    ``size`` is the most connections that it opens to one database.
    """
    assert PROGRAM is not None
    # It refuses to run as root, like PostgreSQL.
    account = machine.unprivileged_account()
    directory = machine.new_directory(account)
    front = Server("127.0.0.1", machine.free_port(), server.user, "", server.dbname)
    path = directory / "pgbouncer.ini"
    path.touch(0o600)
    path.write_text(
        f"[databases]\n* = host={server.host} port={server.port} user={server.user}"
        f" password='{server.password}'\n"
        f"[pgbouncer]\nlisten_addr = {front.host}\nlisten_port = {front.port}\n"
        f"unix_socket_dir =\nauth_type = any\npool_mode = {mode}\n"
        f"default_pool_size = {size}\nmax_client_conn = 100\n"
    )
    machine.give(directory, account)
    try:
        with _running([PROGRAM, str(path)], directory, account) as process:

            def answers() -> bool:
                assert process.poll() is None, (directory / "log").read_text()
                with contextlib.suppress(psycopg2.OperationalError):
                    psycopg2.connect(front.dsn()).close()
                    return True
                return False

            wait_until(answers, "PgBouncer answers")
            yield front
    finally:
        shutil.rmtree(directory)


@contextmanager
def _running(
    command: list[str], directory: Path, account: dict[str, object]
) -> Iterator[subprocess.Popen[bytes]]:
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **account,  # type: ignore[call-overload]
        )
    try:
        yield process
    finally:
        process.terminate()  # it ends at once, without waiting for clients
        process.wait(30)
