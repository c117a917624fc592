from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbpool_mw.control import paths, protocol, sweeping
from dbpool_mw.control.server import ControlServer
from tests.control.commands import run
from tests.control.conftest import Plant, Serve, WorkerProcess
from tests.control.fakes import FakeWorker
from tests.control.query import ask_one

PATIENCE = 10.0
STATS = protocol.request("stats")


@pytest.fixture
def project(directory: Path) -> Path:
    """Give a project's default directory, which doesn't exist yet."""
    return directory / f"dbpool_mw-{os.geteuid()}" / "0123456789abcdef"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a process that removes something."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def dead(path: Path) -> Path:
    """Leave a socket that nobody listens on."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    return path


def test_the_sockets_of_killed_workers_are_removed_and_no_others(
    directory: Path, serve: Serve, spawn: Callable[[], WorkerProcess]
) -> None:
    killed, living = spawn(), spawn()
    planted = directory / "1-0000000a.sock"
    planted.touch()
    killed.kill()
    assert killed.path.exists()
    sweeping.sweep(directory)
    assert not killed.path.exists()
    assert living.path.exists()
    assert planted.exists()


def test_a_socket_that_does_not_listen_yet_is_neither_removed_nor_taken_for_dead(
    directory: Path,
) -> None:
    path = directory / "1-0000000a.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        with sweeping.kept(directory):
            listener.bind(str(path))
            sweeping.sweep(directory)
            assert sweeping.remove_dead(path) is False
            answer = ask_one(path, STATS, 0.1)
            assert answer.error == "no answer within 0.1 s"
            assert path.exists()
            listener.listen()
        sweeping.sweep(directory)
        assert sweeping.remove_dead(path) is False
        assert path.exists()
    assert sweeping.remove_dead(path) is True
    assert not path.exists()


def test_a_worker_that_is_only_starting_is_asked_again_until_it_answers(
    directory: Path,
) -> None:
    server = ControlServer(directory, FakeWorker())
    entered, bound = threading.Event(), threading.Event()
    bind, path = socket.socket.bind, directory / "unknown"

    class Slow(socket.socket):
        def bind(self, address: object) -> None:
            nonlocal path
            bind(self, address)  # type: ignore[arg-type]
            path = Path(str(address))
            entered.set()
            assert bound.wait(PATIENCE)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as threads:
        patch.setattr(socket, "socket", Slow)
        started = threads.submit(server.start)
        assert entered.wait(PATIENCE)
        patch.undo()
        assert ask_one(path, STATS, 0.1).gone is False
        asked = threading.Timer(0.1, bound.set)
        asked.start()
        assert ask_one(path, STATS, PATIENCE).reply is not None
        assert started.result(PATIENCE)
    server.stop()


def test_workers_that_start_while_directories_are_swept_are_all_found(
    project: Path,
) -> None:
    ended = threading.Event()

    def sweep() -> int:
        count = 0
        while not ended.is_set():
            sweeping.sweep(project)
            count += 1
        return count

    def work(_: int) -> None:
        for _ in range(100):
            server = ControlServer(project, FakeWorker())
            assert server.start()
            assert server.path is not None
            assert ask_one(server.path, STATS, PATIENCE).reply is not None
            server.stop()

    with ThreadPoolExecutor(6) as threads:
        sweepers = [threads.submit(sweep) for _ in range(2)]
        try:
            list(threads.map(work, range(4)))
        finally:
            ended.set()
        assert all(sweeper.result(PATIENCE) for sweeper in sweepers)
    sweeping.sweep(project)
    assert not project.exists()


def test_a_process_stopped_with_the_lock_delays_a_worker_and_does_not_stop_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "LOCK_SECONDS", 0.05)
    with locked(directory), sweeping.kept(directory):
        pass


def test_a_file_system_without_locks_is_used_without_them(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError("no locks here")

    path = dead(directory / "1-0000000a.sock")
    monkeypatch.setattr(fcntl, "flock", refuse)
    with sweeping.kept(directory):
        pass
    sweeping.sweep(directory)
    assert not path.exists()


def test_a_directory_that_is_removed_meanwhile_is_made_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure, calls = paths.ensure_directory, 0

    def removing(directory: Path) -> None:
        nonlocal calls
        calls += 1
        ensure(directory)
        if calls <= 3:
            directory.rmdir()

    monkeypatch.setattr(paths, "ensure_directory", removing)
    with sweeping.kept(project):
        assert project.is_dir()
    assert calls == 4


def test_a_directory_that_never_stays_is_an_error(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "ensure_directory", lambda directory: None)
    with (
        pytest.raises(paths.ControlDirError, match="is removed whenever"),
        sweeping.kept(project),
    ):
        pytest.fail("there is no directory")


def test_default_directories_without_a_use_are_removed(
    project: Path, directory: Path
) -> None:
    names = ["unused", "killed", "kept", "in use", "being used"]
    unused, killed, orders, used, begun = (
        project.with_name(f"{number:016x}") for number, _ in enumerate(names)
    )
    for path in (unused, killed, orders, used, begun):
        paths.ensure_directory(path)
    dead(killed / "1-0000000a.sock")
    (orders / "orders.json").touch()
    other = project.with_name("another")
    other.mkdir()
    with socket.socket(socket.AF_UNIX) as listener, sweeping.kept(begun):
        listener.bind(str(used / "1-0000000a.sock"))
        listener.listen()
        sweeping.sweep(project)
    assert sorted(project.parent.iterdir()) == [orders, used, begun, other]


def test_a_directory_that_was_chosen_is_never_removed(directory: Path) -> None:
    chosen = directory / "shop"
    paths.ensure_directory(chosen)
    path = dead(chosen / "1-0000000a.sock")
    sweeping.sweep(chosen)
    assert not path.exists()
    assert chosen.exists()


def test_a_command_that_finds_no_worker_leaves_no_empty_directory(
    project: Path,
) -> None:
    paths.ensure_directory(project)
    assert run(project, "dbpool_stats").code == 3
    assert not project.exists()


def test_a_socket_in_another_users_directory_is_not_removed(
    directory: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dead(directory / "2-0000000a.sock")
    euid = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: euid + 1)
        assert sweeping.remove_dead(path) is True
    assert path.exists()
    assert sweeping.remove_dead(path) is True
    assert not path.exists()


# --- Cleaners of /tmp -----------------------------------------------------------------


def in_use() -> set[str]:
    """Return the sockets' names as systemd-tmpfiles reads them."""
    with open("/proc/net/unix", "rb") as file:
        lines = file.read().decode(errors="replace").splitlines()
    return {fields[7] for line in lines[1:] if len(fields := line.split(None, 7)) > 7}


@pytest.mark.skipif(
    not os.path.exists("/proc/net/unix"), reason="only Linux has /proc/net/unix"
)
def test_the_system_knows_a_live_socket_by_the_name_that_it_has(serve: Serve) -> None:
    assert str(serve().path) in in_use()


def test_systemd_tmpfiles_leaves_a_live_socket_alone(
    serve: Serve, directory: Path, tmp_path: Path
) -> None:
    server, old = serve(), dead(directory / "1-0000000b.sock")
    assert server.path is not None
    # Answered, the server has swept; the dead socket came later.
    assert ask_one(server.path, STATS, PATIENCE).reply is not None
    old = dead(directory / "2-0000000b.sock")
    for path in (server.path, old):
        os.utime(path, (1e9, 1e9))
    rules = tmp_path / "rules.conf"
    # By the time of modification alone: the time of change can't be set.
    rules.write_text(f"d {directory} 0700 - - m:1s\n")
    try:
        subprocess.run(
            ["systemd-tmpfiles", "--clean", str(rules)], check=True, timeout=30
        )
    except FileNotFoundError:
        pytest.skip("this system has no systemd-tmpfiles")
    assert not old.exists()
    assert ask_one(server.path, STATS, PATIENCE).reply is not None
