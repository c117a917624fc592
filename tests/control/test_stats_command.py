from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.core.management.base import CommandError
from django.db import connections

from dbpool_mw.control.paths import check_directory
from dbpool_mw.control.server import THREAD_NAME
from dbpool_mw.management.commands import dbpool_stats
from tests.control.commands import Ended, run
from tests.control.conftest import Plant, Serve, WorkerProcess
from tests.control.fakes import FakeWorker, holder, pool
from tests.control.test_prometheus import parse


def stats(directory: Path, *args: str, terminal: bool = False) -> Ended:
    return run(directory, "dbpool_stats", *args, terminal=terminal)


def test_every_worker_has_a_row(
    directory: Path, spawn: Callable[[], WorkerProcess]
) -> None:
    workers = [spawn(), spawn()]
    ended = stats(directory)
    assert ended.code == 0
    assert ended.err == ""
    for worker in workers:
        assert f"{worker.pid}  gunicorn: worker [shop]" in ended.out
    assert "total" in ended.out


def test_the_command_neither_lists_itself_nor_opens_a_database_connection(
    directory: Path, serve: Serve
) -> None:
    serve()
    threads = threading.active_count()
    before = list(directory.iterdir())
    assert stats(directory).code == 0
    assert list(directory.iterdir()) == before
    assert threading.active_count() == threads
    assert all(c.connection is None for c in connections.all(initialized_only=True))
    assert sum(t.name == THREAD_NAME for t in threading.enumerate()) == 1


def test_only_the_chosen_aliases_and_pids_are_shown(
    directory: Path, serve: Serve, spawn: Callable[[], WorkerProcess]
) -> None:
    serve(FakeWorker(pool("default"), pool("replica"), pool("archive")))
    spawn()
    pid = str(os.getpid())
    ended = stats(directory, "--pid", pid, "--alias", "replica", "--alias", "archive")
    rows = ended.out.splitlines()[1:]
    assert [row.split()[4] for row in rows[:2]] == ["replica", "archive"]
    assert all(row.split()[0] in (pid, "total") for row in rows)


def test_an_unknown_alias_is_an_error_that_lists_the_known_ones(
    directory: Path, serve: Serve
) -> None:
    serve(FakeWorker(pool("default"), pool("replica")))
    ended = stats(directory, "--alias", "defualt", "--alias", "replica")
    assert ended.code == 2
    assert ended.out == ""
    assert "No worker has a pool for 'defualt'" in ended.err
    assert "default, replica" in ended.err


def test_the_listed_aliases_are_escaped(directory: Path, serve: Serve) -> None:
    serve(FakeWorker(pool("\x1b[2J")))
    assert "open there: \\x1b[2J." in stats(directory, "--alias", "defualt").err


def test_an_unknown_pid_is_an_error_that_lists_the_known_ones(
    directory: Path, serve: Serve
) -> None:
    serve()
    ended = stats(directory, "--pid", "1", "--pid", str(os.getpid()))
    assert ended.code == 2
    assert f"No worker with pid 1 in {directory}; there is {os.getpid()}" in ended.err


def test_a_killed_workers_pid_is_an_error_too(
    directory: Path, serve: Serve, spawn: Callable[[], WorkerProcess]
) -> None:
    killed = spawn()
    killed.kill()
    serve()
    # The socket is removed by the server's start or by the command.
    ended = stats(directory, "--pid", str(killed.pid))
    assert ended.code == 2
    assert f"there is {os.getpid()}" in ended.err


def test_no_worker_is_an_exit_code_and_a_text_with_the_directory_and_reasons(
    directory: Path,
) -> None:
    for where in (directory, directory / "missing"):
        ended = stats(where)
        assert ended.code == 3
        assert ended.out == ""
        assert f"Looked in {where}." in ended.err
        for hint in (
            "first request",
            f"(uid {os.geteuid()})",
            "settings module",
            "DBPOOL_MW_CONTROL_DIR",
            "DBPOOL_MW_ENABLED",
            "PrivateTmp",
        ):
            assert hint in ended.err


