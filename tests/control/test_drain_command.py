from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbpool_mw.control import drain, orders
from dbpool_mw.control.client import Answer
from dbpool_mw.control.drain import Progress
from tests import schema
from tests.control.commands import Ended, run
from tests.control.conftest import Plant, Serve, WorkerProcess
from tests.control.fakes import FakeWorker, holder, pool


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(drain, "ANSWER_SECONDS", 0.3)


def drained(directory: Path, *args: str, terminal: bool = False) -> Ended:
    return run(directory, "dbpool_drain", *args, terminal=terminal)


def test_a_drain_waits_until_nothing_is_left_and_shows_its_progress(
    directory: Path, serve: Serve
) -> None:
    worker = FakeWorker()
    worker.stale = [2, 2, 1, 0]
    serve(worker)
    ended = drained(directory)
    assert ended.code == 0
    assert ended.out.startswith("Drained: no pooled connection is left in 1 worker (")
    assert "--resume" in ended.out
    assert ended.err.splitlines() == [
        "draining: 2 stale connections left in 1 worker",
        "draining: 1 stale connection left in 1 worker",
        "draining: 0 stale connections left in 1 worker",
    ]
    assert worker.verbs == ["drain", "stats", "stats", "stats"]


def test_on_a_terminal_the_progress_is_one_line(directory: Path, serve: Serve) -> None:
    worker = FakeWorker()
    worker.stale = [2, 1, 0]
    serve(worker)
    err = drained(directory, terminal=True).err
    assert err.count("\r") == 3
    assert err.count("\n") == 1
    assert err.endswith("\n")


def test_progress_can_be_turned_off(directory: Path, serve: Serve) -> None:
    serve()
    assert drained(directory, "--verbosity", "0").err == ""


@pytest.mark.parametrize(
    ("option", "verb", "text"),
    [
        ("--pause", "pause", "Paused: no connection is left"),
        ("--recycle", "recycle", "Recycled: every stale connection"),
        ("--resume", "resume", "Resumed: pooling again"),
    ],
)
def test_each_option_sends_its_verb(
    directory: Path, serve: Serve, option: str, verb: str, text: str
) -> None:
    worker = FakeWorker()
    serve(worker)
    ended = drained(directory, option)
    assert ended.code == 0
    assert worker.verbs == [verb]
    assert ended.out.startswith(text)
    keyword: Any = {verb: True}
    assert run(directory, "dbpool_drain", **keyword).out.startswith(text)


def test_a_pause_says_what_waits_and_how_to_end_it(
    directory: Path, serve: Serve
) -> None:
    serve()
    out = drained(directory, "--pause").out
    assert "TIMEOUT seconds" in out
    assert "503" in out
    assert "--resume" in out
    assert "--resume" not in drained(directory, "--recycle").out


@pytest.mark.parametrize("option", ["--resume", "--no-wait"])
def test_resume_and_no_wait_return_after_the_replies(
    directory: Path, serve: Serve, option: str
) -> None:
    worker = FakeWorker(pool(stale=3))
    serve(worker)
    ended = drained(directory, option)
    assert ended.code == 0
    assert ended.err == ""
    assert len(worker.requests) == 1


def test_after_a_timeout_the_holders_are_named(directory: Path, serve: Serve) -> None:
    worker = FakeWorker(pool(stale=1, in_use=2))
    worker.holders = [holder(stale=True, path="/report/"), holder(path="/new/")]
    serve(worker)
    ended = drained(directory, "--timeout", "0.05")
    assert ended.code == 1
    assert (
        f"  worker {os.getpid()}: default: backend 4242, thread "
        f"ThreadPoolExecutor-0_1, GET /report/, since "
    ) in ended.out
    assert "/new/" not in ended.out
    assert "Not done after 0.05 s: 1 stale connection still open." in ended.err


