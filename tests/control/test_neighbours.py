"""Attacks by another user of the host, the neighbour: a process that root starts.

The neighbour attacks root or an ordinary user. For the latter a test changes its
effective uid, which is the one that the kernel checks.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pytest

from dbpool_mw.control import client, paths, protocol, sweeping
from dbpool_mw.control.server import ControlServer

# Imported before a test changes its uid: that user may not be able to read the files.
from dbpool_mw.management.commands import dbpool_drain, dbpool_stats  # noqa: F401
from tests.control.commands import run
from tests.control.conftest import Serve, WorkerProcess
from tests.control.fakes import FakeWorker, pool, reply
from tests.control.query import ask_all, ask_one

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can start a process of another user"
)

NEIGHBOUR = 65534
USER = 65533
PATIENCE = 10.0
STATS = protocol.request("stats")
REQUEST = protocol.encode(STATS, protocol.MAX_REQUEST).hex()
LIE = protocol.encode(reply(pool(size=31337)), protocol.MAX_REPLY).hex()
NAME = "1-0000000a.sock"


class Neighbour:
    """The other user's process; calling it runs a verb of neighbour.py."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("neighbour.py")
        self._process = subprocess.Popen(
            [sys.executable, "-IS", script, str(NEIGHBOUR)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, verb: str, *arguments: Any) -> Any:
        stdin = cast("IO[str]", self._process.stdin)
        stdin.write(json.dumps([verb, *arguments], default=str) + "\n")
        stdin.flush()
        return json.loads(cast("IO[str]", self._process.stdout).readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def neighbour() -> Iterator[Neighbour]:
    found = Neighbour()
    yield found
    found.close()


@pytest.fixture
def shared() -> Iterator[Path]:
    """Give a directory that all users may write to, like /tmp."""
    path = Path(tempfile.mkdtemp(prefix="dbp", dir="/tmp"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def once_writable(directory: Path) -> Callable[[], None]:
    """Make `directory` writable by all; the function returned ends that."""
    directory.chmod(0o777)
    return lambda: directory.chmod(0o700)


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def stats(directory: Path) -> Any:
    return run(directory, "dbpool_stats", "--timeout", "5")


DENIED = {"error": "EACCES"}

# --- The worker's socket --------------------------------------------------------------


@pytest.fixture
def server(shared: Path, serve: Serve) -> ControlServer:
    """Give a server that created its directory, under an umask of 0."""
    before = os.umask(0)
    try:
        return serve(FakeWorker(), shared / "dbpool_mw-0" / "abc")
    finally:
        os.umask(before)


def test_a_workers_socket_is_not_accessible(
    server: ControlServer, neighbour: Neighbour
) -> None:
    assert neighbour("connect", server.path, REQUEST) == DENIED
    assert neighbour("listdir", server.directory) == DENIED
    assert neighbour("listdir", server.directory.parent) == DENIED


def test_a_workers_socket_is_not_accessible_in_a_readable_directory(
    server: ControlServer, neighbour: Neighbour
) -> None:
    server.directory.parent.chmod(0o755)
    assert neighbour("listdir", server.directory) == DENIED
    server.directory.chmod(0o755)
    assert neighbour("connect", server.path, REQUEST) == DENIED


def test_a_client_that_may_open_the_socket_is_rejected_unread(
    server: ControlServer, neighbour: Neighbour, caplog: pytest.LogCaptureFixture
) -> None:
    assert server.path is not None
    server.directory.parent.chmod(0o755)
    server.directory.chmod(0o755)
    server.path.chmod(0o666)
    # The server closes the connection without waiting for a request.
    assert neighbour("connect", server.path, "") == ""
    assert neighbour("connect", server.path, REQUEST) == ""
    assert cast("FakeWorker", server._handle).requests == []
    text = f"control client rejected: it runs as uid {NEIGHBOUR}"
    assert [record.getMessage() for record in caplog.records] == [text] * 2
    assert ask_one(server.path, STATS, PATIENCE).reply is not None


@pytest.mark.parametrize("plant", ["lie", "mkdir", "symlink", "touch"])
def test_no_file_can_be_created_in_the_control_directory(
    server: ControlServer, neighbour: Neighbour, plant: str
) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "lie": (server.directory / NAME, LIE),
        "mkdir": (server.directory / NAME,),
        "symlink": ("/elsewhere", server.directory / NAME),
        "touch": (server.directory / NAME,),
    }
    for path in (server.directory, server.directory.parent):
        # The neighbour may list the directories, and only must not write.
        path.chmod(path.stat().st_mode | 0o055)
    assert neighbour(plant, *arguments[plant]) == DENIED
    assert list(server.directory.iterdir()) == [server.path]


# --- A parent directory that the neighbour created first ------------------------------


@pytest.fixture(params=["directory", "worker", "link to the victim", "link", "nowhere"])
def planted(
    request: pytest.FixtureRequest, shared: Path, neighbour: Neighbour, uid: int
) -> Path:
    """Give a default directory whose parent the neighbour has created."""
    base = shared / f"dbpool_mw-{uid}"
    hostile, victim = shared / "hostile", shared / "victim"
    with acting_as(uid):
        (victim / "abc").mkdir(parents=True, mode=0o700)
    if request.param in ("worker", "link"):
        where = base if request.param == "worker" else hostile
        neighbour("mkdir", where)
        neighbour("mkdir", where / "abc", 0o755)
        neighbour("lie", where / "abc" / NAME, LIE)
    elif request.param == "directory":
        neighbour("mkdir", base)
    if "link" in request.param or request.param == "nowhere":
        target = {"link": hostile, "link to the victim": victim}.get(
            request.param, "/nowhere"
        )
        assert neighbour("symlink", target, base) is None
    assert base.lstat().st_uid == NEIGHBOUR
    return base / "abc"


@pytest.mark.parametrize("uid", [0, USER], ids=["root", "a user"])
def test_a_worker_opens_no_socket_under_a_foreign_parent_and_says_why(
    planted: Path, uid: int, caplog: pytest.LogCaptureFixture
) -> None:
    with acting_as(uid):
        server = ControlServer(planted, FakeWorker())
        assert server.start() is False
        server.stop()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{planted.parent} isn't a directory of uid {uid} or root" in record.message
    assert "can't be trusted" in record.message
    made = planted.parent.parent / "victim" / "abc"
    assert list(made.iterdir()) == []


@pytest.mark.parametrize("uid", [0, USER], ids=["root", "a user"])
@pytest.mark.parametrize("command", ["dbpool_stats", "dbpool_drain"])
def test_the_commands_refuse_a_foreign_parent_and_say_why(
    planted: Path, uid: int, command: str
) -> None:
    with acting_as(uid):
        ended = run(planted, command)
    assert ended.code == 3
    assert ended.out == ""
    assert f"{planted.parent} isn't a directory of uid {uid} or root" in ended.err
    assert "can't be trusted" in ended.err


def test_only_directories_named_for_a_uid_are_pointed_out(
    shared: Path, neighbour: Neighbour
) -> None:
    for name in ("dbpool_mw-\x1b[2J", "dbpool_mw-7"):
        neighbour("mkdir", shared / name)
        neighbour("mkdir", shared / name / "abc")
    neighbour("symlink", shared / "dbpool_mw-7", shared / "dbpool_mw-8")
    ended = stats(shared / "dbpool_mw-0" / "abc")
    assert ended.code == 3
    assert f"in {shared}/dbpool_mw-7/abc: run the command as that user" in ended.err


# --- False replies --------------------------------------------------------------------


def test_a_false_worker_created_while_the_directory_was_writable_is_not_asked(
    directory: Path, once_writable: Callable[[], None], neighbour: Neighbour
) -> None:
    neighbour("lie", directory / NAME, LIE)
    assert stats(directory).code == 3
    once_writable()
    text = f"not asked: its socket belongs to uid {NEIGHBOUR}, the directory to uid 0"
    (answer,) = ask_all(directory, STATS, PATIENCE)
    assert (answer.reply, answer.error) == (None, text)
    assert neighbour("heard") == ""
    for command in ("dbpool_stats", "dbpool_drain"):
        ended = run(directory, command)
        assert ended.code == 4
        assert text in ended.err
        assert "31337" not in ended.out + ended.err
        assert neighbour("heard") == ""


def test_root_trusts_only_the_owner_of_a_users_directory(
    directory: Path, once_writable: Callable[[], None], neighbour: Neighbour
) -> None:
    os.chown(directory, USER, USER)
    neighbour("lie", directory / NAME, LIE)
    once_writable()
    with ExitStack() as stack:
        worker = WorkerProcess(directory, str(USER))
        stack.callback(worker.close)
        ended = stats(directory)
        drained = run(directory, "dbpool_drain")
    assert ended.code == 0
    assert f"{worker.pid}  default  running" in ended.out
    assert f"belongs to uid {NEIGHBOUR}, the directory to uid {USER}" in ended.out
    assert "31337" not in ended.out
    assert drained.code == 4
    assert drained.out.startswith("Drained: no pooled connection is left in 1 worker")


def test_root_does_not_follow_a_link_of_another_user(
    shared: Path, neighbour: Neighbour
) -> None:
    neighbour("mkdir", shared / "hostile")
    neighbour("mkdir", shared / "hostile" / "abc", 0o755)
    neighbour("lie", shared / "hostile" / "abc" / NAME, LIE)
    neighbour("symlink", shared / "hostile", shared / "shop")
    ended = stats(shared / "shop" / "abc")
    assert ended.code == 3
    assert f"{shared}/shop isn't a directory: in {shared}, where" in ended.err


def test_a_user_asks_no_worker_in_a_directory_of_another_user(
    shared: Path, neighbour: Neighbour
) -> None:
    neighbour("mkdir", shared / "hostile", 0o755)
    neighbour("lie", shared / "hostile" / NAME, LIE)
    with acting_as(USER):
        ended = stats(shared / "hostile")
    assert ended.code == 3
    assert f"belongs to uid {NEIGHBOUR}, this process runs as {USER}" in ended.err


def test_a_directory_without_permission_is_an_error_that_names_it(
    directory: Path, shared: Path
) -> None:
    with acting_as(USER):
        ended = stats(directory / "abc")
        assert ended.code == 3
        assert f"can't look at {directory}/abc: Permission denied" in ended.err
        (shared / "blind").mkdir(mode=0o300)
        ended = stats(shared / "blind")
    assert ended.code == 3
    assert f"can't list {shared}/blind: Permission denied" in ended.err


def test_root_sees_and_drains_the_workers_of_an_ordinary_user(shared: Path) -> None:
    directory = shared / f"dbpool_mw-{USER}" / "abc"
    with ExitStack() as stack:
        with acting_as(USER):
            paths.ensure_directory(directory)
        worker = WorkerProcess(directory, str(USER))
        stack.callback(worker.close)
        ended = stats(directory)
        assert (ended.code, ended.err) == (0, "")
        assert f"{worker.pid}  default  running" in ended.out
        assert run(directory, "dbpool_drain").code == 0


# --- Links, and files that must not be removed ----------------------------------------


def test_a_link_named_like_a_socket_is_not_followed(
    directory: Path,
    shared: Path,
    once_writable: Callable[[], None],
    neighbour: Neighbour,
) -> None:
    neighbour("lie", shared / NAME, LIE)
    neighbour("symlink", shared / NAME, directory / NAME)
    once_writable()
    assert ask_all(directory, STATS, PATIENCE) == []
    assert stats(directory).code == 3
    assert (directory / NAME).is_symlink()


def test_a_link_instead_of_the_directory_is_refused(
    shared: Path, neighbour: Neighbour, caplog: pytest.LogCaptureFixture
) -> None:
    neighbour("mkdir", shared / "hostile", 0o755)
    neighbour("lie", shared / "hostile" / NAME, LIE)
    neighbour("symlink", shared / "hostile", shared / "link")
    ended = stats(shared / "link")
    assert ended.code == 3
    assert "is a symbolic link" in ended.err
    assert ControlServer(shared / "link", FakeWorker()).start() is False
    assert "is a symbolic link" in caplog.text


def test_only_sockets_in_the_directory_itself_are_removed(
    directory: Path,
    shared: Path,
    once_writable: Callable[[], None],
    neighbour: Neighbour,
) -> None:
    dead, kept = shared / NAME, shared / "kept"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(dead))
    kept.touch()
    names = [directory / f"{pid}-0000000a.sock" for pid in range(2, 7)]
    neighbour("symlink", dead, names[0])
    neighbour("symlink", kept, names[1])
    neighbour("touch", names[2])
    neighbour("mkdir", names[3])
    neighbour("die", names[4])
    once_writable()
    sweeping.sweep(directory)
    assert ask_all(directory, STATS, PATIENCE) == []
    assert sorted(directory.iterdir()) == names[:4]
    assert dead.exists()
    assert kept.exists()


# --- A directory that changes between check and use -----------------------------------


@pytest.fixture
def rented(directory: Path, neighbour: Neighbour) -> Path:
    """Give a directory of this user in one of the neighbour, who can rename it."""
    attic = directory / "attic"
    directory.chmod(0o755)
    attic.mkdir()
    os.chown(attic, NEIGHBOUR, NEIGHBOUR)
    (attic / "rented").mkdir(mode=0o700)
    return attic / "rented"


def after(
    monkeypatch: pytest.MonkeyPatch, name: str, then: Callable[[], object]
) -> None:
    """Call `then` once, after the next call of a function of `paths`."""
    function, moves = getattr(paths, name), iter([then])

    def wrapped(*arguments: Any) -> Any:
        result = function(*arguments)
        next(moves, lambda: None)()
        return result

    monkeypatch.setattr(paths, name, wrapped)


def test_a_parent_created_by_the_neighbour_during_mkdir_is_refused(
    shared: Path, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, mkdir, first = shared / "shop", Path.mkdir, iter([True])

    def late(path: Path, *arguments: Any, **options: Any) -> None:
        if next(first, False):
            assert neighbour("mkdir", base, 0o777) is None
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", late)
    with pytest.raises(paths.ControlDirError, match="can't be trusted"):
        paths.ensure_directory(base / "abc")
    assert list(base.iterdir()) == []


def test_a_worker_in_a_directory_exchanged_after_the_check_is_not_asked(
    rented: Path, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    false, away = rented.with_name("false"), rented.with_name("away")
    neighbour("mkdir", false, 0o755)
    neighbour("lie", false / NAME, LIE)

    def exchange() -> None:
        assert neighbour("rename", rented, away) is None
        assert neighbour("rename", false, rented) is None

    after(monkeypatch, "check_directory", exchange)
    (answer,) = client.ask([rented / NAME], STATS, PATIENCE)
    assert answer.error == (
        f"not asked: its socket belongs to uid {NEIGHBOUR}, the directory to uid 0"
    )
    assert neighbour("heard") == ""


def test_a_directory_exchanged_after_the_connect_costs_no_other_file(
    rented: Path,
    shared: Path,
    neighbour: Neighbour,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    treasure = shared / "treasure"
    treasure.mkdir(mode=0o700)
    (treasure / NAME).touch()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(rented / NAME))
    remove = sweeping.remove_dead

    def late(path: Path) -> bool:
        assert neighbour("rename", rented, rented.with_name("away")) is None
        assert neighbour("symlink", treasure, rented) is None
        return remove(path)

    monkeypatch.setattr(sweeping, "remove_dead", late)
    (answer,) = client.ask([rented / NAME], STATS, PATIENCE)
    assert answer.gone
    assert (treasure / NAME).exists()
