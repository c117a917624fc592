"""dbpool_stats --routes: what each route held and waited for, the slowest first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dbpool_mw.control import protocol, routes
from dbpool_mw.control.worker import Worker
from dbpool_mw.core import metrics
from tests.control.commands import Ended, run
from tests.control.conftest import Plant, Serve
from tests.control.fakes import histogram, route
from tests.core.fakes import HOSTILE, Clock, Holder, make_pool


def stats(directory: Path, *args: str) -> Ended:
    return run(directory, "dbpool_stats", "--routes", *args)


def hold(pool: Any, clock: Clock, name: str, seconds: float) -> None:
    holder = Holder()
    holder.route = name
    entry = pool.checkout(holder)
    clock.advance(seconds)
    pool.checkin(entry)


@pytest.fixture
def serve_pool(directory: Path, serve: Serve) -> Any:
    """Serve a worker of one pool with these settings; return the pool and its clock."""

    def start(**config: Any) -> tuple[Any, Clock]:
        pool, _, clock = make_pool(**config)
        serve(Worker(lambda: directory, lambda: [pool]).handle)
        return pool, clock

    return start


# --- Put together ---------------------------------------------------------------------


def test_rows_of_one_name_are_added_up_and_the_slowest_in_sum_is_first() -> None:
    rows = [
        route(name="quick/", holds=histogram(0.1), waits=histogram(0)),
        route(name="slow/", holds=histogram(3), waits=histogram(1)),
        route(name="often/", holds=histogram(*[0.5] * 10), waits=histogram(0)),
        route(name="quick/", holds=histogram(0.2, 0.3), waits=histogram(2, 0)),
    ]
    found = routes.merged(rows)
    assert [row["name"] for row in found] == ["often/", "slow/", "quick/"]
    quick = found[-1]
    assert quick["holds"]["count"] == quick["waits"]["count"] == 3
    assert quick["holds"]["sum"] == pytest.approx(0.6)
    assert quick["holds"]["p95"] == quick["holds"]["max"] == 0.3
    assert quick["waits"]["max"] == 2


def test_aliases_are_kept_apart() -> None:
    found = routes.merged([route(), route("replica"), route()])
    assert {(row["alias"], row["holds"]["count"]) for row in found} == {
        ("default", 4),
        ("replica", 2),
    }


def test_over_the_number_of_names_the_least_slow_are_other_and_come_last() -> None:
    rows = [
        route(name=f"{number}/", holds=histogram(number)) for number in range(1, 10)
    ]
    rows.append(route(name="other", holds=histogram(100)))
    found = routes.merged(rows, most=2)
    assert [row["name"] for row in found] == ["9/", "8/", "other"]
    assert found[-1]["holds"]["sum"] == 100 + sum(range(1, 8))
    assert found[-1]["holds"]["count"] == 8


def test_the_rows_of_most_names_fit_into_a_reply() -> None:
    rows = [
        route(
            name=str(number) + "x" * 200,
            holds=histogram(*[0.0001 * step**3 for step in range(200)]),
        )
        for number in range(routes.MOST + 100)
    ]
    reply = {"routes": routes.merged(rows * 32)}
    protocol.encode(reply, protocol.MAX_REPLY // 4)


# --- The command ----------------------------------------------------------------------


def test_the_table_has_a_row_for_each_route(directory: Path, serve_pool: Any) -> None:
    pool, clock = serve_pool(routes=5)
    for name, seconds in [("a/", 0.25), ("orders/<int:pk>/", 2), ("a/", 0.5)]:
        hold(pool, clock, name, seconds)
    ended = stats(directory)
    assert (ended.code, ended.err) == (0, "")
    title, first, second = ended.out.splitlines()
    assert title.split() == [
        *("ALIAS", "ROUTE", "HOLDS", "HELD"),
        *("HOLD", "MEAN/P95/MAX", "WAIT", "MEAN/P95/MAX"),
    ]
    assert first.split() == [
        *("default", "orders/<int:pk>/", "1", "2.0s"),
        *("2.0s/2.0s/2.0s", "0us/0us/0us"),
    ]
    assert second.split()[:4] == ["default", "a/", "2", "750ms"]


def test_the_same_as_json(directory: Path, serve_pool: Any) -> None:
    pool, clock = serve_pool(routes=5)
    hold(pool, clock, "a/", 0.25)
    ended = stats(directory, "--format", "json")
    assert ended.code == 0
    result = json.loads(ended.out)
    (row,) = result["routes"]
    assert (row["alias"], row["name"]) == ("default", "a/")
    assert row["holds"]["sum"] == 0.25
    assert len(row["holds"]["buckets"]) == len(metrics.BOUNDS) + 1
    assert len(result["workers"]) == 1


@pytest.mark.parametrize("form", ["table", "json"])
def test_switched_off_it_says_what_to_set(
    directory: Path, serve_pool: Any, form: str
) -> None:
    pool, clock = serve_pool()
    hold(pool, clock, "a/", 0.25)
    ended = stats(directory, "--format", form)
    assert ended.code == 1
    assert "Set DBPOOL_MW_ROUTES to the number of names" in ended.err
    assert json.loads(ended.out)["routes"] == [] if form == "json" else ended.out == ""


def test_before_the_first_hold_has_ended_there_is_no_table(
    directory: Path, serve_pool: Any
) -> None:
    serve_pool(routes=5)
    ended = stats(directory)
    assert (ended.code, ended.out) == (0, "No hold has ended yet.\n")


def test_a_worker_without_a_pool_does_not_tell_whether_it_is_on(
    directory: Path, serve: Serve
) -> None:
    serve(Worker(lambda: directory, list).handle)
    ended = stats(directory)
    assert (ended.code, ended.out) == (0, "No worker has opened a pool.\n")


def test_a_worker_that_does_not_answer_is_named(
    directory: Path, serve_pool: Any, plant: Plant
) -> None:
    plant(pid=1)
    pool, clock = serve_pool(routes=5)
    hold(pool, clock, "a/", 1)
    ended = stats(directory, "--timeout", "0.5")
    assert ended.code == 0
    assert "a/" in ended.out
    assert "worker 1: no answer" in ended.err


def test_if_none_answers_it_ends_with_code_4(directory: Path, plant: Plant) -> None:
    plant(pid=1)
    ended = stats(directory, "--timeout", "0.2")
    assert (ended.code, ended.out) == (4, "")


@pytest.mark.parametrize(
    "option", [["--holders"], ["--watch"], ["--format", "prometheus"]]
)
def test_what_makes_no_sense_with_it_is_refused(
    directory: Path, option: list[str]
) -> None:
    ended = stats(directory, *option)
    assert ended.code == 2
    assert ended.err == f"--routes can't be combined with {' '.join(option)}."


@pytest.mark.parametrize("text", HOSTILE)
def test_a_row_is_one_printable_line(text: str) -> None:
    for line in routes.table([route(text, name=text)]).split("\n"):
        assert line.isprintable()
        assert len(line) < 300