@pytest.mark.parametrize(("option", "verb"), [("--pause", "pause"), (None, "drain")])
@pytest.mark.parametrize("state", ["running", "draining", "paused"])
def test_an_order_that_ends_during_the_wait_is_not_done(
    directory: Path, serve: Serve, option: str | None, verb: str, state: str
) -> None:
    worker = FakeWorker()
    worker.stale = [1, 0]

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if request["verb"] == "stats":
            worker.pools[0]["state"] = state
        return worker(request)

    serve(handle)
    ended = drained(directory, *filter(None, [option]))
    is_on = state == {"pause": "paused", "drain": "draining"}[verb]
    assert ended.code == (0 if is_on else 1)
    text = f"The {verb} has ended meanwhile, by its time (--for) or by another order"
    assert (text in ended.err) != is_on
    if not is_on:
        assert f"  worker {os.getpid()}: default is {state}" in ended.err
        assert "--resume" not in ended.out
        assert json.loads(drained(directory, "--format", "json").out)["verb"]


def test_the_time_that_the_command_took_is_taken_off_what_it_says(
    directory: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = FakeWorker()
    worker.stale = [1, 0]
    serve(worker)
    wait, monotonic = drain.wait, time.monotonic

    def long(*args: Any) -> Any:
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 20)
        return wait(*args)

    monkeypatch.setattr(drain, "wait", long)
    out = drained(directory, "--pause", "--for", "60").out
    (seconds,) = re.findall(r"goes on, .*, for ([\d.]+)s or until", out)
    assert 20 < float(seconds) <= 40


def test_a_worker_whose_socket_is_removed_during_the_wait_is_found_again(
    directory: Path, serve: Serve
) -> None:
    worker = FakeWorker()
    worker.stale = [1, 1, 0]

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if len(worker.requests) == 1:
            (path,) = directory.glob("*.sock")
            path.unlink()
        return worker(request)

    serve(handle)
    ended = drained(directory, "--pause")
    assert ended.code == 0
    assert "ended" not in ended.err
    assert worker.verbs[:3] == ["pause", "stats", "stats"]


def test_a_worker_that_makes_no_other_socket_is_not_done(
    directory: Path, plant: Plant
) -> None:
    worker = FakeWorker(pool(stale=1))
    answer = Answer(os.getpid(), directory / f"{os.getpid()}-0000000a.sock")
    progress = Progress("pause", [answer], [], [])
    progress = drain.wait(progress, None, 0.05, lambda progress: None)
    assert [a.pid for a in progress.silent] == [os.getpid()]
    assert "no socket within" in (progress.silent[0].error or "")
    directory.rmdir()
    progress = drain.wait(progress, None, 0.05, lambda progress: None)
    assert [a.pid for a in progress.silent] == [os.getpid()]
    directory.mkdir(mode=0o700)
    assert worker.requests == []


def test_a_worker_that_does_not_answer_is_named_and_the_others_are_drained(
    directory: Path, serve: Serve, plant: Plant
) -> None:
    plant(1)
    worker = FakeWorker()
    worker.stale = [1, 0]
    serve(worker)
    ended = drained(directory)
    assert ended.code == 4
    assert "worker 1: no answer within 0.3 s" in ended.err
    assert ended.out.startswith("Drained: no pooled connection is left in 1 worker (")
    assert worker.verbs == ["drain", "stats"]


def test_a_verb_that_no_worker_confirms_is_reported(
    directory: Path, plant: Plant
) -> None:
    plant(1)
    for option, verb in (
        ("--pause", "pause"),
        ("--resume", "resume"),
        ("--no-wait", "drain"),
    ):
        ended = drained(directory, option)
        assert ended.code == 4
        assert ended.out == f"No worker confirmed {verb}.\n"
        assert "a worker that runs follows it within about a second" in ended.err


def test_a_timeout_decides_the_exit_code_before_a_silent_worker(
    directory: Path, serve: Serve, plant: Plant
) -> None:
    plant(1)
    serve(FakeWorker(pool(stale=1)))
    ended = drained(directory, "--timeout", "0.05")
    assert ended.code == 1
    assert "worker 1: no answer" in ended.err
    assert "Not done after" in ended.err


