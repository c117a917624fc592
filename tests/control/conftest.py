from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, cast

import pytest

from dbpool_mw.control import paths
from dbpool_mw.control.server import ControlServer
from tests.control.fakes import FakeWorker

ROOT = Path(__file__).resolve().parents[2]
Serve = Callable[..., ControlServer]
Plant = Callable[..., Path]


class WorkerProcess:
    """A process with a control server that obeys lines written to its stdin."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "tests.control.worker"]
        self.process = subprocess.Popen(
            [*command, directory, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._stdout.readline() == "ready\n"
        (self.path,) = directory.glob(f"{self.pid}-*.sock")

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def _stdout(self) -> IO[str]:
        return cast("IO[str]", self.process.stdout)

    def tell(self, line: str) -> None:
        stdin = cast("IO[str]", self.process.stdin)
        stdin.write(line + "\n")
        stdin.flush()
        assert self._stdout.readline() == "done\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Close the process' stdin, which ends it; kill it after 10 seconds."""
        with suppress(BrokenPipeError):
            cast("IO[str]", self.process.stdin).close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.kill()
        self._stdout.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    """Give a new directory whose path is short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="dbp", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def serve(directory: Path) -> Iterator[Serve]:
    """Start servers in this process; stop them at the end."""
    servers: list[ControlServer] = []

    def start(handle: Any = None, where: Path = directory) -> ControlServer:
        server = ControlServer(where, handle or FakeWorker())
        servers.append(server)
        assert server.start()
        return server

    yield start
    for server in servers:
        thread = server._thread
        server.stop()
        if thread is not None:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def plant(directory: Path) -> Iterator[Plant]:
    """Put a listening socket that never answers into the directory."""
    with ExitStack() as stack:

        def put(pid: int = 1, backlog: int = 8) -> Path:
            path = directory / f"{pid}-0000000a.sock"
            listener = stack.enter_context(
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            )
            listener.bind(str(path))
            listener.listen(backlog)
            return path

        yield put


@pytest.fixture
def spawn(directory: Path) -> Iterator[Callable[[], WorkerProcess]]:
    """Start worker processes; end them at the end."""
    with ExitStack() as stack:

        def start() -> WorkerProcess:
            worker = WorkerProcess(directory)
            stack.callback(worker.close)
            return worker

        yield start


@pytest.fixture
def opened_meanwhile(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the directory writable by others once a command has listed it."""
    discover = paths.discover

    def found(where: Path) -> list[Path]:
        found = discover(where)
        # A worker's thread lists the directory as well.
        if threading.current_thread() is threading.main_thread():
            directory.chmod(0o777)
        return found

    monkeypatch.setattr(paths, "discover", found)


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(autouse=True)
def _a_plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide what the tests' own terminal is like."""
    for name in ("COLUMNS", "LINES", "NO_COLOR", "DJANGO_COLORS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
