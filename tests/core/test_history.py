"""The samples of a pool's last quarter of an hour, and the figures made of them."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbpool_mw.core import metrics
from dbpool_mw.core.errors import PoolTimeout
from dbpool_mw.core.history import COLUMNS, MOST, History
from dbpool_mw.core.metrics import BOUNDS
from tests.core.fakes import Holder, make_pool
from tests.core.test_pool_figures import next_second, use_at_once

ANYBODY = Holder()


def rows(pool, *columns, **limits):
    """Return these columns of the pool's history."""
    history = pool.history(**limits)
    places = [history["columns"].index(column) for column in columns]
    return [tuple(row[place] for place in places) for row in history["rows"]]


def hold(pool, clock, *seconds):
    for one in seconds:
        entry = pool.checkout(ANYBODY)
        clock.advance(one)
        pool.checkin(entry)


# --- Recent figures ------------------------------------------------------------------


def recent(pool, window="60"):
    return pool.stats()["recent"][window]


def test_nothing_is_recent_before_the_first_round():
    pool, _, _ = make_pool()
    use_at_once(pool, 2)
    for window in ("60", "900"):
        found = recent(pool, window)
        assert found["seconds"] == found["checkouts"] == 0
        holds = found["hold_seconds"]
        assert (holds["count"], holds["sum"], holds["max"]) == (0, 0.0, 0.0)
        assert holds["mean"] is holds["p50"] is holds["p95"] is holds["p99"] is None


def test_holds_of_the_last_minute_are_apart_from_those_before():
    pool, _, clock = make_pool()
    hold(pool, clock, 4.0)
    for _ in range(60):
        next_second(pool, clock)
    hold(pool, clock, 0.5, 0.25)
    next_second(pool, clock, 0.25)
    minute, quarter = recent(pool), recent(pool, "900")
    assert (minute["checkouts"], quarter["checkouts"]) == (2, 3)
    assert (minute["seconds"], quarter["seconds"]) == (60, 65)
    holds = minute["hold_seconds"]
    assert (holds["count"], holds["sum"], holds["max"]) == (2, 0.75, 0.5)
    assert holds["mean"] == 0.375
    assert 0.25 <= holds["p50"] <= 0.25 * 1.2
    assert holds["p95"] == holds["p99"] == 0.5
    assert quarter["hold_seconds"]["max"] == 4.0
    assert sum(holds["buckets"]) == 2


def test_the_recent_figures_are_forgotten_after_a_quarter_of_an_hour():
    pool, _, clock = make_pool()
    hold(pool, clock, 4.0)
    next_second(pool, clock)
    clock.advance(899)
    assert recent(pool, "900")["checkouts"] == 1
    clock.advance(1)
    assert recent(pool, "900")["checkouts"] == 0
    assert pool.history()["rows"] == []
    assert pool.stats()["hold_seconds"]["max"] == 4.0


def test_recent_waits_are_of_those_who_waited_and_of_those_who_did_not():
    pool, driver, clock = make_pool()
    driver.on_connect = lambda: clock.advance(2)
    use_at_once(pool, 1)
    driver.on_connect = lambda: None
    use_at_once(pool, 1)
    next_second(pool, clock)
    found = recent(pool)
    waits, connects = found["wait_seconds"], found["connect_seconds"]
    assert (waits["count"], waits["sum"], waits["max"]) == (2, 2.0, 2.0)
    assert (connects["count"], connects["sum"], connects["max"]) == (1, 2.0, 2.0)
    assert waits["p50"] == metrics.BOUNDS[0]


def test_recent_refusals_are_counted():
    pool, _, clock = make_pool(max_conns=1, timeout=0)
    for number in (3, 1):
        entry = pool.checkout(ANYBODY)
        for _ in range(number):
            with pytest.raises(PoolTimeout):
                pool.checkout(ANYBODY)
        pool.checkin(entry)
        next_second(pool, clock, 61)
    assert (recent(pool)["timeouts"], recent(pool)["refused"]) == (1, 1)
    assert (recent(pool, "900")["timeouts"], pool.stats()["timeouts"]) == (4, 4)


def test_a_reader_that_changes_recent_figures_changes_its_own_only():
    pool, _, clock = make_pool()
    hold(pool, clock, 4.0)
    next_second(pool, clock)
    mine = recent(pool)
    del mine["checkouts"], mine["hold_seconds"]["buckets"]
    assert recent(pool)["checkouts"] == 1
    assert sum(recent(pool)["hold_seconds"]["buckets"]) == 1


def test_the_recent_figures_of_several_pools_add_up():
    reports = []
    for seconds in (0.5, 4.0):
        pool, _, clock = make_pool()
        hold(pool, clock, seconds)
        next_second(pool, clock)
        reports.append(pool.stats())
    total = metrics.merge(reports)["recent"]["60"]
    assert (total["seconds"], total["checkouts"], total["in_use_peak"]) == (5.0, 2, 2)
    holds = total["hold_seconds"]
    assert (holds["count"], holds["sum"], holds["max"]) == (2, 4.5, 4.0)
    assert 0.5 <= holds["p50"] <= 0.6


# --- The samples ---------------------------------------------------------------------


