"""How a worker's pools follow the orders of requests and of the control directory."""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from dbpool_mw.control import orders, protocol
from dbpool_mw.control.orders import Order
from dbpool_mw.control.worker import Worker
from dbpool_mw.core import metrics
from dbpool_mw.core.history import MOST, History
from tests.control.fakes import holder, pool, pool_settings, route, waiter

STATES = {"drain": "draining", "pause": "paused", "recycle": "running"}


class FakePool:
    """Record the verbs; the state is that of the last one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.verbs: list[str] = []
        self.asked: list[tuple[Any, ...]] = []
        self.hold = f"1-2-{name}"

    @property
    def state(self) -> str:
        return STATES.get(self.verbs[-1], "running") if self.verbs else "running"

    def drain(self) -> None:
        self.verbs.append("drain")

    def pause(self) -> None:
        self.verbs.append("pause")

    def recycle(self) -> None:
        self.verbs.append("recycle")

    def resume(self) -> None:
        self.verbs.append("resume")

    def stats(self) -> dict[str, Any]:
        return pool(self.name, state=self.state)

    def cancel(self, holds: Collection[str]) -> list[str]:
        return [hold for hold in holds if hold == self.hold]

    def holders(self) -> list[dict[str, Any]]:
        return [holder(self.name, id=self.hold)]

    def waiters(self) -> list[dict[str, Any]]:
        return [waiter(self.name)]

    def settings(self) -> dict[str, Any]:
        return pool_settings(self.name)

    def routes(self) -> list[dict[str, Any]]:
        return [route(self.name), route(self.name)]

    def history(self, seconds: float, rows: int, *how: Any) -> dict[str, Any]:
        self.asked.append((seconds, rows, *how))
        samples = History(0.0).rows(0.0, seconds, rows, *how)
        return {"alias": self.name, "address": "", **samples}


class Process:
    """A worker with two pools and a clock that the test sets forward."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.later = 0.0
        self.pools = [FakePool("default"), FakePool("replica")]
        self.worker = Worker(lambda: self.directory, lambda: self.pools, self.clock)

    def clock(self) -> float:
        return time.monotonic() + self.later

    @property
    def states(self) -> list[str]:
        return [pool.state for pool in self.pools]

    def ask(self, verb: str, *aliases: str, **options: Any) -> dict[str, Any]:
        request = protocol.request(verb, aliases or None, **options)
        protocol.check_request(request)
        reply = self.worker.handle(request)
        protocol.check_reply(reply)
        return reply

    def keep(self, verb: str, *aliases: str, seconds: float | None = None) -> float:
        """Keep an order in the directory; return when it began."""
        assert self.directory is not None
        began = time.monotonic()
        until = None if seconds is None else began + seconds
        orders.keep(self.directory, Order(verb, aliases or None, began, until))
        return began

    def command(self, verb: str, *aliases: str, seconds: float | None = None) -> None:
        """Keep an order and ask for it, as dbpool_drain does."""
        kept = verb if verb != "recycle" else "resume"
        began = self.keep(kept, *aliases, seconds=seconds)
        self.ask(verb, *aliases, seconds=seconds, began=began, kept=True)

    def lefts(self) -> list[float | None]:
        return [pool["state_seconds_left"] for pool in self.ask("stats")["pools"]]


@pytest.fixture
def process(directory: Path) -> Process:
    return Process(directory)


@pytest.mark.parametrize("verb", ["drain", "pause", "recycle", "resume"])
def test_a_request_is_carried_out_at_once_each_time(
    process: Process, verb: str
) -> None:
    process.ask(verb)
    process.command(verb)
    assert process.pools[0].verbs == process.pools[1].verbs == [verb, verb]
    process.worker.maintain()
    assert process.pools[0].verbs == [verb, verb]


def test_a_request_for_an_alias_changes_its_pools_only(process: Process) -> None:
    reply = process.ask("pause", "replica")
    assert process.states == ["running", "paused"]
    assert [pool["alias"] for pool in reply["pools"]] == ["replica"]


def test_every_pool_of_an_alias_is_changed(process: Process) -> None:
    process.pools[1].name = "default"
    process.worker.handle(protocol.request("pause", ["default"], seconds=10))
    assert process.states == ["paused", "paused"]
    process.later = 11
    process.worker.maintain()
    assert process.states == ["running", "running"]


