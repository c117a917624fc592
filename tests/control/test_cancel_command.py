"""dbpool_drain --cancel: which holds it ends, what it says, and how it ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dbpool_mw.control import drain, orders, protocol
from dbpool_mw.control.worker import Worker
from tests.control.commands import Ended, run
from tests.control.conftest import Plant, Serve
from tests.control.fakes import FakeWorker
from tests.core.fakes import FakeDriver, Holder, make_pool

GONE = f"{os.getpid()}-1-abc"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "ANSWER_SECONDS", 0.5)


def cancel(directory: Path, *args: str) -> Ended:
    return run(directory, "dbpool_drain", "--cancel", *args)


class Served:
    """A worker of this process with a pool, two of whose connections are in use."""

    def __init__(self, directory: Path, serve: Serve) -> None:
        self.pool, self.driver, _ = make_pool(max_conns=3)
        self.pool.checkout(Holder("slow"))
        self.pool.checkout(Holder("other"))
        self.worker = Worker(lambda: directory, lambda: [self.pool])
        serve(self.worker.handle)

    @property
    def ids(self) -> dict[str, str]:
        return {holder["path"]: holder["id"] for holder in self.pool.holders()}


@pytest.fixture
def served(directory: Path, serve: Serve) -> Served:
    return Served(directory, serve)


def aborted(driver: FakeDriver) -> list[int]:
    return [connection.number for connection in driver.aborted]


def test_the_hold_with_the_id_is_cancelled_and_no_other(
    directory: Path, served: Served
) -> None:
    name = served.ids["/slow/"]
    ended = cancel(directory, name)
    assert (ended.code, ended.err) == (0, "")
    first, second = ended.out.splitlines()
    assert first.startswith("Cancelled 1 hold. What they run is cancelled")
    assert second.startswith(
        f"  {name}: default, backend 1001, thread slow, GET /slow/"
    )
    assert aborted(served.driver) == [1]
    assert not orders.read(directory)
    assert served.pool.state == "running"


def test_several_are_cancelled_at_once_each_once(
    directory: Path, served: Served
) -> None:
    names = list(served.ids.values())
    ended = cancel(directory, *names, *names)
    assert ended.code == 0
    assert ended.out.startswith("Cancelled 2 holds. ")
    assert sorted(aborted(served.driver)) == [1, 2]


def test_one_that_has_ended_is_not_known_and_the_others_are_cancelled(
    directory: Path, served: Served
) -> None:
    name = served.ids["/other/"]
    ended = cancel(directory, GONE, name)
    assert ended.code == 1
    assert ended.err == (
        f"Not known, so they have ended, or never were; nothing was done: {GONE}."
    )
    assert name in ended.out
    assert aborted(served.driver) == [2]


@pytest.mark.usefixtures("served")
def test_with_one_that_has_ended_alone_nothing_is_printed(directory: Path) -> None:
    ended = cancel(directory, GONE)
    assert (ended.code, ended.out) == (1, "")


@pytest.mark.usefixtures("served")
def test_an_id_of_a_process_that_has_ended_is_not_known(directory: Path) -> None:
    ended = cancel(directory, "1-2-3")
    assert ended.code == 1
    assert "Not known" in ended.err


def test_only_the_workers_that_the_ids_name_are_asked(
    directory: Path, served: Served, plant: Plant
) -> None:
    plant(pid=1)  # it would never answer
    assert cancel(directory, *served.ids.values()).code == 0


@pytest.mark.usefixtures("served")
def test_a_worker_that_does_not_answer_may_have_cancelled_it(
    directory: Path, plant: Plant
) -> None:
    plant(pid=1)
    ended = cancel(directory, "1-2-3", GONE)
    assert ended.code == 4
    assert "Not confirmed, so perhaps not done: 1-2-3.\n  worker 1: no" in ended.err
    assert f"nothing was done: {GONE}." in ended.err


def test_the_result_as_json_has_what_the_worker_says_of_the_holders(
    directory: Path, served: Served
) -> None:
    name = served.ids["/slow/"]
    ended = cancel(directory, name, GONE, "--format", "json")
    assert ended.code == 1
    result: dict[str, Any] = json.loads(ended.out)
    assert (result["verb"], result["result"]) == ("cancel", "unknown")
    assert (result["cancelled"], result["unknown"]) == ([name], [GONE])
    assert (result["unconfirmed"], result["done"]) == ([], False)
    (worker,) = result["workers"]
    assert (worker["pid"], worker["result"]) == (os.getpid(), "answered")
    (holder,) = worker["holders"]
    assert (holder["id"], holder["state"]) == (name, "cancelled")


def test_the_result_as_json_names_the_workers_that_did_not_answer(
    directory: Path, served: Served, plant: Plant
) -> None:
    plant(pid=1)
    name = served.ids["/slow/"]
    ended = cancel(directory, "1-2-3", name, "--format", "json")
    assert ended.code == 4
    result = json.loads(ended.out)
    assert result["result"] == "incomplete"
    assert (result["cancelled"], result["unconfirmed"]) == ([name], ["1-2-3"])
    silent, answered = result["workers"]
    assert (silent["pid"], silent["result"], silent["holders"]) == (1, "failed", [])
    assert "no answer" in silent["error"]
    assert "error" not in answered


def test_without_a_worker_there_is_a_document_too(directory: Path) -> None:
    ended = cancel(directory, "1-2-3", "1-2-3", "--format", "json")
    assert ended.code == 3
    result = json.loads(ended.out)
    assert (result["result"], result["unknown"]) == ("no worker", ["1-2-3"])
    assert result["workers"] == []


def test_the_aliases_and_workers_named_are_asked_alone(
    directory: Path, served: Served
) -> None:
    name = served.ids["/slow/"]
    assert cancel(directory, name, "--alias", "replica").code == 1
    assert aborted(served.driver) == []
    assert cancel(directory, name, "--pid", str(os.getpid())).code == 0
    assert cancel(directory, name, "--pid", "1").code == 2


def test_an_alias_that_no_worker_has_is_wrong_usage_and_cancels_nothing(
    directory: Path, served: Served
) -> None:
    name = served.ids["/slow/"]
    ended = cancel(directory, name, "--alias", "defualt")
    assert ended.code == 2
    assert ended.err.startswith("No worker has a pool for 'defualt'; open there: def")
    assert aborted(served.driver) == []


@pytest.mark.parametrize(
    "text", ["", "4711", "4711-3", "4711-3-", "4711-3-xyz", "a-b-c", "1-2-3 ", "-1-2-3"]
)
def test_what_is_no_id_is_refused_with_an_example(
    directory: Path, serve: Serve, text: str
) -> None:
    worker = FakeWorker()
    serve(worker)
    ended = run(directory, "dbpool_drain", f"--cancel={text}")
    assert ended.code != 0
    assert "is not the id of a hold, such as 4711-3-5af3107a4000" in ended.err
    assert worker.requests == []


@pytest.mark.parametrize(
    "option", [["--for", "5"], ["--no-wait"], ["--pause"], ["--resume"], ["--recycle"]]
)
def test_what_makes_no_sense_with_it_is_refused(
    directory: Path, option: list[str]
) -> None:
    ended = cancel(directory, "1-2-3", *option)
    assert ended.code == 2
    assert ended.err == f"{option[0]} can't be combined with --cancel."


def test_without_a_worker_the_output_says_where_it_looked(directory: Path) -> None:
    ended = cancel(directory, "1-2-3")
    assert ended.code == 3
    assert str(directory) in ended.err


def test_a_request_to_cancel_nothing_is_answered(served: Served) -> None:
    request = protocol.request("cancel", holds=[])
    protocol.check_request(request)
    reply = served.worker.handle(request)
    assert (reply["cancelled"], reply["unknown"]) == ([], [])


def test_the_help_says_where_the_ids_are(capsys: pytest.CaptureFixture[str]) -> None:
    run(False, "dbpool_drain", "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "dbpool_stats --holders shows the ids" in text
