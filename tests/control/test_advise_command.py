"""dbpool_stats --advise: what the measured load says of MAX_CONNS."""

from __future__ import annotations

import heapq
import json
import random
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dbpool_mw.control.advice import LEAST_CHECKOUTS, LEAST_SECONDS, advice, advice_text
from dbpool_mw.control.client import Answer
from dbpool_mw.control.worker import Worker
from dbpool_mw.core import metrics
from tests import schema
from tests.control.commands import Ended, run
from tests.control.conftest import Plant, Serve
from tests.control.fakes import FakeWorker, histogram, pool
from tests.control.test_render import answered, silent
from tests.core.fakes import HOSTILE, Holder, make_pool, use
from tests.core.test_pool_figures import next_second, seen_while_waiting
from tests.documents import ROOT

SECONDS = 900.0
SEEDS = range(25)


def stats(directory: Path, *args: str, **options: Any) -> Ended:
    return run(directory, "dbpool_stats", "--advise", *args, **options)


def recent(**changes: Any) -> dict[str, Any]:
    """Return recent figures of which the quarter of an hour has these."""
    window = {**metrics.empty_window(), "seconds": SECONDS, **changes}
    return {"60": metrics.empty_window(), "900": window}


def calm(checkouts: int = 9000, peak: int = 4, **changes: Any) -> dict[str, Any]:
    """Return recent figures of holds of 20 ms that waited for nothing."""
    return recent(
        **{
            "checkouts": checkouts,
            "in_use_peak": peak,
            "hold_seconds": histogram(*[0.02] * checkouts),
            "wait_seconds": histogram(*[0.0] * checkouts),
            **changes,
        }
    )


def full(checkouts: int = 9000, **changes: Any) -> dict[str, Any]:
    """Return recent figures of a pool of 4 that others waited for."""
    return calm(
        checkouts,
        **{
            "waiting_peak": 6,
            "hold_seconds": histogram(*[0.34] * checkouts),
            "wait_seconds": histogram(*[0.05] * checkouts),
            **changes,
        },
    )


def advised(*pools: Mapping[str, Any]) -> dict[str, Any]:
    """Return the advice for the only alias of the pools, each in its own worker."""
    found = advice([answered(pid, dict(one)) for pid, one in enumerate(pools, 7)])
    (each,) = found["aliases"]
    return dict(each)


# --- A load of which all is known -----------------------------------------------------


def load(seed: int) -> list[tuple[float, float]]:
    """Return the times at which requests of a quarter of an hour come, and their holds.

    They come at random, 1 to 15 in a second, and hold for 20 to 800 ms on average.
    """
    chance = random.Random(seed)
    rate, hold = chance.uniform(1, 15), chance.uniform(0.02, 0.8)
    found, now = [], 0.0
    while (now := now + chance.expovariate(rate)) < SECONDS:
        found.append((now, chance.expovariate(1 / hold)))
    return found