@pytest.mark.parametrize("kept", [True, False])
def test_an_order_ends_by_itself_and_that_is_logged(
    process: Process, kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if kept:
        process.command("pause", seconds=300)
    else:
        process.ask("pause", seconds=300)
    assert all(299 < left <= 300 for left in process.lefts() if left is not None)
    process.later = 299
    process.worker.maintain()
    assert process.states == ["paused", "paused"]
    process.later = 301
    process.worker.maintain()
    assert process.states == ["running", "running"]
    assert process.lefts() == [None, None]
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        "default: the pause has ended by itself, after 300 s",
        "replica: the pause has ended by itself, after 300 s",
    ]
    assert process.pools[0].verbs == ["pause", "resume"]


def test_an_order_ends_although_its_directory_is_gone(process: Process) -> None:
    assert process.directory is not None
    process.command("pause", seconds=300)
    shutil.rmtree(process.directory)
    process.worker.maintain()
    assert process.states == ["paused", "paused"]
    process.later = 301
    process.worker.maintain()
    assert process.states == ["running", "running"]


@pytest.mark.parametrize("loss", ["file", "directory", "damage", "pipe"])
def test_an_order_that_the_directory_has_lost_is_written_anew(
    process: Process, directory: Path, loss: str
) -> None:
    process.command("drain")
    process.command("pause", "replica", seconds=100)
    process.worker.maintain()
    known = orders.read(directory)
    assert len(known) == 2
    file = directory / orders.FILE_NAME
    if loss == "directory":
        shutil.rmtree(directory)
    else:
        file.unlink()
    if loss == "damage":
        file.write_text("{")
    elif loss == "pipe":
        os.mkfifo(file)
    process.worker.maintain()
    assert process.states == ["draining", "paused"]
    assert orders.read(directory) == known
    assert Process(directory).ask("stats")["orders"] == []
    later = Process(directory)
    later.worker.maintain()
    assert later.states == ["draining", "paused"]