def test_a_worker_that_stops_answering_after_confirming_is_named(
    directory: Path, serve: Serve
) -> None:
    worker, ended_command = FakeWorker(pool(stale=1)), threading.Event()

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if request["verb"] == "stats":
            ended_command.wait(10)
        return worker(request)

    serve(handle)
    ended = drained(directory, "--timeout", "0.4")
    ended_command.set()
    assert ended.code == 1
    assert "left in 1 worker, 1 silent\n" in ended.err
    assert (
        f"No answer after confirming:\n  worker {os.getpid()}: no answer" in ended.err
    )


def test_a_worker_that_ends_during_the_wait_counts_as_done(
    directory: Path, serve: Serve, spawn: Callable[[], WorkerProcess]
) -> None:
    ending = spawn()
    staying = FakeWorker()

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        staying.stale = [0 if len(staying.requests) > 1 else 1]
        if request["verb"] == "stats":
            ending.kill()
        return staying(request)

    serve(handle)
    ended = drained(directory)
    assert ended.code == 0
    assert "1 worker ended" in ended.err


def test_only_the_chosen_aliases_are_drained(directory: Path, serve: Serve) -> None:
    worker = FakeWorker(pool("default", stale=9), pool("replica"))
    serve(worker)
    ended = drained(directory, "--alias", "replica")
    assert ended.code == 0
    assert worker.verbs == ["drain"]
    assert worker.requests[0]["aliases"] == ["replica"]


def test_workers_that_have_not_opened_the_alias_yet_are_told_too(
    directory: Path, serve: Serve
) -> None:
    other, chosen = FakeWorker(pool("default", stale=9)), FakeWorker(pool("replica"))
    serve(other)
    serve(chosen)
    assert drained(directory, "--alias", "replica").code == 0
    assert [r["aliases"] for r in other.requests + chosen.requests] == [["replica"]] * 2


def test_an_alias_that_only_a_worker_has_is_drained(
    directory: Path, serve: Serve
) -> None:
    worker = FakeWorker(pool("archive"))
    serve(worker)
    assert drained(directory, "--alias", "archive").code == 0
    assert worker.verbs == ["stats", "drain"]


def test_only_the_chosen_pids_are_drained(
    directory: Path, serve: Serve, spawn: Callable[[], WorkerProcess]
) -> None:
    worker = FakeWorker()
    serve(worker)
    chosen = spawn()
    assert drained(directory, "--pid", str(chosen.pid)).code == 0
    assert worker.requests == []


@pytest.mark.parametrize("args", [("--alias", "x"), ("--pid", "1")])
def test_an_unknown_alias_or_pid_is_an_error_and_nothing_is_drained(
    directory: Path, serve: Serve, args: tuple[str, str]
) -> None:
    worker = FakeWorker()
    serve(worker)
    assert drained(directory, *args).code == 2
    assert set(worker.verbs) <= {"stats"}


def test_no_worker_has_an_exit_code_of_its_own(
    directory: Path, spawn: Callable[[], WorkerProcess]
) -> None:
    ended = drained(directory)
    assert ended.code == 3
    assert "No running worker found" in ended.err
    worker = spawn()
    worker.kill()
    assert drained(directory).code == 3


def test_a_directory_made_writable_by_others_after_the_check_is_not_trusted(
    directory: Path, serve: Serve, opened_meanwhile: None
) -> None:
    worker = FakeWorker()
    serve(worker)
    ended = drained(directory)
    assert ended.code == 3
    assert "may be written by others" in ended.err
    assert worker.requests == []


def test_a_killed_workers_pid_is_an_error_of_usage(
    directory: Path, spawn: Callable[[], WorkerProcess]
) -> None:
    worker = spawn()
    worker.kill()
    assert drained(directory, "--pid", str(worker.pid)).code == 2


def test_two_verbs_at_once_are_refused(directory: Path, serve: Serve) -> None:
    worker = FakeWorker()
    serve(worker)
    assert drained(directory, "--pause", "--resume").code != 0
    assert worker.requests == []


# --- JSON -----------------------------------------------------------------------------

KEYS = {
    "version",
    "control_dir",
    "verb",
    "aliases",
    "result",
    "done",
    "seconds",
    "lasts_seconds",
    "kept",
    "left",
    "gone",
    "workers",
    "orders",
}