@pytest.mark.parametrize("command", ["dbpool_stats", "dbpool_drain"])
def test_without_control_sockets_the_commands_say_that_they_are_off(
    command: str,
) -> None:
    ended = run(False, command)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("DBPOOL_MW_CONTROL_DIR is False: ")


def test_a_dead_workers_socket_alone_counts_as_no_worker(
    directory: Path, spawn: Callable[[], WorkerProcess]
) -> None:
    worker = spawn()
    worker.kill()
    assert stats(directory).code == 3
    assert not worker.path.exists()


def test_a_directory_that_cannot_be_trusted_is_named_as_the_reason(
    directory: Path, serve: Serve
) -> None:
    serve()
    directory.chmod(0o777)
    ended = stats(directory)
    assert ended.code == 3
    assert "written by others" in ended.err
    directory.chmod(0o700)
    assert check_directory(directory) == os.geteuid()


def test_a_directory_made_writable_by_others_after_the_check_is_not_trusted(
    directory: Path, serve: Serve, opened_meanwhile: None
) -> None:
    worker = FakeWorker()
    serve(worker)
    ended = stats(directory)
    assert ended.code == 3
    assert "may be written by others" in ended.err
    assert worker.requests == []


def test_workers_of_other_users_are_pointed_out(directory: Path) -> None:
    asked, other = (directory / base / "abc" for base in ("dbpool_mw-1", "dbpool_mw-2"))
    other.mkdir(parents=True)
    assert f"in {other}: run the command as that user" in stats(asked).err


def test_a_silent_worker_has_a_row_with_its_error(
    directory: Path, serve: Serve, plant: Plant
) -> None:
    plant(1)
    serve()
    ended = stats(directory, "--timeout", "0.1")
    assert ended.code == 0
    assert "no answer within 0.1 s" in ended.out


def test_all_workers_silent_is_an_exit_code_of_its_own(
    directory: Path, plant: Plant
) -> None:
    plant(1)
    plant(2)
    ended = stats(directory, "--timeout", "0.1")
    assert ended.code == 4
    assert ended.out.count("no answer within 0.1 s") == 2
    assert "None of 2 workers answered" in ended.err
    # A silent worker may have the alias, so this isn't a usage error.
    assert stats(directory, "--timeout", "0.1", "--alias", "x").code == 4


def test_holders_are_shown_when_asked_for(directory: Path, serve: Serve) -> None:
    worker = FakeWorker(pool(), pool("replica"))
    worker.holders = [holder(), holder("replica", path="/other/")]
    serve(worker)
    assert "/slow/" not in stats(directory).out
    out = stats(directory, "--holders").out
    assert "GET /slow/" in out
    assert "GET /other/" in out
    out = stats(directory, "--holders", "--alias", "replica").out
    assert "GET /slow/" not in out
    assert "GET /other/" in out


def test_json_is_one_document(directory: Path, serve: Serve) -> None:
    worker = FakeWorker(pool(size=3))
    worker.holders = [holder()]
    serve(worker)
    data = json.loads(stats(directory, "--format", "json", "--holders").out)
    assert data["version"] == 1
    assert data["control_dir"] == str(directory)
    assert data["workers"][0]["holders"] == [holder()]
    assert data["totals"]["size"] == 3


def test_prometheus_is_valid(directory: Path, serve: Serve) -> None:
    serve()
    ended = stats(directory, "--format", "prometheus")
    assert parse(ended.out)["dbpool_mw_worker_up"] == {f'pid="{os.getpid()}"': 1}


@pytest.mark.parametrize(
    "args",
    [
        ("--format", "xml"),
        ("--timeout", "0"),
        ("--timeout", "inf"),
        ("--watch", "soon"),
        ("--pid", "x"),
        ("--format", "prometheus", "--holders"),
    ],
)
def test_wrong_usage_is_an_error(directory: Path, args: tuple[str, ...]) -> None:
    ended = stats(directory, *args)
    assert ended.code != 0
    assert ended.out == ""


