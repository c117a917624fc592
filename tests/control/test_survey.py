"""What a process of the host learns of every worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dbpool_mw.control.paths import ControlDirError
from dbpool_mw.control.survey import survey
from tests.control.conftest import Plant, Serve, WorkerProcess
from tests.control.fakes import FakeWorker, holder


def test_every_worker_answers_and_one_that_was_killed_is_left_out(
    directory: Path, spawn: Callable[[], WorkerProcess]
) -> None:
    one, killed, other = spawn(), spawn(), spawn()
    killed.kill()
    answers = survey(directory)
    assert {a.pid for a in answers} == {one.pid, other.pid}
    assert all(a.reply is not None for a in answers)


def test_a_silent_worker_takes_the_time_of_all_once(
    directory: Path, serve: Serve, plant: Plant
) -> None:
    plant(1)
    plant(2)
    serve()
    began = time.monotonic()
    first, second, third = survey(directory, 0.2)
    assert 0.2 <= time.monotonic() - began < 2
    assert first.error == second.error == "no answer within 0.2 s"
    assert third.reply is not None


def test_a_survey_asks_for_what_its_flags_say(directory: Path, serve: Serve) -> None:
    worker = FakeWorker()
    worker.holders = [holder()]
    serve(worker)
    (answer,) = survey(directory, holders=True)
    assert answer.reply is not None
    assert answer.reply["holders"] == [holder()]
    assert worker.verbs == ["stats"]


def test_without_a_worker_there_is_no_answer(directory: Path) -> None:
    assert survey(directory) == []
    assert survey(directory / "missing") == []


def test_a_directory_that_cannot_be_trusted_is_an_error(
    directory: Path, serve: Serve
) -> None:
    serve()
    directory.chmod(0o777)
    with pytest.raises(ControlDirError, match="may be written by others"):
        survey(directory)