def answered_in_json(directory: Path, *args: str) -> tuple[int, dict[str, Any], str]:
    """Run a drain; return its code, its one document and what else it said."""
    ended = drained(directory, *args, "--format", "json")
    document: dict[str, Any] = json.loads(ended.out)
    assert ended.out.count("\n") == 1
    assert KEYS <= set(document) <= KEYS | {"kept_error"}
    assert document["control_dir"] == str(directory)
    assert document["done"] == (document["result"] == "done")
    assert document["seconds"] >= 0
    schema.check(document, "dbpool_drain")
    assert "buckets" not in ended.out
    return ended.code, document, ended.err


@pytest.mark.parametrize(
    ("args", "verb", "result", "kept", "lasts"),
    [
        ((), "drain", "done", True, None),
        (("--for", "60"), "drain", "done", True, 60),
        (("--pause",), "pause", "done", True, 300),
        (("--pause", "--no-wait"), "pause", "confirmed", True, 300),
        (("--pause", "--pid", str(os.getpid())), "pause", "done", False, 300),
        (("--recycle",), "recycle", "done", False, None),
        (("--resume",), "resume", "done", False, None),
    ],
)
def test_json_says_what_is_done_and_for_how_long(
    directory: Path,
    serve: Serve,
    args: tuple[str, ...],
    verb: str,
    result: str,
    kept: bool,
    lasts: float | None,
) -> None:
    worker = FakeWorker()
    worker.stale = [1, 0]
    serve(worker)
    code, document, _ = answered_in_json(directory, *args)
    assert (code, document["verb"], document["result"]) == (0, verb, result)
    assert document["kept"] is kept
    assert document["aliases"] is None
    if lasts is None:
        assert document["lasts_seconds"] is None
    else:
        assert lasts - 10 < document["lasts_seconds"] <= lasts
    assert len(document["orders"]) == kept
    (one,) = document["workers"]
    waited = result == "done" and verb != "resume"
    assert one == {
        "pid": os.getpid(),
        "command": "gunicorn: worker [shop]",
        "result": "done" if waited else "left",
        "left": 0 if waited else 1,
        "pools": [
            {
                "alias": "default",
                "address": "shop/app@db1:5432",
                "database": "shop",
                "state": {"drain": "draining", "pause": "paused"}.get(verb, "running"),
                "state_seconds_left": None,
                **dict.fromkeys(("size", "in_use", "idle", "connecting"), 0),
                "waiting": 0,
                "stale": 0 if waited else 1,
            }
        ],
        "holders": [],
    }


def test_json_of_a_timeout_has_the_holders_that_are_left(
    directory: Path, serve: Serve
) -> None:
    worker = FakeWorker(pool(stale=1, in_use=2), pool("replica"))
    late = holder(stale=True, path="/report/")
    worker.holders = [late, holder(path="/new/")]
    serve(worker)
    args = ("--alias", "default", "--timeout", "0.05")
    code, document, err = answered_in_json(directory, *args)
    assert (code, document["result"], document["left"]) == (1, "timeout", 1)
    assert document["aliases"] == ["default"]
    (one,) = document["workers"]
    assert (one["result"], one["left"]) == ("left", 1)
    assert one["holders"] == [late]
    assert [each["alias"] for each in one["pools"]] == ["default"]
    assert "Not done after 0.05 s" in err


def test_json_of_an_order_that_has_ended_says_where(
    directory: Path, serve: Serve
) -> None:
    worker = FakeWorker(pool(stale=1))

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if request["verb"] == "stats":
            worker.pools[0]["state"] = "running"
        return worker(request)

    serve(handle)
    code, document, err = answered_in_json(directory, "--pause")
    assert (code, document["result"]) == (1, "ended")
    assert document["lasts_seconds"] is None
    assert [one["result"] for one in document["workers"]] == ["ended"]
    assert "The pause has ended meanwhile" in err