def served(requests: list[tuple[float, float]], limit: int) -> dict[str, Any]:
    """Serve the requests in their order by so many connections; return the report."""
    ends: list[float] = []
    queue: deque[float] = deque()
    waits, in_use_peak, queue_peak = [], 0, 0
    for came, hold in requests:
        while len(ends) >= limit or (ends and ends[0] <= came):
            free = heapq.heappop(ends)
            if len(ends) == limit - 1 and free > came:
                break
        else:
            free = came
        began = max(came, free)
        while queue and queue[0] <= came:
            queue.popleft()
        if began > came:
            queue.append(began)
        heapq.heappush(ends, began + hold)
        waits.append(began - came)
        queue_peak = max(queue_peak, len(queue))
        in_use_peak = max(in_use_peak, len(ends))
    return pool(
        max=limit,
        recent=recent(
            checkouts=len(requests),
            in_use_peak=in_use_peak,
            waiting_peak=queue_peak,
            hold_seconds=histogram(*(hold for _, hold in requests)),
            wait_seconds=histogram(*waits),
        ),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_the_mean_in_use_is_that_of_each_moment(seed: int) -> None:
    requests = load(seed)
    # What is in use at each tenth of a second, without any law.
    steps = [0] * int(SECONDS * 10 + 1)
    for came, hold in requests:
        for step in range(int(came * 10) + 1, int((came + hold) * 10) + 1):
            steps[min(step, len(steps) - 1)] += 1
    each = advised(served(requests, 1000))
    assert each["mean_in_use"] == pytest.approx(sum(steps) / len(steps), abs=1)
    assert each["in_use_peak"] >= max(steps[:-1])
    assert each["free_mean"] == 1000 - each["mean_in_use"]
    assert (each["verdict"], each["wait_p99"]) == ("lower", 0.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_at_the_advised_size_few_of_the_same_requests_wait(seed: int) -> None:
    requests = load(seed)
    limit = max(1, round(advised(served(requests, 1000))["mean_in_use"]))
    before = served(requests, limit)
    each = advised(before)
    window = before["recent"]["900"]
    assert each["verdict"] == "raise"
    assert limit < each["advised"] <= limit + window["waiting_peak"]
    waits = served(requests, each["advised"])["recent"]["900"]["wait_seconds"]
    assert metrics.quantile(waits, 0.9) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_size_that_was_lowered_is_not_lowered_again_nor_missed(seed: int) -> None:
    requests = load(seed)
    lower = advised(served(requests, 1000))["advised"]
    again = advised(served(requests, lower))
    assert (again["verdict"], again["advised"]) == ("enough", lower)


# --- What it says ---------------------------------------------------------------------


def test_requests_that_wait_at_the_limit_need_more() -> None:
    each = advised(pool(max=4, recent=full(timeouts=2, refused=2)))
    assert (each["verdict"], each["advised"]) == ("raise", 8)
    assert each["text"] == (
        "Requests wait: p99 of the waits is 50ms, and 2 got no connection. 3.4 "
        "connections would have been needed on average, and the peak of 4 is the "
        "limit. Try MAX_CONNS = 8, or shorter holds (--routes), and look again."
    )


def test_never_more_is_advised_than_was_wanted_at_once() -> None:
    each = advised(pool(max=4, recent=full(waiting_peak=1)))
    assert each["advised"] == 5


def test_those_that_got_none_count_among_what_is_needed() -> None:
    each = advised(pool(max=4, recent=full(refused=9000, waiting_peak=50)))
    assert each["mean_in_use"] == pytest.approx(3.4)
    assert each["mean_wanted"] == pytest.approx(6.8)
    # 6.8 and twice its root.
    assert each["advised"] == 13


def test_where_nobody_may_wait_the_refused_are_what_is_wanted() -> None:
    figures = calm(9000, refused=1, hold_seconds=histogram(*[0.34] * 9000))
    each = advised(pool(max=4, recent=figures))
    assert (each["verdict"], each["advised"]) == ("raise", 5)
    assert "p99 of the waits is 0us, and 1 got no connection" in each["text"]


def test_without_waits_the_pool_is_not_the_bottleneck() -> None:
    each = advised(pool(max=5, recent=calm()))
    assert (each["verdict"], each["advised"]) == ("enough", 5)
    assert each["text"] == (
        "The pool is not the bottleneck: p99 of the waits is 0us, less than 1ms."
    )


@pytest.mark.parametrize(("peak", "size"), [(1, 2), (4, 5), (8, 10), (9, 12)])
def test_what_was_never_needed_could_be_lower(peak: int, size: int) -> None:
    each = advised(pool(max=20, recent=calm(peak=peak)))
    assert (each["verdict"], each["advised"]) == ("lower", size)
    assert f"MAX_CONNS could be lower: {size} is a quarter more" in each["text"]


def test_it_is_not_lowered_below_what_is_kept_open() -> None:
    each = advised(pool(max=20, min=15, recent=calm()))
    assert (each["verdict"], each["advised"]) == ("lower", 15)


def test_waits_below_the_limit_have_another_cause() -> None:
    figures = calm(wait_seconds=histogram(*[0.012] * 9000))
    each = advised(pool(recent=figures))
    assert (each["verdict"], each["advised"]) == ("elsewhere", 10)
    assert each["text"].endswith("See the workers' log.")
    figures = {**figures["900"], "connect_seconds": histogram(0.011)}
    each = advised(pool(recent=recent(**figures)))
    assert each["text"] == (
        "Requests wait, and MAX_CONNS isn't why: p99 of the waits is 12ms, with at "
        "most 4 of 10 connections in use. Opening one took 11ms (p95): see MIN_CONNS."
    )


def test_one_that_got_no_connection_below_the_limit_is_told() -> None:
    each = advised(pool(recent=recent(refused=200)))
    assert each["verdict"] == "elsewhere"
    assert "no wait has ended, and 200 got no connection" in each["text"]


@pytest.mark.parametrize(
    "figures",
    [
        full(LEAST_CHECKOUTS - 1),
        full(seconds=LEAST_SECONDS - 1),
        full(seconds=0.0),
        recent(),
    ],
)
def test_of_too_few_figures_it_says_nothing_else(figures: dict[str, Any]) -> None:
    each = advised(pool(max=4, recent=figures))
    assert (each["verdict"], each["advised"]) == ("unknown", 4)
    assert each["text"].startswith("Too few figures yet: ")
    assert each["text"].endswith((" It takes 100.", " no pool is a minute old."))


def test_at_the_least_number_it_does() -> None:
    figures = calm(LEAST_CHECKOUTS, seconds=float(LEAST_SECONDS))
    assert advised(pool(max=4, recent=figures))["verdict"] == "enough"


# --- Several workers ------------------------------------------------------------------


def test_each_pool_is_judged_by_itself_and_the_busiest_counts() -> None:
    pools = [pool(max=4, recent=full(waiting_peak=number)) for number in (2, 3)]
    each = advised(*pools, pool(max=4, recent=calm()))
    assert (each["pools"], each["advised"]) == (3, 7)
    assert each["mean_in_use"] == pytest.approx(3.4)
    assert each["checkouts_per_second"] == pytest.approx(30)


def test_a_young_pool_is_not_judged_and_counts_among_the_connections() -> None:
    young = pool(max=4, recent=full(seconds=5.0))
    found = advice([answered(7, pool(max=4, recent=calm(peak=1))), answered(8, young)])
    (each,) = found["aliases"]
    assert (each["pools"], each["pools_judged"], each["verdict"]) == (2, 1, "lower")
    assert each["text"].endswith("Pools younger than a minute, not judged: 1.")
    assert (found["connections"], found["connections_advised"]) == (8, 4)


def test_an_alias_with_pools_of_several_databases_has_one_advice() -> None:
    tenants = [
        pool(address=f"{name}/app", max=4, recent=calm(peak=peak))
        for name, peak in (("a", 1), ("b", 2))
    ]
    found = advice([answered(7, *tenants, pool("replica", recent=calm(peak=9)))])
    assert [each["advised"] for each in found["aliases"]] == [3, 10]
    assert (found["connections"], found["connections_advised"]) == (18, 16)


@pytest.mark.parametrize("limit", [0, 1, 2**53])
@pytest.mark.parametrize("number", [0, 1, 2**53])
def test_whatever_a_report_has_there_is_advice(limit: int, number: int) -> None:
    of_all = {"count": number, "sum": float(number), "max": float(number)}
    buckets = [number] + [0] * len(metrics.BOUNDS)
    counts = dict.fromkeys(metrics.RECENT, number)
    times = {key: {**of_all, "buckets": buckets} for key in metrics.HISTOGRAMS}
    odd = pool(max=limit, min=number, recent=recent(**counts, **times))
    answers = [answered(7, odd)]
    json.dumps(advice(answers), allow_nan=False)
    text = advice_text(advice(answers), answers, width=80)
    assert max(map(len, text.splitlines())) <= 80


# --- The command ----------------------------------------------------------------------


def shown() -> list[Answer]:
    return [
        answered(
            12615,
            pool(max=4, recent=full(timeouts=2, refused=2)),
            pool("replica", max=20, recent=calm()),
        ),
        answered(12617, pool(max=4, recent=full()), pool("replica", max=20)),
    ]


def test_the_example_is_what_a_terminal_of_80_characters_shows() -> None:
    text = advice_text(advice(shown()), shown(), width=80)
    lines = [f"    {line}".rstrip() for line in text.split("\n")]
    document = (ROOT / "docs/sizing.rst").read_text(encoding="utf-8")
    assert "\n".join(lines) in document
    assert "MEAN  PEAK  MAX" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_on_a_terminal_it_is_as_wide_as_it(
    directory: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    serve(FakeWorker(*(dict(each) for each in (shown()[0].reply or {})["pools"])))
    ended = stats(directory, terminal=True)
    assert (ended.code, ended.err) == (0, "")
    assert max(map(len, ended.out.splitlines())) <= width
    words = " ".join(ended.out.split())
    assert "Try MAX_CONNS = 8" in words
    assert "manage.py check --database" in words


def test_what_is_wrong_is_red(directory: Path, serve: Serve) -> None:
    serve(FakeWorker(pool(max=4, recent=full())))
    red = "\x1b[31;1mdefault, 1 pool: Requests wait"
    assert red in stats(directory, "--force-color", force_color=True).out
    assert red not in stats(directory).out


def test_a_real_pool_of_a_known_load(directory: Path, serve: Serve) -> None:
    made, _, clock = make_pool(max_conns=20)
    # Five a second, each for half of it.
    for _ in range(120):
        entries = [made.checkout(Holder()) for _ in range(5)]
        clock.advance(0.5)
        for entry in entries:
            made.checkin(entry)
        next_second(made, clock, 0.5)
    serve(Worker(lambda: directory, lambda: [made]).handle)
    document = json.loads(stats(directory, "--format", "json").out)
    schema.check(document, "dbpool_stats")
    assert document["advice"]["connections_advised"] == 7
    (each,) = document["advice"]["aliases"]
    assert each["mean_in_use"] == pytest.approx(2.5)
    assert each["checkouts_per_second"] == pytest.approx(5)
    assert (each["in_use_peak"], each["verdict"], each["advised"]) == (5, "lower", 7)
    assert "MAX_CONNS could be lower: 7" in " ".join(stats(directory).out.split())


def test_a_real_pool_that_is_too_small(directory: Path, serve: Serve) -> None:
    made, _, clock = make_pool(max_conns=1, timeout=60)
    for _ in range(110):
        use(made)
        next_second(made, clock)
    held = made.checkout(Holder())
    seen_while_waiting(made, lambda: None, before=lambda: clock.advance(61))
    made.checkin(held)
    next_second(made, clock)
    serve(Worker(lambda: directory, lambda: [made]).handle)
    document = json.loads(stats(directory, "--format", "json").out)
    (each,) = document["advice"]["aliases"]
    assert (each["refused"], each["timeouts"], each["in_use_peak"]) == (1, 1, 1)
    assert (each["verdict"], each["advised"]) == ("raise", 2)


def test_without_the_option_there_is_no_advice(directory: Path, serve: Serve) -> None:
    serve()
    ended = run(directory, "dbpool_stats", "--format", "json")
    assert "advice" not in json.loads(ended.out)


def test_a_worker_without_a_pool(directory: Path, serve: Serve) -> None:
    serve(Worker(lambda: directory, list).handle)
    ended = stats(directory)
    assert (ended.code, ended.out) == (0, "No worker has opened a pool.\n")
    document = json.loads(stats(directory, "--format", "json").out)
    schema.check(document, "dbpool_stats")
    assert document["advice"]["aliases"] == []


def test_a_worker_that_does_not_answer_has_a_row(
    directory: Path, serve: Serve, plant: Plant
) -> None:
    plant(pid=1)
    serve(FakeWorker(pool(max=4, recent=full())))
    ended = stats(directory, "--timeout", "0.5")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[2].startswith("worker 1  no answer")
    assert "The pool shown here may open 4" in ended.out


def test_if_none_answers_it_ends_with_code_4(directory: Path, plant: Plant) -> None:
    plant(pid=1)
    ended = stats(directory, "--timeout", "0.2")
    assert (ended.code, len(ended.out.splitlines())) == (4, 2)
    ended = stats(directory, "--timeout", "0.2", "--format", "json")
    assert ended.code == 4
    schema.check(json.loads(ended.out), "dbpool_stats")


def test_without_a_worker_it_ends_with_code_3(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "advice"
    file.write_text("old")
    assert stats(directory, "--output", str(file)).code == 3
    assert file.read_text() == "No worker has opened a pool.\n"


def test_a_file_gets_what_is_printed(
    directory: Path, serve: Serve, tmp_path: Path
) -> None:
    serve(FakeWorker(pool(max=4, recent=full())))
    file = tmp_path / "advice"
    ended = stats(directory, "--output", str(file), terminal=True)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert file.read_text() == stats(directory).out


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("width", [None, 60])
def test_what_others_wrote_is_printable(text: str, width: int | None) -> None:
    answers = [answered(7, pool(text, max=4, recent=full())), silent(8, text)]
    lines = advice_text(advice(answers), answers, width=width).split("\n")
    assert all(line.isprintable() for line in lines)
    assert len(lines) < 60
    if width is not None:
        assert max(map(len, lines)) <= width
