"""The JSON schemas describe what the commands print, and nothing else."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dbpool_mw.control import drain, render
from dbpool_mw.control.worker import Worker
from dbpool_mw.core import metrics
from tests import schema
from tests.control.commands import run
from tests.control.conftest import Plant, Serve
from tests.control.fakes import FakeWorker, holder, pool
from tests.control.test_render import answered, silent
from tests.core.fakes import Holder, make_pool
from tests.core.test_history import hold
from tests.core.test_pool_figures import next_second
from tests.documents import ROOT, WRITE


def figures() -> dict[str, Any]:
    """Return the schema of a pool's figures as the table of metrics has them."""
    refs = {"histogram": "histogram", "gauge": "count", "counter": "count"}
    properties = {}
    for metric in metrics.METRICS:
        kind = refs[metric.kind]
        kind = "seconds" if metric.total == "greatest" else kind
        kind = "by reason" if metric.label else kind
        properties[metric.key] = {
            "description": metric.help,
            "$ref": f"#/$defs/{kind}",
        }
    windows = {window: {"$ref": "#/$defs/window"} for window in metrics.WINDOWS}
    properties["recent"] = {
        "description": "The same of the last seconds.",
        "type": "object",
        "required": list(windows),
        "properties": windows,
    }
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
    }


def test_the_figures_are_those_of_the_table_of_metrics() -> None:
    found = schema.read("dbpool_stats")
    if WRITE:
        found["$defs"]["figures"] = figures()
        text = json.dumps(found, indent=2) + "\n"
        (schema.FOLDER / "dbpool_stats.json").write_text(text, "utf-8")
    assert found["$defs"]["figures"] == figures()


@pytest.mark.parametrize("name", ["dbpool_stats", "dbpool_drain"])
def test_a_schema_is_valid(name: str) -> None:
    Draft202012Validator.check_schema(schema.read(name))


def real_pool(holds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the report and the history of a pool that was used."""
    made, _, clock = make_pool()
    hold(made, clock, *[0.5] * holds)
    next_second(made, clock)
    return {**made.stats(), "state_seconds_left": None}, made.history()


@pytest.mark.parametrize("holds", [0, 3])
def test_every_part_of_a_document_is_described(holds: int) -> None:
    report, history = real_pool(holds)
    of_leak = holder(leaked=True, stack=["views.py:7"])
    nobody = holder(leaked=False, stack=[], thread=None, method=None, path=None)
    answers = [
        answered(7, report, holders=[of_leak, nobody], history=[history]),
        answered(8),
        silent(9),
    ]
    orders = [
        {"verb": "pause", "aliases": ["default"], "seconds_left": 2.5},
        {"verb": "drain", "aliases": None, "seconds_left": None},
    ]
    document = json.loads(render.json_text(render.document("/run", answers, orders)))
    schema.check(document, "dbpool_stats")
    for undescribed in (
        {"more": 1},
        {"totals": {**document["totals"], "more": 1}},
        {"workers": [{**document["workers"][0], "more": 1}]},
    ):
        with pytest.raises(AssertionError, match="more"):
            schema.check({**deepcopy(document), **undescribed}, "dbpool_stats")


def serve_real(serve: Serve) -> None:
    report, _ = real_pool(3)
    worker = FakeWorker(report, {**pool("replica"), "state_seconds_left": None})
    worker.holders = [holder(leaked=False, stack=[])]
    serve(worker)


def test_dbpool_stats_prints_what_its_schema_describes(
    directory: Path, serve: Serve
) -> None:
    serve_real(serve)
    ended = run(directory, "dbpool_stats", "--format", "json", "--holders")
    schema.check(json.loads(ended.out), "dbpool_stats")


def drained(directory: Path, *args: str) -> tuple[int, str]:
    """Check the document of dbpool_drain; return the exit code and the result."""
    ended = run(directory, "dbpool_drain", *args, "--format", "json")
    document = json.loads(ended.out)
    schema.check(document, "dbpool_drain")
    assert document["done"] is (document["result"] == "done")
    assert "buckets" not in ended.out
    with pytest.raises(AssertionError):
        schema.check({**document, "more": 1}, "dbpool_drain")
    return ended.code, document["result"]


@pytest.mark.parametrize("option", [(), ("--pause",), ("--recycle",), ("--resume",)])
def test_dbpool_drain_prints_what_its_schema_describes(
    directory: Path, serve: Serve, option: tuple[str, ...]
) -> None:
    serve_real(serve)
    assert drained(directory, *option) == (0, "done")


VERBS = [("--no-wait",), ("--pause", "--no-wait"), ("--resume",)]


@pytest.mark.parametrize("option", VERBS)
def test_so_it_does_without_a_worker_and_if_one_does_not_answer(
    directory: Path,
    serve: Serve,
    plant: Plant,
    option: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drain, "ANSWER_SECONDS", 0.5)
    assert drained(directory, *option) == (3, "no worker")
    plant(pid=1)
    serve_real(serve)
    assert drained(directory, *option) == (4, "incomplete")


def test_so_it_does_if_it_is_not_done_or_has_ended(
    directory: Path, serve: Serve
) -> None:
    worker = FakeWorker({**pool(stale=1), "state_seconds_left": 2.5})
    worker.holders = [holder(stale=True, leaked=False, stack=[])]
    serve(worker)
    assert drained(directory, "--timeout", "0.1") == (1, "timeout")
    assert drained(directory, "--no-wait") == (0, "confirmed")
    ended = FakeWorker({**pool(stale=1), "state_seconds_left": None})

    def resumed(request: dict[str, Any]) -> dict[str, Any]:
        reply = ended(request)
        for each in reply["pools"]:
            each["state"] = "running"
        return reply

    serve(resumed)
    assert drained(directory, "--timeout", "5") == (1, "ended")


def test_so_it_does_if_it_cannot_be_kept(directory: Path, serve: Serve) -> None:
    serve_real(serve)
    (directory / "orders.json").mkdir()
    assert drained(directory) == (4, "incomplete")


def test_so_does_a_cancel(
    directory: Path,
    serve: Serve,
    plant: Plant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drain, "ANSWER_SECONDS", 0.5)
    gone = f"{os.getpid()}-1-abc"
    assert drained(directory, "--cancel", gone) == (3, "no worker")
    made, _, _ = make_pool(max_conns=3)
    made.checkout(Holder("slow"))
    made.checkout(Holder("other"))
    serve(Worker(lambda: directory, lambda: [made]).handle)
    one, other = [held["id"] for held in made.holders()]
    assert drained(directory, "--cancel", one) == (0, "done")
    assert drained(directory, "--cancel", gone, other) == (1, "unknown")
    plant(pid=1)
    assert drained(directory, "--cancel", other, "1-2-3", gone) == (4, "incomplete")


def test_the_results_of_the_schema_are_those_of_the_document() -> None:
    text = (ROOT / "docs/commands.rst").read_text(encoding="utf-8")
    parts = schema.read("dbpool_drain")["$defs"]
    for part in ("order", "cancel"):
        for result in parts[part]["properties"]["result"]["enum"]:
            assert f"\n``{result}``" in text
