"""Another user on the same host, for real: a process that root starts as that user.

Whom it is hostile to is root or an ordinary user. As the latter the tests run by their
effective uid, which is what the kernel goes by.
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

from dbpool_mw.control import client, paths, protocol
from dbpool_mw.control.server import ControlServer

# Loaded before the tests change user, who may not read where Python's files are.
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
    """The process of the other user; each verb of its is a call."""

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
    """Give a directory like /tmp, where anybody may write."""
    path = Path(tempfile.mkdtemp(prefix="dbp", dir="/tmp"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def once_writable(directory: Path) -> Callable[[], None]:
    """Let anybody write to `directory` until the function given is called."""
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
    """Serve in a directory of its own making, with nothing taken off its modes."""
    before = os.umask(0)
    try:
        return serve(FakeWorker(), shared / "dbpool_mw-0" / "abc")
    finally:
        os.umask(before)


def test_a_workers_socket_is_out_of_reach(
    server: ControlServer, neighbour: Neighbour
) -> None:
    assert neighbour("connect", server.path, REQUEST) == DENIED
    assert neighbour("listdir", server.directory) == DENIED
    assert neighbour("listdir", server.directory.parent) == DENIED


def test_a_workers_socket_in_an_opened_directory_still_lets_nobody_in(
    server: ControlServer, neighbour: Neighbour
) -> None:
    server.directory.parent.chmod(0o755)
    assert neighbour("listdir", server.directory) == DENIED
    server.directory.chmod(0o755)
    assert neighbour("connect", server.path, REQUEST) == DENIED


def test_who_gets_through_opened_modes_is_turned_away_unheard(
    server: ControlServer, neighbour: Neighbour, caplog: pytest.LogCaptureFixture
) -> None:
    assert server.path is not None
    server.directory.parent.chmod(0o755)
    server.directory.chmod(0o755)
    server.path.chmod(0o666)
    # It says nothing, and is closed at once: not one byte was waited for.
    assert neighbour("connect", server.path, "") == ""
    assert neighbour("connect", server.path, REQUEST) == ""
    assert cast("FakeWorker", server._handle).requests == []
    text = f"control client rejected: it runs as uid {NEIGHBOUR}"
    assert [record.getMessage() for record in caplog.records] == [text] * 2
    assert ask_one(server.path, STATS, PATIENCE).reply is not None


@pytest.mark.parametrize("plant", ["lie", "mkdir", "symlink", "touch"])
def test_nothing_can_be_planted_where_workers_meet(
    server: ControlServer, neighbour: Neighbour, plant: str
) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "lie": (server.directory / NAME, LIE),
        "mkdir": (server.directory / NAME,),
        "symlink": ("/elsewhere", server.directory / NAME),
        "touch": (server.directory / NAME,),
    }
    for path in (server.directory, server.directory.parent):
        # Looking in is no longer what keeps it out.
        path.chmod(path.stat().st_mode | 0o055)
    assert neighbour(plant, *arguments[plant]) == DENIED
    assert list(server.directory.iterdir()) == [server.path]


# --- A base directory that was there before us ----------------------------------------


@pytest.fixture(params=["directory", "worker", "link to ours", "link", "nowhere"])
def planted(
    request: pytest.FixtureRequest, shared: Path, neighbour: Neighbour, uid: int
) -> Path:
    """Give the default directory whose base is the neighbour's."""
    base = shared / f"dbpool_mw-{uid}"
    its_own, ours = shared / "its_own", shared / "ours"
    with acting_as(uid):
        (ours / "abc").mkdir(parents=True, mode=0o700)
    if request.param in ("worker", "link"):
        where = base if request.param == "worker" else its_own
        neighbour("mkdir", where)
        neighbour("mkdir", where / "abc", 0o755)
        neighbour("lie", where / "abc" / NAME, LIE)
    elif request.param == "directory":
        neighbour("mkdir", base)
    if "link" in request.param or request.param == "nowhere":
        target = {"link": its_own, "link to ours": ours}.get(request.param, "/nowhere")
        assert neighbour("symlink", target, base) is None
    assert base.lstat().st_uid == NEIGHBOUR
    return base / "abc"