def test_json_names_the_workers_that_did_not_answer(
    directory: Path, serve: Serve, plant: Plant
) -> None:
    plant(1)
    serve()
    code, document, err = answered_in_json(directory)
    assert (code, document["result"]) == (4, "incomplete")
    failed, done = document["workers"]
    assert (failed["pid"], failed["result"]) == (1, "failed")
    assert failed["error"] == "no answer within 0.3 s"
    assert (failed["command"], failed["pools"], failed["left"]) == (None, [], 0)
    assert (done["pid"], done["result"]) == (os.getpid(), "done")
    assert "worker 1: no answer" in err


def test_json_names_a_worker_that_stops_answering_and_those_that_end(
    directory: Path, serve: Serve, spawn: Callable[[], WorkerProcess]
) -> None:
    ending = spawn()
    worker, ended_command = FakeWorker(pool(stale=1)), threading.Event()

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if request["verb"] == "stats":
            ending.kill()
            ended_command.wait(10)
        return worker(request)

    serve(handle)
    code, document, _ = answered_in_json(directory, "--timeout", "1")
    ended_command.set()
    assert (code, document["result"]) == (1, "timeout")
    assert document["gone"] == [ending.pid]
    (one,) = document["workers"]
    assert one["result"] == "silent"
    assert one["error"].startswith("no answer within")


@pytest.mark.parametrize("args", [(), ("--alias", "default"), ("--alias", "othr")])
def test_json_without_a_worker_says_so(directory: Path, args: tuple[str, ...]) -> None:
    code, document, err = answered_in_json(directory, "--pause", *args)
    assert (code, document["result"]) == (3, "no worker")
    assert document["workers"] == []
    assert document["left"] == 0
    # A misspelt alias is kept for no one.
    assert len(document["orders"]) == ("othr" not in args)
    assert document["kept"] == ("othr" not in args)
    assert err.startswith("No running worker found.")