def test_a_round_adds_a_sample_of_what_happened_since_the_last():
    pool, _, clock = make_pool(max_conns=5)
    use_at_once(pool, 3)
    next_second(pool, clock)
    held = [pool.checkout(ANYBODY) for _ in range(2)]
    next_second(pool, clock)
    names = ("size", "in_use", "idle", "in_use_peak", "checkouts", "opened")
    assert rows(pool, *names) == [(3, 0, 3, 3, 3, 3), (3, 2, 1, 2, 2, 0)]
    assert len(held) == 2


def test_a_sample_says_how_old_it_is_and_how_long_it_lasts():
    pool, _, clock = make_pool()
    next_second(pool, clock)
    next_second(pool, clock, 3.0)
    clock.advance(0.25)
    assert rows(pool, "age", "seconds") == [(3.25, 1.0), (0.25, 3.0)]
    assert pool.history()["interval"] == 1.0


def test_rounds_that_follow_at_once_share_a_sample():
    pool, _, clock = make_pool()
    next_second(pool, clock)
    next_second(pool, clock, 0.4)
    use_at_once(pool, 1)
    next_second(pool, clock, 0.4)
    assert rows(pool, "seconds", "checkouts") == [(1.0, 0), (0.8, 1)]


def test_a_history_can_be_asked_for_its_newest_samples():
    pool, _, clock = make_pool()
    for _ in range(10):
        next_second(pool, clock)
    assert rows(pool, "age", seconds=3) == [(2,), (1,), (0,)]
    assert rows(pool, "age", rows=2) == [(1,), (0,)]
    assert len(rows(pool, "age")) == 10


def test_what_is_older_than_a_minute_can_be_had_in_steps_with_the_highest_values():
    pool, _, clock = make_pool()
    for second in range(75):
        pool._metrics.hold.record(*[second / 100] * (second % 3))
        next_second(pool, clock)
    assert rows(pool, "age")[:15] == [(age,) for age in range(74, 59, -1)]
    columns = ["hold_max", "hold_p95", "age"]
    found = pool.history(columns=columns, step=6)
    assert found["columns"] == columns
    assert len(found["rows"]) == 3 + 60
    # The newest of what shares a row counts; where nothing ended, nothing is known.
    assert found["rows"][:5] == [
        [0.02, 0.02, 72],
        [0.08, 0.08, 66],
        [0.14, 0.14, 60],
        [None, None, 59],
        [0.16, 0.16, 58],
    ]
    assert len(pool.history(rows=2, step=6)["rows"]) == 2
    assert make_pool()[0].history(step=6)["rows"] == []


def test_a_history_names_its_pool_and_its_columns():
    pool, _, clock = make_pool()
    next_second(pool, clock)
    history = pool.history()
    assert (history["alias"], history["address"]) == ("default", "")
    assert history["columns"] == list(COLUMNS)
    assert [len(row) for row in history["rows"]] == [len(COLUMNS)]


@given(st.lists(st.lists(st.floats(1e-6, 5000), max_size=20), min_size=1, max_size=5))
def test_the_quantiles_and_maxima_of_a_sample_are_those_of_its_second(seconds):
    pool, _, clock = make_pool()
    expected = []
    for durations in seconds:
        for one in durations:
            pool._metrics.hold.record(one)
        next_second(pool, clock)
        histogram = metrics.Histogram()
        histogram.record(*durations)
        p95 = metrics.quantile(histogram.as_dict(), 0.95)
        expected.append(p95 if p95 is None else pytest.approx(p95, abs=1e-6))
    assert [p95 for (p95,) in rows(pool, "hold_p95")] == expected
    largest = [max(durations, default=None) for durations in seconds]
    assert [most for (most,) in rows(pool, "hold_max")] == [
        most if most is None else pytest.approx(most, abs=1e-6) for most in largest
    ]


def fill(history, clock, samples):
    """Add samples of seconds in which waits, holds and connects took all times."""
    for _ in range(samples):
        clock.advance(1)
        number = int(clock())
        histogram = {"sum": number + 0.5, "buckets": [number] * (len(BOUNDS) + 1)}
        figures = dict.fromkeys(metrics.SUMMED, 1000 * number)
        figures |= dict.fromkeys(metrics.HISTOGRAMS, histogram)
        maxima = dict.fromkeys(metrics.HISTOGRAMS, number + 0.25)
        history.add(clock(), figures, maxima, (10, 1000))


def test_the_memory_of_a_history_has_a_bound():
    _, _, clock = make_pool()
    history = History(clock())
    tracemalloc.start()
    try:
        fill(history, clock, MOST)
        gc.collect()
        full = tracemalloc.get_traced_memory()[0]
        fill(history, clock, 200)
        gc.collect()
        later = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # It can't be more: 6 bytes for each of the 327 buckets in every second.
    assert full < 2_200_000
    assert later < full + 20_000
    assert len(history.rows(clock(), 1e9, 1000)["rows"]) == MOST


def test_the_memory_of_an_idle_pools_history_is_small():
    pool, _, clock = make_pool()
    tracemalloc.start()
    try:
        for _ in range(MOST):
            next_second(pool, clock)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 250_000
    finally:
        tracemalloc.stop()


def test_a_column_that_is_asked_for_twice_is_given_once():
    given = History(0.0).rows(0.0, 60, 10, ["age", "size", "age"])
    assert given["columns"] == ["age", "size"]
