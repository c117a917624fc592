from __future__ import annotations

import copy
import itertools
import json
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import color
from django.core.management.base import CommandError
from django.db import connections

from dbpool_mw.control.paths import check_directory
from dbpool_mw.control.server import THREAD_NAME
from dbpool_mw.core.metrics import METRICS
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
        assert re.search(rf"^ *{worker.pid}  default  .*  gunicorn: worker \[shop\]$",
                         ended.out, re.MULTILINE)  # fmt: skip
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
    assert [row.split()[1] for row in rows[:2]] == ["replica", "archive"]
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


def test_a_pipe_has_every_column_unless_columns_is_set(
    directory: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    wide = stats(directory).out.splitlines()[0].split()
    assert wide[:4] == ["PID", "ALIAS", "STATE", "SIZE"]
    assert wide[-2:] == ["UPTIME", "COMMAND"]
    monkeypatch.setenv("COLUMNS", "80")
    narrow = stats(directory).out.splitlines()[0]
    assert len(narrow) <= 80
    assert "COMMAND" not in narrow
    for wrong in ("0", "wide", ""):
        monkeypatch.setenv("COLUMNS", wrong)
        assert stats(directory).out.splitlines()[0].split() == wide


def test_the_columns_asked_for_are_shown_in_their_order(
    directory: Path, serve: Serve
) -> None:
    serve(FakeWorker(pool(resets=7, rollbacks=3)))
    ended = stats(directory, "--columns", "rollbacks,resets", "--columns", "max")
    header, row = ended.out.splitlines()
    assert header.split() == ["PID", "ALIAS", "ROLLBACKS", "RESETS", "MAX"]
    assert row.split() == [str(os.getpid()), "default", "3", "7", "10"]
    again = run(directory, "dbpool_stats", columns="rollbacks,resets,max")
    assert again.out == ended.out


def test_all_columns_stand_below_one_another_on_a_terminal(
    directory: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    serve()
    ended = stats(directory, "--columns", "all", terminal=True)
    tables = ended.out.split("\n\n")
    assert len(tables) > 3
    assert max(map(len, ended.out.splitlines())) <= 80
    titles = " ".join(table.splitlines()[0] for table in tables)
    assert all(metric.title in titles for metric in METRICS)
    # A rate takes two looks.
    assert "/S" not in titles


def test_an_unknown_column_is_an_error_that_names_the_nearest(
    directory: Path, serve: Serve
) -> None:
    serve()
    ended = stats(directory, "--columns", "waiting,chekouts")
    assert ended.code == 2
    assert ended.err.startswith(
        "There is no column 'chekouts'; did you mean checkouts? Known are:"
    )


# --- Files ----------------------------------------------------------------------------


def test_a_file_has_the_whole_output_and_nothing_else_is_left(
    directory: Path, serve: Serve, tmp_path: Path
) -> None:
    serve()
    file = tmp_path / "dbpool.prom"
    file.write_text("old")
    mask = os.umask(0o022)
    try:
        ended = stats(directory, "--format", "prometheus", "--output", str(file))
    finally:
        os.umask(mask)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert parse(file.read_text())["dbpool_mw_worker_up"] == {f'pid="{os.getpid()}"': 1}
    assert list(tmp_path.iterdir()) == [file]
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert stats(directory, "--format", "json", "--output", str(file)).code == 0
    assert json.loads(file.read_text())["version"] == 1
    assert file.read_text().endswith("}\n")


def test_a_file_without_a_worker_says_so(
    directory: Path, serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    prom, document = tmp_path / "dbpool.prom", tmp_path / "dbpool.json"
    prom_args = ("--format", "prometheus", "--output", str(prom))
    json_args = ("--format", "json", "--output", str(document))
    assert stats(directory, *prom_args).code == 0
    server.stop()
    for args in (prom_args, json_args):
        ended = stats(directory, *args)
        assert ended.code == 3
        assert "No running worker found" in ended.err
    # A collector that went on reading the old figures would show what isn't so.
    assert parse(prom.read_text())["dbpool_mw_worker_up"] == {}
    assert json.loads(document.read_text())["workers"] == []


def test_wrong_usage_leaves_the_file_alone(
    directory: Path, serve: Serve, tmp_path: Path
) -> None:
    serve()
    file = tmp_path / "dbpool.json"
    file.write_text("old")
    args = ("--format", "json", "--output", str(file))
    assert stats(directory, *args, "--alias", "defualt").code == 2
    assert stats(directory, *args, "--pid", "1").code == 2
    assert file.read_text() == "old"


def test_a_watch_replaces_the_file_each_time(
    directory: Path, serve: Serve, tmp_path: Path, interrupt: Interrupt
) -> None:
    worker = FakeWorker()
    serve(worker)
    file = tmp_path / "dbpool.json"
    seen = []

    def look() -> None:
        seen.append((file.stat().st_ino, json.loads(file.read_text())["totals"]["max"]))
        worker.pools[0]["max"] += 1

    interrupt.before_next = look
    args = ("--watch", "--format", "json", "--output", str(file))
    ended = stats(directory, *args)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert [number for _, number in seen] == [10, 11, 12]
    assert all(one[0] != other[0] for one, other in itertools.pairwise(seen))


def test_a_file_that_cannot_be_written_is_an_error_that_says_why(
    directory: Path, serve: Serve, tmp_path: Path
) -> None:
    serve()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("missing/dbpool.prom", "No such file or directory"),
        ("folder", "it isn't a regular file"),
        ("pipe", "it isn't a regular file"),
    ):
        for watch in ((), ("--watch",)):
            ended = stats(directory, *watch, "--output", str(tmp_path / name))
            assert ended.code == 5
            assert ended.err == f"Can't write {tmp_path / name}: {reason}."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_the_file_that_standard_output_goes_to_is_not_replaced(
    directory: Path, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    file = tmp_path / "out"
    file.write_text("")
    fstat = os.fstat
    for standard in (1, 2):
        same = {standard: file.stat()}
        monkeypatch.setattr(
            os, "fstat", lambda fd, same=same: same.get(fd) or fstat(fd)
        )
        ended = stats(directory, "--output", str(file))
        assert ended.code == 5
        assert ended.err.endswith("standard output or standard error goes there.")
        assert file.read_text() == ""


def test_the_target_of_a_link_is_replaced_and_not_the_link(
    directory: Path, serve: Serve, tmp_path: Path
) -> None:
    serve()
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    assert stats(directory, "--output", str(link)).code == 0
    assert link.is_symlink()
    assert "default" in target.read_text()


def test_a_write_that_fails_leaves_the_old_file(
    directory: Path, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    file = tmp_path / "dbpool.json"
    file.write_text("old")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    ended = stats(directory, "--format", "json", "--output", str(file))
    assert ended.code == 5
    assert ended.err == f"Can't write {file}: No space left on device."
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


# --- Colours --------------------------------------------------------------------------


RED, YELLOW = "\x1b[31;1m", "\x1b[33;1m"


@pytest.mark.parametrize(
    ("terminal", "options", "environ", "coloured"),
    [
        (True, {}, {}, True),
        (False, {}, {}, False),
        (False, {"force_color": True}, {}, True),
        (False, {"force_color": True}, {"NO_COLOR": "1"}, True),
        (True, {"no_color": True}, {}, False),
        (True, {}, {"NO_COLOR": "1"}, False),
        (True, {}, {"TERM": "dumb"}, False),
        (True, {"force_color": True}, {"DJANGO_COLORS": "nocolor"}, False),
    ],
)
def test_colours_are_chosen_as_django_does(
    directory: Path,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
    options: dict[str, Any],
    environ: dict[str, str],
    coloured: bool,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    # Django asks the process' own standard output.
    monkeypatch.setattr(color, "supports_color", lambda: True)
    serve(FakeWorker(pool(state="paused", waiting=3)))
    out = run(directory, "dbpool_stats", terminal=terminal, **options).out
    assert (f"{RED}paused\x1b[0m" in out) == coloured
    assert (f"{YELLOW}3\x1b[0m" in out) == coloured
    assert ("\x1b" in out) == coloured


@pytest.mark.parametrize(
    "args",
    [
        ("--format", "xml"),
        ("--timeout", "0"),
        ("--timeout", "inf"),
        ("--watch", "soon"),
        ("--pid", "x"),
        ("--format", "prometheus", "--holders"),
        ("--columns", ""),
        ("--columns", "waiting,foo"),
        ("--columns", "checkouts/s"),
        ("--columns", "waiting,checkouts/s"),
        ("--columns", "all,timeouts/s"),
        ("--columns", "waiting", "--format", "json"),
        ("--columns", "all", "--format", "prometheus"),
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


def frames(out: str) -> list[str]:
    """Return what a terminal shows after each look, without colours."""
    first, *parts = out.split("\x1b[H")
    assert first == ""
    for part in parts:
        # Cleared line by line: a screen that is cleared as a whole flickers.
        assert part.count("\x1b[2J") == (1 if part is parts[0] else 0)
    assert all("\x1b[K\x1b[J" in part for part in parts)
    return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", part) for part in parts]


def test_a_watch_redraws_a_terminal_and_clears_it_once(
    directory: Path, serve: Serve, interrupt: Interrupt
) -> None:
    serve()
    ended = stats(directory, "--watch", terminal=True)
    assert ended.code == 0
    shown = frames(ended.out)
    assert len(shown) == 3
    assert all("every 2 s; Ctrl-C ends it\n" in frame for frame in shown)
    assert all(frame.count("default") == 1 for frame in shown)
    assert ended.out.endswith("\n")


def test_a_watch_takes_no_more_lines_than_the_terminal_has(
    directory: Path,
    serve: Serve,
    interrupt: Interrupt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LINES", "12")
    monkeypatch.setenv("COLUMNS", "80")
    worker = FakeWorker(*(pool(f"shop{number}") for number in range(30)))
    worker.holders = [holder() for _ in range(30)]
    serve(worker)
    for frame in frames(stats(directory, "--watch", "--holders", terminal=True).out):
        lines = frame.rstrip("\n").split("\n")
        assert len(lines) == 12
        assert max(map(len, lines)) <= 80
        assert "25 more rows; choose with --alias and --pid" in frame
        assert any(line.startswith("total ") for line in lines)
        assert lines[-1] == "... 30 more lines"


def test_a_watch_clears_the_rows_of_ended_workers_from_a_terminal(
    directory: Path, serve: Serve, interrupt: Interrupt
) -> None:
    interrupt.before_next = serve().stop
    ended = stats(directory, "--watch", terminal=True)
    first, *others = frames(ended.out)
    assert "default" in first
    assert all("No running worker found" in frame for frame in others)
    assert all("default" not in frame for frame in others)
    assert (len(others), ended.err) == (2, "")


def test_a_watch_says_an_error_that_lasts_once(
    directory: Path, interrupt: Interrupt
) -> None:
    ended = stats(directory, "--watch")
    assert interrupt.slept == [2.0] * 3
    assert (ended.code, ended.out) == (0, "")
    assert ended.err.count("No running worker found") == 1


def test_a_watch_shows_rates_and_no_rate_is_negative(
    directory: Path, serve: Serve, interrupt: Interrupt
) -> None:
    worker = FakeWorker(pool(checkouts=1000))
    uptime = iter([10.0, 12.0, 14.0, 15.0])

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        answer = {**copy.deepcopy(worker(request)), "uptime": next(uptime)}
        worker.pools[0]["checkouts"] += 5
        if len(worker.requests) == 2:
            worker.pools[0]["checkouts"] = 3  # It began anew.
        return answer

    serve(handle)
    interrupt.rounds = 4
    ended = stats(directory, "--watch", "--columns", "checkouts/s")
    rows = [line.split() for line in ended.out.splitlines() if "default" in line]
    assert [row[2] for row in rows] == ["-", "2.5", "-", "5.0"]


def test_the_blocks_of_a_watch_are_apart_and_have_their_time(
    directory: Path, serve: Serve, interrupt: Interrupt
) -> None:
    serve()
    blocks = stats(directory, "--watch").out.split("\n\n")
    assert len(blocks) == 3
    for block in blocks:
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n *PID  ALIAS ", block)


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


@pytest.mark.parametrize(
    "args",
    [
        ("--format", "prometheus", "--holders"),
        ("--alias", "defualt"),
        ("--pid", "1"),
        ("--columns", "foo"),
    ],
)
def test_wrong_usage_ends_a_watch_with_an_error(
    directory: Path, serve: Serve, interrupt: Interrupt, args: tuple[str, ...]
) -> None:
    serve()
    ended = stats(directory, "--watch", *args)
    assert ended.code == 2
    assert interrupt.slept == []


def test_a_watch_goes_on_when_the_only_worker_it_shows_ends(
    directory: Path,
    serve: Serve,
    spawn: Callable[[], WorkerProcess],
    interrupt: Interrupt,
) -> None:
    spawn()
    interrupt.before_next = serve().stop
    ended = stats(directory, "--watch", "--pid", str(os.getpid()))
    assert (ended.code, len(interrupt.slept)) == (0, 3)
    assert ended.err.count(f"No worker with pid {os.getpid()}") == 1


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
            columns=None,
            output=None,
            holders=True,
            routes=False,
            advise=False,
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


@pytest.mark.parametrize(
    "option",
    [["--holders"], ["--columns", "all"], ["--watch"], ["--format", "prometheus"]],
)
@pytest.mark.parametrize("view", ["--routes", "--advise"])
def test_what_makes_no_sense_with_a_view_of_its_own_is_refused(
    directory: Path, view: str, option: list[str]
) -> None:
    ended = run(directory, "dbpool_stats", view, *option)
    assert ended.code == 2
    refused = " ".join(option).removesuffix(" all")
    assert ended.err == f"{view} can't be combined with {refused}."


def test_advice_and_routes_are_two_views(directory: Path) -> None:
    ended = run(directory, "dbpool_stats", "--advise", "--routes")
    assert ended.code == 2
    assert ended.err == "--advise can't be combined with --routes."