class Interrupt:
    """Replace time.sleep; after some rounds raise KeyboardInterrupt, as Ctrl-C does."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.slept: list[float] = []
        self.before_next: Callable[[], object] = lambda: None

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.before_next()
        if len(self.slept) == self.rounds:
            raise KeyboardInterrupt


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    fake = Interrupt(3)
    monkeypatch.setattr(dbpool_stats, "time", type("Time", (), {"sleep": fake}))
    return fake


def test_a_watch_prints_again_until_ctrl_c_and_ends_without_an_error(
    directory: Path, serve: Serve, interrupt: Interrupt
) -> None:
    serve()
    ended = stats(directory, "--watch")
    assert ended.code == 0
    assert ended.err == ""
    assert ended.out.count("default") == 3
    assert "\x1b" not in ended.out
    assert interrupt.slept == [2.0] * 3


def test_a_watch_has_the_interval_given(
    directory: Path, serve: Serve, interrupt: Interrupt
) -> None:
    serve()
    stats(directory, "--watch", "0.5")
    assert interrupt.slept == [0.5] * 3


def test_a_watch_clears_a_terminal(
    directory: Path, serve: Serve, interrupt: Interrupt
) -> None:
    serve()
    out = stats(directory, "--watch", terminal=True).out
    assert out.count("\x1b[H\x1b[2J") == 3


def test_a_watch_clears_the_rows_of_ended_workers_from_a_terminal(
    directory: Path, serve: Serve, interrupt: Interrupt
) -> None:
    interrupt.before_next = serve().stop
    ended = stats(directory, "--watch", terminal=True)
    assert ended.out.count("\x1b[H\x1b[2J") == 3
    assert "default" not in ended.out.rpartition("\x1b[2J")[2]
    assert ended.err.count("No running worker found") == 2


def test_a_watch_of_json_is_a_line_per_round(
    directory: Path, serve: Serve, interrupt: Interrupt
) -> None:
    serve()
    lines = stats(directory, "--watch", "--format", "json").out.splitlines()
    assert [json.loads(line)["version"] for line in lines] == [1, 1, 1]


def test_a_watch_goes_on_through_a_restart_of_the_workers(
    directory: Path, serve: Serve, interrupt: Interrupt
) -> None:
    server = serve()
    steps: Iterator[Callable[[], object]]
    steps = iter([server.stop, server.start, threading.active_count])
    interrupt.before_next = lambda: next(steps)()
    ended = stats(directory, "--watch", "--alias", "default")
    assert ended.code == 0
    assert ended.out.count("default") == 2
    assert ended.err.count("No running worker found") == 1


def test_wrong_usage_ends_a_watch_with_an_error(
    directory: Path, interrupt: Interrupt
) -> None:
    ended = stats(directory, "--watch", "--format", "prometheus", "--holders")
    assert ended.code == 2
    assert interrupt.slept == []


def test_text_that_the_terminals_encoding_lacks_is_escaped(
    directory: Path, serve: Serve
) -> None:
    worker = FakeWorker()
    worker.holders = [holder(path="/ü/")]
    serve(worker)

    class Ascii:
        def __init__(self) -> None:
            self.text = ""

        def write(self, text: str, *args: object) -> None:
            text.encode("ascii")
            self.text += text

        def flush(self) -> None:
            pass

    stream = Ascii()
    command = dbpool_stats.Command(stdout=stream)  # type: ignore[arg-type]
    directory_of = "dbpool_mw.management.commands.dbpool_stats.control_dir"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directory_of, lambda: directory)
        command.handle(
            format="table",
            holders=True,
            watch=None,
            timeout=5.0,
            alias=None,
            pid=None,
        )
    assert "/\\xfc/" in stream.text


def test_a_program_can_call_it_by_keyword(directory: Path, serve: Serve) -> None:
    serve()
    ended = run(directory, "dbpool_stats", alias=["default"], pid=[os.getpid()])
    assert ended.code == 0
    with pytest.raises(CommandError):
        dbpool_stats.Command().sockets(directory, [1])