def test_workers_that_write_a_lost_file_at_once_log_nothing(
    process: Process, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process.command("drain")
    (directory / orders.FILE_NAME).unlink()
    descriptor = os.open(directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    process.worker.maintain()
    assert orders.read(directory) == ()
    os.close(descriptor)
    process.worker.maintain()
    assert [order.verb for order in orders.read(directory)] == ["drain"]
    assert caplog.records == []


def test_what_was_resumed_has_ended_or_was_for_one_worker_is_not_written_anew(
    process: Process, directory: Path
) -> None:
    file = directory / orders.FILE_NAME
    process.command("drain")
    process.command("resume")
    process.ask("pause")  # as with --pid
    file.unlink()
    process.worker.maintain()
    assert process.states == ["paused", "paused"]
    assert not file.exists()
    process.command("pause", seconds=10)
    file.unlink()
    process.later = 11
    process.worker.maintain()
    assert process.states == ["running", "running"]
    assert not file.exists()


def test_an_order_for_an_alias_after_a_loss_ends_no_order_for_another(
    process: Process, directory: Path
) -> None:
    process.command("drain")
    (directory / orders.FILE_NAME).unlink()
    process.command("pause", "replica", seconds=5)
    process.worker.maintain()
    assert process.states == ["draining", "paused"]
    assert [order.verb for order in orders.read(directory)] == ["drain", "pause"]


def test_a_resume_after_a_loss_reaches_a_worker_that_was_not_asked(
    process: Process, directory: Path
) -> None:
    process.command("drain")
    (directory / orders.FILE_NAME).unlink()
    process.keep("resume")
    process.worker.maintain()
    assert process.states == ["running", "running"]


def test_an_order_that_the_command_could_not_write_is_written_by_a_worker(
    process: Process, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / orders.FILE_NAME).mkdir()
    process.ask("pause", seconds=100, kept=True)
    process.worker.maintain()
    process.worker.maintain()
    texts = [record.getMessage() for record in caplog.records]
    assert len([text for text in texts if "are not kept for workers" in text]) == 1
    (directory / orders.FILE_NAME).rmdir()
    process.worker.maintain()
    assert [order.verb for order in orders.read(directory)] == ["pause"]


def test_a_pool_that_is_made_under_an_order_follows_it_at_once(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    process.keep("pause", "archive", seconds=100)
    with process.worker.adopting("archive") as verb:
        assert verb == "pause"
        process.pools.append(FakePool("archive"))
    (record,) = caplog.records
    assert "archive: under a pause that is kept in the control" in record.getMessage()
    assert "--resume" in record.getMessage()
    process.worker.maintain()
    assert process.pools[-1].verbs == []
    process.later = 101
    process.worker.maintain()
    assert process.pools[-1].verbs == ["resume"]
    with process.worker.adopting("another") as verb:
        assert verb is None


def test_no_order_comes_between_the_look_and_the_new_pool(process: Process) -> None:
    made = FakePool("archive")
    asked, answered = threading.Event(), threading.Event()

    def pause() -> None:
        asked.set()
        process.ask("pause")
        answered.set()

    asking = threading.Thread(target=pause)
    with process.worker.adopting("archive") as verb:
        assert verb is None
        asking.start()
        asked.wait()
        assert not answered.is_set()
        process.pools.append(made)
    asking.join()
    assert made.state == "paused"


def test_a_broken_file_is_logged_once(
    process: Process, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / orders.FILE_NAME).write_text("{")
    process.worker.maintain()
    process.worker.maintain()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "it isn't a JSON text" in record.getMessage()


def test_what_a_verb_calls_may_make_a_pool_in_another_thread(process: Process) -> None:
    made = threading.Event()

    def make() -> None:
        with process.worker.adopting("log"):
            made.set()

    def pause() -> None:
        # As a log handler does that writes to the database.
        threading.Thread(target=make).start()
        assert made.wait(10)

    process.pools[0].pause = pause  # type: ignore[method-assign]
    process.ask("pause")
    made.clear()
    process.ask("resume")
    process.keep("pause")
    process.worker.maintain()
    assert made.is_set()


def test_what_is_kept_reaches_a_worker_that_got_no_request(process: Process) -> None:
    process.keep("drain")
    process.worker.maintain()
    assert process.states == ["draining", "draining"]
    process.keep("pause", "replica", seconds=100)
    process.worker.maintain()
    assert process.states == ["draining", "paused"]
    process.keep("resume")
    process.worker.maintain()
    assert process.states == ["running", "running"]


@pytest.mark.parametrize("aliases", [(), ("default",)])
@pytest.mark.parametrize("first", ["command", "ask"])  # kept, or as with --pid
@pytest.mark.parametrize("second", ["command", "ask"])
def test_when_the_last_order_for_an_alias_ends_the_alias_runs(
    process: Process, aliases: tuple[str, ...], first: str, second: str
) -> None:
    getattr(process, first)("drain")
    getattr(process, second)("pause", *aliases, seconds=100)
    other = "draining" if aliases else "paused"
    assert process.states == ["paused", other]
    process.later = 101
    process.worker.maintain()
    assert process.states == ["running", "draining" if aliases else "running"]


def test_a_worker_that_is_paused_alone_after_its_resume_runs_when_that_ends(
    process: Process,
) -> None:
    process.command("pause", seconds=200)
    process.ask("resume")
    process.ask("pause", seconds=100)
    process.later = 101
    process.worker.maintain()
    assert process.states == ["running", "running"]


def test_a_request_that_arrives_when_its_time_is_over_changes_nothing(
    process: Process,
) -> None:
    began = time.monotonic()
    process.later = 101
    process.ask("pause", seconds=100, began=began, kept=True)
    assert process.states == ["running", "running"]


@pytest.mark.parametrize("end", ["resume", "recycle"])
def test_a_resume_and_a_recycle_end_every_order_before_them(
    process: Process, end: str
) -> None:
    process.ask("drain")  # as with --pid
    process.command("pause", seconds=100)
    process.command(end, "default")
    process.worker.maintain()
    assert process.states == ["running", "paused"]
    process.command(end)
    process.worker.maintain()
    assert process.states == ["running", "running"]
    process.command("drain")
    process.worker.maintain()
    assert process.states == ["draining", "draining"]


def test_a_worker_that_is_resumed_alone_stays_so_until_the_next_order(
    process: Process,
) -> None:
    process.command("drain")
    process.ask("resume")  # as with --pid
    process.worker.maintain()
    assert process.states == ["running", "running"]
    process.command("pause", seconds=100)
    process.worker.maintain()
    assert process.states == ["paused", "paused"]


def test_an_order_that_was_resumed_before_its_request_came_changes_nothing(
    process: Process,
) -> None:
    began = process.keep("pause", seconds=100)
    process.keep("resume")
    process.ask("pause", seconds=100, began=began, kept=True)
    assert process.states == ["running", "running"]


def test_a_state_that_no_order_gave_is_left_alone(process: Process) -> None:
    process.pools[0].drain()  # as for a test database
    process.worker.maintain()
    assert process.pools[0].verbs == ["drain"]


def test_without_a_directory_requests_alone_count(directory: Path) -> None:
    process = Process(None)
    process.ask("pause", seconds=10, kept=True)
    process.worker.maintain()
    assert process.states == ["paused", "paused"]
    process.later = 11
    process.worker.maintain()
    assert process.states == ["running", "running"]
    assert list(directory.iterdir()) == []


def test_the_directory_is_looked_up_when_it_is_needed(directory: Path) -> None:
    process = Process(directory / "of the user that loads")
    process.directory = directory
    process.keep("pause")
    process.worker.maintain()
    assert process.states == ["paused", "paused"]


def test_the_stats_tell_when_maintenance_last_ran(tmp_path: Path) -> None:
    process = Process(tmp_path)
    assert process.ask("stats")["maintenance_age"] is None
    process.worker.maintain()
    process.later = 45.0
    assert process.ask("stats")["maintenance_age"] == pytest.approx(45.0, abs=5.0)
    process.worker.maintain()
    assert process.ask("stats")["maintenance_age"] < 5.0


# --- The history ---------------------------------------------------------------------


def test_the_history_is_in_the_reply_if_it_was_asked_for(tmp_path: Path) -> None:
    process = Process(tmp_path)
    assert "history" not in process.ask("stats")
    every = process.ask("stats", history=True)["history"]
    assert [each["alias"] for each in every] == ["default", "replica"]
    (one,) = process.ask("stats", "replica", history=30)["history"]
    assert one["alias"] == "replica"
    assert [seconds for seconds, *_ in process.pools[1].asked] == [math.inf, 30]
    (few,) = process.ask(
        "stats", "replica", history=True, columns=["age", "other", "idle"], step=6
    )["history"]
    assert few["columns"] == ["age", "idle"]
    assert process.pools[1].asked[-1][-1] == 6
    assert process.ask("stats", "other", history=True)["history"] == []


def full_history() -> tuple[History, float]:
    """Return a history without a gap, and its time: every number is a long one."""
    history, now = History(0.0), 0.0
    report = pool(**dict.fromkeys(metrics.SUMMED, 123_456))
    times = dict.fromkeys(metrics.HISTOGRAMS, 1234.567891)
    while now < MOST:
        now += 1.0
        for key in metrics.HISTOGRAMS:
            report[key]["sum"] = now * 1.1
            report[key]["buckets"] = [int(now)] * (len(metrics.BOUNDS) + 1)
        report["checkouts"] += 123_456
        history.add(now, report, times, (123_456, 123_456))
    return history, now


def test_a_reply_with_many_pools_is_below_its_limit(tmp_path: Path) -> None:
    history, now = full_history()
    process = Process(tmp_path)
    process.pools = [FakePool(f"tenant{number}") for number in range(64)]
    for each in process.pools:
        named = {"alias": each.name, "address": "shop/app@db1:5432"}
        each.history = lambda *limits, named=named: {  # type: ignore[method-assign]
            **named,
            **history.rows(now, *limits),
        }
    found = process.ask("stats", history=True)
    assert len(found["history"]) == 64
    assert all(len(each["rows"]) == 12_000 // 64 for each in found["history"])
    protocol.check_reply(found)
    del found["pools"]
    size = len(protocol.encode(found, protocol.MAX_REPLY))
    assert size < protocol.MAX_REPLY / 2
    process.pools = process.pools[:1]
    assert len(process.ask("stats", history=True)["history"][0]["rows"]) == MOST


# --- What a request asks for, and the cancelling of holds -----------------------------


def test_a_request_is_told_what_it_asks_for_of_the_aliases_it_names(
    process: Process,
) -> None:
    plain = process.ask("stats")
    assert not {*protocol.PARTS, "cancelled", "unknown"} & plain.keys()
    for part in protocol.PARTS:
        rows = process.ask("stats", **{part: True})[part]
        assert [row["alias"] for row in rows] == ["default", "replica"]
        (row,) = process.ask("stats", "replica", **{part: True})[part]
        assert row["alias"] == "replica"


def test_what_the_pools_of_an_alias_counted_by_route_is_added_up(
    process: Process,
) -> None:
    (row,) = process.ask("stats", "default", routes=True)["routes"]
    one = route()
    assert row["name"] == one["name"]
    for key in ("holds", "waits"):
        assert row[key]["count"] == 2 * one[key]["count"]
        assert row[key]["sum"] == pytest.approx(2 * one[key]["sum"])
        assert row[key]["max"] == row[key]["p95"] == one[key]["max"]


def test_a_cancel_says_which_holds_went_on_and_changes_nothing_else(
    process: Process,
) -> None:
    process.ask("pause")
    reply = process.ask("cancel", holds=["1-2-replica", "1-2-gone", "1-2-gone"])
    assert (reply["cancelled"], reply["unknown"]) == (["1-2-replica"], ["1-2-gone"])
    assert process.states == ["paused", "paused"]
    assert process.ask("stats")["orders"] == reply["orders"]


def test_a_cancel_reaches_the_pools_of_the_aliases_it_names_alone(
    process: Process,
) -> None:
    reply = process.ask("cancel", "default", holds=["1-2-replica"])
    assert (reply["cancelled"], reply["unknown"]) == ([], ["1-2-replica"])