@pytest.mark.parametrize("uid", [0, USER], ids=["root", "a user"])
def test_a_planted_base_leaves_a_worker_without_a_socket_and_says_why(
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
    made = planted.parent.parent / "ours" / "abc"
    assert list(made.iterdir()) == []


@pytest.mark.parametrize("uid", [0, USER], ids=["root", "a user"])
@pytest.mark.parametrize("command", ["dbpool_stats", "dbpool_drain"])
def test_a_planted_base_is_what_the_commands_complain_of(
    planted: Path, uid: int, command: str
) -> None:
    with acting_as(uid):
        ended = run(planted, command)
    assert ended.code == 3
    assert ended.out == ""
    assert f"{planted.parent} isn't a directory of uid {uid} or root" in ended.err
    assert "can't be trusted" in ended.err


def test_a_planted_base_of_a_strange_name_is_not_pointed_out(
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


def test_a_false_worker_from_when_the_directory_was_writable_is_not_asked(
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


def test_root_believes_in_a_users_directory_nobody_but_that_user(
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
    assert f"{worker.pid}  gunicorn: worker [shop]" in ended.out
    assert f"belongs to uid {NEIGHBOUR}, the directory to uid {USER}" in ended.out
    assert "31337" not in ended.out
    assert drained.code == 4
    assert drained.out.startswith("Drained: no pooled connection is left in 1 worker")


def test_root_is_not_led_over_a_link_to_a_users_directory(
    shared: Path, neighbour: Neighbour
) -> None:
    neighbour("mkdir", shared / "its_own")
    neighbour("mkdir", shared / "its_own" / "abc", 0o755)
    neighbour("lie", shared / "its_own" / "abc" / NAME, LIE)
    neighbour("symlink", shared / "its_own", shared / "shop")
    ended = stats(shared / "shop" / "abc")
    assert ended.code == 3
    assert f"{shared}/shop isn't a directory: in {shared}, where" in ended.err


def test_a_user_does_not_ask_in_a_directory_of_another(
    shared: Path, neighbour: Neighbour
) -> None:
    neighbour("mkdir", shared / "its_own", 0o755)
    neighbour("lie", shared / "its_own" / NAME, LIE)
    with acting_as(USER):
        ended = stats(shared / "its_own")
    assert ended.code == 3
    assert f"belongs to uid {NEIGHBOUR}, this process runs as {USER}" in ended.err


def test_a_user_is_told_what_it_may_not_look_into(
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
        assert f"{worker.pid}  gunicorn: worker [shop]" in ended.out
        assert run(directory, "dbpool_drain").code == 0


# --- Links, and what is not ours to remove --------------------------------------------


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


def test_a_link_in_the_directorys_place_is_refused(
    shared: Path, neighbour: Neighbour, caplog: pytest.LogCaptureFixture
) -> None:
    neighbour("mkdir", shared / "its_own", 0o755)
    neighbour("lie", shared / "its_own" / NAME, LIE)
    neighbour("symlink", shared / "its_own", shared / "link")
    ended = stats(shared / "link")
    assert ended.code == 3
    assert "is a symbolic link" in ended.err
    assert ControlServer(shared / "link", FakeWorker()).start() is False
    assert "is a symbolic link" in caplog.text


def test_only_sockets_in_the_directory_itself_are_ever_removed(
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
    paths.sweep(directory)
    assert ask_all(directory, STATS, PATIENCE) == []
    assert sorted(directory.iterdir()) == names[:4]
    assert dead.exists()
    assert kept.exists()


# --- A directory that changes between the look and the deed ---------------------------


@pytest.fixture
def rented(directory: Path, neighbour: Neighbour) -> Path:
    """Give a directory of ours in one of the neighbour's, who may move it."""
    attic = directory / "attic"
    directory.chmod(0o755)
    attic.mkdir()
    os.chown(attic, NEIGHBOUR, NEIGHBOUR)
    (attic / "rented").mkdir(mode=0o700)
    return attic / "rented"


def after(
    monkeypatch: pytest.MonkeyPatch, name: str, then: Callable[[], object]
) -> None:
    """Let something happen once, after a function of `paths` has been called."""
    function, moves = getattr(paths, name), iter([then])

    def wrapped(*arguments: Any) -> Any:
        result = function(*arguments)
        next(moves, lambda: None)()
        return result

    monkeypatch.setattr(paths, name, wrapped)


def test_a_base_planted_while_it_is_being_made_gets_no_socket(
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


def test_a_directory_exchanged_after_the_look_gets_no_false_reply_believed(
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


def test_a_directory_exchanged_after_the_knock_costs_no_file_elsewhere(
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
    remove = paths.remove_stale

    def late(path: Path, owner: int) -> None:
        assert neighbour("rename", rented, rented.with_name("away")) is None
        assert neighbour("symlink", treasure, rented) is None
        remove(path, owner)

    monkeypatch.setattr(paths, "remove_stale", late)
    (answer,) = client.ask([rented / NAME], STATS, PATIENCE)
    assert answer.gone
    assert (treasure / NAME).exists()
