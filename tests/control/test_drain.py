from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dbpool_mw.control import drain
from dbpool_mw.control.drain import Progress
from tests.control.conftest import Plant, Serve, WorkerProcess
from tests.control.fakes import FakeWorker, pool


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "POLL_SECONDS", 0.01)


def paths_of(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.sock"))


def test_a_verb_is_sent_once_and_then_polled_by_stats(
    directory: Path, serve: Serve
) -> None:
    worker = FakeWorker()
    worker.stale = [3, 2, 2, 0]
    serve(worker)
    seen: list[int] = []
    progress = drain.send("drain", paths_of(directory))
    progress = drain.wait(progress, None, 10, lambda p: seen.append(p.left))
    assert progress.done
    assert seen == [3, 2, 2, 0]
    assert worker.verbs == ["drain", "stats", "stats", "stats"]
    assert all(request["holders"] for request in worker.requests)


def test_a_verb_done_at_once_is_not_polled(directory: Path, serve: Serve) -> None:
    worker = FakeWorker()
    serve(worker)
    progress = drain.send("drain", paths_of(directory))
    assert drain.wait(progress, None, 10, lambda p: None).done
    assert worker.verbs == ["drain"]


def test_only_the_chosen_aliases_count(directory: Path, serve: Serve) -> None:
    worker = FakeWorker(pool("busy", stale=5), pool("idle"))
    serve(worker)
    progress = drain.send("drain", paths_of(directory), ["idle"])
    assert progress.done
    assert worker.requests[0]["aliases"] == ["idle"]


def test_waiting_ends_after_the_seconds_given(directory: Path, serve: Serve) -> None:
    worker = FakeWorker(pool(stale=2))
    serve(worker)
    progress = drain.send("drain", paths_of(directory))
    progress = drain.wait(progress, None, 0.05, lambda p: None)
    assert not progress.done
    assert progress.left == 2


def test_a_worker_that_ends_during_the_wait_counts_as_done(
    directory: Path, serve: Serve, spawn: Callable[[], WorkerProcess]
) -> None:
    ending = spawn()
    staying = FakeWorker()
    staying.stale = [1]
    serve(staying)

    def look(progress: Progress) -> None:
        if not progress.gone:
            ending.kill()
        else:
            staying.stale = [0]

    progress = drain.send("drain", paths_of(directory))
    assert len(progress.answers) == 2
    progress = drain.wait(progress, None, 10, look)
    assert progress.done
    assert progress.gone == [ending.pid]
    assert len(progress.answers) == 1


def test_a_worker_that_does_not_confirm_is_listed_and_not_waited_for(
    directory: Path, serve: Serve, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "ANSWER_SECONDS", 0.1)
    plant(1)
    worker = FakeWorker()
    serve(worker)
    progress = drain.send("pause", paths_of(directory))
    assert [answer.pid for answer in progress.failed] == [1]
    assert worker.verbs == ["pause"]
    assert drain.wait(progress, None, 10, lambda p: None).done


def test_a_worker_that_stops_answering_is_not_done(
    directory: Path, serve: Serve, plant: Plant
) -> None:
    silent = plant(1)
    serve(FakeWorker(pool(stale=1)))
    told = drain.send("drain", [p for p in paths_of(directory) if p != silent])
    (answer,) = told.answers
    replaced = type(answer)(1, silent, reply=answer.reply)
    progress = drain.wait(
        Progress("drain", [replaced], [], []), None, 0.05, lambda p: None
    )
    assert not progress.done
    assert [answer.pid for answer in progress.silent] == [1]
