"""A private PgBouncer, for the tests and for the comparison."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2

from sandbox.postgres import Server, machine
from sandbox.postgres.watchdog import Watchdog

# Debian installs pgbouncer into /usr/sbin, which is on root's PATH only.
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
START_SECONDS = 30.0
STOP_SECONDS = 30.0


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
        front = Server(
            "127.0.0.1",
            machine.free_port(),
            server.user,
            server.password,
            server.dbname,
        )
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
        scram = settings["auth_type"] == "scram-sha-256"
        password = _secret(server) if scram else server.password
        users.write_text(f"{_quoted(server.user)} {_quoted(password)}\n")
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
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _listens(front):
                if process.poll() is not None or time.monotonic() > deadline:
                    said = (directory / "log").read_text()
                    raise RuntimeError(f"PgBouncer did not start:\n{said}")
                time.sleep(0.01)
            yield front
        finally:
            # Versions of PgBouncer differ in which signal waits for clients.
            process.kill()
            process.wait(STOP_SECONDS)
            watchdog.tell(None)
    finally:
        watchdog.release(STOP_SECONDS)


def _listens(front: Server) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((front.host, front.port)).close()
        return True
    return False


def _secret(server: Server) -> str:
    """Return what the server keeps of its user's password.

    From the password itself PgBouncer would derive it again at each login.
    """
    with (
        contextlib.closing(psycopg2.connect(server.dsn())) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT rolpassword FROM pg_authid WHERE rolname = current_user")
        ((secret,),) = cursor.fetchall()
    return str(secret)


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'