def test_json_of_an_interrupted_wait_has_what_is_left(
    directory: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(FakeWorker(pool(stale=1)))

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(drain, "_poll", interrupt)
    code, document, err = answered_in_json(directory)
    assert (code, document["result"], document["left"]) == (130, "interrupted", 1)
    assert "Interrupted: no longer waiting" in err


def test_wrong_usage_prints_no_document(directory: Path, serve: Serve) -> None:
    serve()
    for args in (("--alias", "defualt"), ("--pid", "1"), ("--resume", "--for", "1")):
        ended = drained(directory, *args, "--format", "json")
        assert (ended.code, ended.out) == (2, "")


def test_ctrl_c_ends_the_wait_and_says_that_the_drain_goes_on(
    directory: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(FakeWorker(pool(stale=1)))

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(drain, "_poll", interrupt)
    ended = drained(directory)
    assert ended.code == 130
    assert ended.out == ""
    assert "--resume" in ended.err


# --- Orders for workers that start later ----------------------------------------------


def kept(directory: Path) -> list[tuple[str, list[str] | None]]:
    found = orders.read(directory)
    return [(o.verb, None if o.aliases is None else list(o.aliases)) for o in found]


@pytest.mark.parametrize(
    ("args", "verb", "seconds"),
    [
        ((), "drain", None),
        (("--for", "60"), "drain", 60),
        (("--pause",), "pause", 300),
        (("--pause", "--for", "2.5"), "pause", 2.5),
    ],
)
def test_a_drain_and_a_pause_are_kept_and_sent_with_their_time(
    directory: Path,
    serve: Serve,
    args: tuple[str, ...],
    verb: str,
    seconds: float | None,
) -> None:
    worker = FakeWorker()
    serve(worker)
    ended = drained(directory, *args)
    assert ended.code == 0
    (order,) = orders.read(directory)
    assert order.verb == verb
    assert order.aliases is None
    assert (order.until and order.until - order.began) == pytest.approx(seconds)
    (request,) = worker.requests
    assert (request["seconds"], request["kept"]) == (seconds, True)
    assert "also in workers that start meanwhile" in ended.out
    assert (" or until you run\n  manage.py" in ended.out) == (seconds is not None)


def test_an_order_for_aliases_is_kept_for_them(directory: Path, serve: Serve) -> None:
    serve(FakeWorker(pool("default"), pool("replica")))
    assert drained(directory, "--alias", "replica").code == 0
    assert kept(directory) == [("drain", ["replica"])]
    assert drained(directory, "--pause").code == 0
    assert kept(directory) == [("pause", None)]


def test_an_order_to_single_workers_is_not_kept(directory: Path, serve: Serve) -> None:
    worker = FakeWorker()
    serve(worker)
    ended = drained(directory, "--pause", "--pid", str(os.getpid()))
    assert ended.code == 0
    assert kept(directory) == []
    assert worker.requests[0]["kept"] is False
    assert "in these workers only" in ended.out


@pytest.mark.parametrize("option", ["--resume", "--recycle"])
def test_a_resume_and_a_recycle_remove_what_is_kept(
    directory: Path, serve: Serve, option: str
) -> None:
    serve()
    assert drained(directory, "--pause").code == 0
    assert drained(directory, option).code == 0
    assert kept(directory) == []


def test_without_a_worker_an_order_is_kept_and_shown(directory: Path) -> None:
    ended = drained(directory, "--pause")
    assert ended.code == 3
    assert "No running worker found" in ended.err
    assert "Kept for workers that start later:" in ended.err
    assert "pause of all aliases, " in ended.err
    assert kept(directory) == [("pause", None)]
    ended = run(directory, "dbpool_stats")
    assert (ended.code, "pause of all aliases, " in ended.err) == (3, True)
    ended = drained(directory, "--resume")
    assert (ended.code, "Kept" in ended.err) == (3, False)
    assert kept(directory) == []


@pytest.mark.parametrize(
    "args",
    [
        ("--alias", "defualt"),
        ("--resume", "--for", "1"),
        ("--recycle", "--for", "1"),
        ("--for", "0"),
        ("--for", "1e9"),
        ("--for", "soon"),
    ],
)
def test_wrong_usage_keeps_nothing(
    directory: Path, serve: Serve, args: tuple[str, ...]
) -> None:
    worker = FakeWorker()
    serve(worker)
    assert drained(directory, *args).code != 0
    assert set(worker.verbs) <= {"stats"}
    assert kept(directory) == []


def test_an_order_that_cannot_be_kept_is_sent_and_said(
    directory: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = FakeWorker()
    serve(worker)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    ended = drained(directory, "--pause", "--format", "json")
    assert ended.code == 4
    assert "Not done for workers that start later: can't write" in ended.err
    assert "No space left" in ended.err
    document = json.loads(ended.out)
    assert (document["result"], document["kept"]) == ("incomplete", False)
    assert document["kept_error"].startswith("can't write")
    (request,) = [r for r in worker.requests if r["verb"] == "pause"]
    # The worker writes it when it can.
    assert request["kept"] is True


def test_an_order_that_neither_reaches_a_worker_nor_is_kept_is_said(
    directory: Path,
) -> None:
    (directory / orders.FILE_NAME).mkdir()
    ended = drained(directory, "--pause")
    assert ended.code == 3
    assert "No running worker found" in ended.err
    assert "Not done for workers that start later: can't write" in ended.err


def test_json_lists_the_kept_orders(directory: Path, serve: Serve) -> None:
    serve()
    args = ("--pause", "--alias", "default", "--format", "json")
    ended = [drained(directory, *args), run(directory, "dbpool_stats", *args[3:])]
    for text in (each.out for each in ended):
        (order,) = json.loads(text)["orders"]
        assert (order["verb"], order["aliases"]) == ("pause", ["default"])
        assert 0 < order["seconds_left"] <= 300


def test_a_program_can_say_for_how_long(directory: Path, serve: Serve) -> None:
    serve()
    assert run(directory, "dbpool_drain", for_seconds=60).code == 0
    (order,) = orders.read(directory)
    assert order.until == pytest.approx(order.began + 60)


def test_orders_that_cannot_be_used_are_said(directory: Path, serve: Serve) -> None:
    serve()
    (directory / orders.FILE_NAME).write_text("{")
    ended = run(directory, "dbpool_stats")
    assert ended.code == 0
    assert "can't be used: it isn't a JSON text" in ended.err
