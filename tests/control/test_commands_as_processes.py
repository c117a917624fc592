"""The commands as a user runs them, as processes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from tests.control.commands import Project
from tests.control.conftest import Serve
from tests.control.fakes import FakeWorker, holder, pool

# Short, because Python handles a signal that arrives just before sleep() after it only.
WATCH = ("--watch", "0.5")


@pytest.fixture
def project(directory: Path, tmp_path: Path) -> Project:
    return Project(directory, tmp_path)


def test_the_commands_work_while_the_database_is_down(
    project: Project, serve: Serve
) -> None:
    serve()
    ended = project.run("dbpool_stats")
    assert (ended.code, ended.err) == (0, "")
    assert "gunicorn: worker [shop]" in ended.out
    ended = project.run("dbpool_drain")
    assert ended.code == 0
    assert ended.out.startswith("Drained:")


def test_the_exit_codes_reach_the_shell(
    project: Project, serve: Serve, directory: Path
) -> None:
    ended = project.run("dbpool_stats")
    assert ended.code == 3
    assert f"Looked in {directory}" in ended.err
    assert project.run("dbpool_drain").code == 3
    assert project.run("dbpool_stats", "--format", "xml").code == 2
    serve(FakeWorker(pool(stale=1)))
    assert project.run("dbpool_stats", "--alias", "x").code == 2
    assert project.run("dbpool_drain", "--timeout", "0.1").code == 1


@pytest.mark.parametrize(
    ("command", "others"),
    [
        ("dbpool_stats", ["dbpool_drain --cancel"]),
        ("dbpool_drain", ["dbpool_stats --holders", "dbpool_stats --routes"]),
    ],
)
def test_the_help_shows_examples_line_by_line(
    project: Project, command: str, others: list[str]
) -> None:
    ended = project.run(command, "--help")
    assert ended.code == 0
    assert f"\nexamples:\n  manage.py {command} " in ended.out
    assert "\nexit codes:\n  0  " in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80
    text = " ".join(ended.out.split())
    assert [other for other in others if other not in text] == []


@pytest.mark.parametrize(
    "args", [("dbpool_stats",), ("dbpool_stats", "--watch", "0.01"), ("dbpool_drain",)]
)
def test_a_closed_pipe_gives_no_traceback(
    project: Project, serve: Serve, args: tuple[str, ...]
) -> None:
    serve()
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = project.run(*args, stdout=writer)
    finally:
        os.close(writer)
    assert ended.code == 0
    assert "Error" not in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("how", ["full", "closed"])
@pytest.mark.parametrize(
    "args", [("dbpool_stats",), ("dbpool_stats", "--watch", "0.01"), ("dbpool_drain",)]
)
def test_an_output_that_cannot_be_written_has_a_code_of_its_own(
    project: Project, serve: Serve, how: str, args: tuple[str, ...]
) -> None:
    worker = FakeWorker()
    serve(worker)
    if how == "full":
        with open("/dev/full", "w") as full:
            ended = project.run(*args, stdout=full)
    else:
        ended = project.run(*args, stdout=None, preexec_fn=lambda: os.close(1))
    assert ended.code == 5
    assert "The output can't be written" in ended.err
    assert "Traceback" not in ended.err
    assert len(worker.requests) == 1
    worker.stale = [1]
    with open("/dev/full", "w") as full:
        assert project.run("dbpool_drain", "--timeout", "0.1", stdout=full).code == 1


def test_ctrl_c_ends_a_watch_without_an_error(project: Project, serve: Serve) -> None:
    serve()
    args = ("dbpool_stats", *WATCH, "--format", "json")
    with project.start(*args) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["version"] == 1
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert all(json.loads(line)["version"] == 1 for line in out.splitlines())


def on_a_terminal(
    project: Project, *args: str, columns: int, until: bytes, **env: str
) -> tuple[int, bytes, str]:
    """Run a command on a terminal, Ctrl-C it when it has shown a text."""
    master, terminal = pty.openpty()
    size = struct.pack("HHHH", 24, columns, 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    seen = b""
    try:
        # A terminal is standard output and input; the session's is another one.
        with project.start(*args, stdout=terminal, stdin=terminal, env=env) as process:
            while until not in seen:
                seen += os.read(master, 65536)
            if "--watch" in args:
                process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        os.set_blocking(master, False)
        with suppress(BlockingIOError):
            seen += os.read(master, 65536)
    finally:
        os.close(master)
        os.close(terminal)
    return process.returncode, seen, err


def test_a_watch_redraws_a_real_terminal(project: Project, serve: Serve) -> None:
    serve(FakeWorker(pool(state="draining")))
    code, seen, err = on_a_terminal(
        project, "dbpool_stats", *WATCH, columns=80, until=b"default"
    )
    assert (code, err) == (0, "")
    assert seen.startswith(b"\x1b[H\x1b[2J\x1b[?7l")
    assert b"\x1b[31;1mdraining\x1b[0m" in seen
    # The shell's prompt begins a line.
    assert seen.endswith(b"\x1b[?7h\r\n")


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_table_is_as_wide_as_a_real_terminal(
    project: Project, serve: Serve, columns: int
) -> None:
    worker = FakeWorker(pool())
    worker.holders = [holder(path="/" + "x" * 300)]
    serve(worker)
    code, seen, err = on_a_terminal(
        project, "dbpool_stats", "--holders", columns=columns, until=b"xxx"
    )
    assert (code, err) == (0, "")
    widths = [len(line) for line in seen.decode().splitlines()]
    assert columns - 20 < max(widths) <= columns
    assert (b"COMMAND" in seen) == (columns == 200)
    assert b"\x1b" not in seen


def test_a_path_is_escaped_for_an_ascii_terminal(
    project: Project, serve: Serve
) -> None:
    worker = FakeWorker()
    worker.holders = [holder(path="/ü\x1b[2J/")]
    serve(worker)
    ended = project.run("dbpool_stats", "--holders", env={"PYTHONIOENCODING": "ascii"})
    assert ended.code == 0
    assert "GET /\\xfc\\x1b[2J/" in ended.out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_directory_of_another_user_is_refused(
    directory: Path, project: Project
) -> None:
    # Imported before setuid(), because that user may not be allowed to read the files.
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from dbpool_mw.control import paths\n"
        "os.setuid(4711)\n"
        "try:\n"
        "    paths.check_directory(Path(sys.argv[1]))\n"
        "except paths.ControlDirError as error:\n"
        "    print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(directory)],
        env=project.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "belongs to uid 0, this process runs as 4711" in ended.stdout
