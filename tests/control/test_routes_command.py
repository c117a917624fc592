"""dbpool_stats --routes: what each route held and waited for, the slowest first."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from dbpool_mw.control import protocol, routes
from dbpool_mw.control.route_table import route_table
from dbpool_mw.control.worker import Worker
from dbpool_mw.core import metrics
from tests import schema
from tests.control.commands import Ended, run
from tests.control.conftest import Plant, Serve
from tests.control.fakes import histogram, route
from tests.core.fakes import HOSTILE, Clock, Holder, make_pool
from tests.documents import ROOT


def stats(directory: Path, *args: str, **options: Any) -> Ended:
    return run(directory, "dbpool_stats", "--routes", *args, **options)


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
        *("HOLD", "M/P95/MAX", "WAIT", "M/P95/MAX"),
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
    schema.check(result, "dbpool_stats")
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


def test_a_worker_that_does_not_answer_has_a_row(
    directory: Path, serve_pool: Any, plant: Plant
) -> None:
    plant(pid=1)
    pool, clock = serve_pool(routes=5)
    hold(pool, clock, "a/", 1)
    ended = stats(directory, "--timeout", "0.5")
    assert (ended.code, ended.err) == (0, "")
    _, row, silent = ended.out.splitlines()
    assert row.split()[:2] == ["default", "a/"]
    assert silent.startswith("worker 1  no answer")


def test_if_none_answers_it_ends_with_code_4(directory: Path, plant: Plant) -> None:
    plant(pid=1)
    ended = stats(directory, "--timeout", "0.2")
    assert (ended.code, ended.out) == (4, "")
    ended = stats(directory, "--timeout", "0.2", "--format", "json")
    assert ended.code == 4
    result = json.loads(ended.out)
    schema.check(result, "dbpool_stats")
    assert (result["routes"], "error" in result["workers"][0]) == ([], True)


def test_the_example_is_what_a_terminal_of_80_characters_shows() -> None:
    def figures(count: int, total: float, p95: float, most: float) -> dict[str, Any]:
        return {"count": count, "sum": total, "p95": p95, "max": most}

    rows = [
        route(
            name="report/",
            holds=figures(12, 498.0, 47.6, 51.0),
            waits=figures(12, 0.0144, 0.0095, 0.0095),
        ),
        route(
            holds=figures(4711, 94.2, 0.048, 0.12),
            waits=figures(4711, 0.4, 0.00038, 0.0012),
        ),
    ]
    text = (ROOT / "docs/troubleshooting.rst").read_text(encoding="utf-8")
    assert textwrap.indent(route_table(rows, width=80), "    ") in text


# --- On a terminal and in a file ------------------------------------------------------

ROUTES = [
    "api/v1/organizations/<uuid:organization_pk>/projects/<int:pk>/",
    "api/v1/organizations/<uuid:organization_pk>/projects/<int:pk>/members/",
    "a/",
]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_on_a_terminal_the_table_is_as_wide_as_it(
    directory: Path, serve_pool: Any, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    pool, clock = serve_pool(routes=5)
    for seconds, name in enumerate(reversed(ROUTES), start=20):
        hold(pool, clock, name, seconds)
    ended = stats(directory, terminal=True)
    title, *rows = ended.out.splitlines()
    assert max(map(len, [title, *rows])) <= width
    shown = [row.split()[1] for row in rows]
    assert len(set(shown)) == len(ROUTES)
    for name, whole in zip(shown, ROUTES, strict=True):
        begin, _, end = name.partition("...")
        assert name == whole or (whole.startswith(begin) and whole.endswith(end))
    if width >= 80:
        assert title.split()[2:] == [
            *("HOLDS", "HELD", "HOLD", "M/P95/MAX", "WAIT", "M/P95/MAX")
        ]
    if width == 200:
        assert shown == ROUTES


def test_in_a_pipe_nothing_is_cut(directory: Path, serve_pool: Any) -> None:
    pool, clock = serve_pool(routes=5)
    hold(pool, clock, ROUTES[1], 1)
    assert ROUTES[1] in stats(directory).out


def test_a_worker_that_does_not_answer_is_red(
    directory: Path, plant: Plant, serve_pool: Any
) -> None:
    plant(pid=1)
    serve_pool(routes=5)
    red = "\x1b[31;1mno answer"
    ended = stats(directory, "--timeout", "0.3", "--force-color", force_color=True)
    assert red in ended.out
    assert red not in stats(directory, "--timeout", "0.3").out


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_file_gets_what_is_printed(
    directory: Path, serve_pool: Any, tmp_path: Path, form: str
) -> None:
    pool, clock = serve_pool(routes=5)
    hold(pool, clock, ROUTES[1], 1)
    file = tmp_path / "routes"
    ended = stats(directory, "--format", form, "--output", str(file), terminal=True)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert ROUTES[1] in file.read_text()
    if form == "json":
        schema.check(json.loads(file.read_text()), "dbpool_stats")


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_file_says_that_there_is_no_worker_or_that_nothing_is_counted(
    directory: Path, serve_pool: Any, tmp_path: Path, form: str
) -> None:
    file = tmp_path / "routes"
    file.write_text("old")
    args = ["--format", form, "--output", str(file)]
    assert stats(directory, *args).code == 3
    without = file.read_text()
    serve_pool()
    assert stats(directory, *args).code == 1
    switched_off = file.read_text()
    if form == "table":
        assert without.startswith("No running worker found.\n")
        assert switched_off.startswith("Nothing is counted by route. ")
    else:
        assert [json.loads(t)["routes"] for t in (without, switched_off)] == [[], []]
        assert json.loads(without)["workers"] == []


def test_a_file_that_cannot_be_written_ends_it_with_code_5(
    directory: Path, serve_pool: Any, tmp_path: Path
) -> None:
    serve_pool(routes=5)
    ended = stats(directory, "--output", str(tmp_path / "none" / "file"))
    assert ended.code == 5
    assert ended.err.startswith("Can't write ")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("width", [None, 60])
def test_a_row_is_one_printable_line(text: str, width: int | None) -> None:
    lines = route_table([route(text, name=text)], width=width).split("\n")
    assert len(lines) == 2
    for line in lines:
        assert line.isprintable()
        assert len(line) < (width or 299) + 1
