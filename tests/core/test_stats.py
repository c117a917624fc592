"""The arithmetic on what a pool counts."""

from __future__ import annotations

import pytest

from dbpool_mw.core import metrics
from tests.core.fakes import Holder, make_pool


def histogram(*durations):
    made = metrics.Histogram()
    for duration in durations:
        made.record(duration)
    return made.as_dict()


def test_an_empty_histogram_has_neither_mean_nor_quantile():
    assert metrics.mean(histogram()) is None
    assert metrics.quantile(histogram(), 0.95) is None


def test_the_mean_is_exact():
    assert metrics.mean(histogram(1.0, 2.0, 6.0)) == 3.0


@pytest.mark.parametrize("duration", [1e-6, 1e-5, 0.00123, 0.5, 7.0, 1000.0, 1e6])
def test_a_quantile_is_at_most_a_fifth_too_high(duration):
    found = metrics.quantile(histogram(*[duration] * 99, duration * 1.0001), 0.95)
    assert found is not None
    assert duration <= found <= max(duration * 1.2, 1e-5)


def test_a_quantile_is_never_above_the_largest():
    assert metrics.quantile(histogram(0.00101), 0.95) == 0.00101


def test_a_duration_on_an_edge_counts_below_it():
    assert histogram(metrics.BOUNDS[3])["buckets"][3] == 1


def test_totals_add_up_counts_reasons_and_histograms():
    reports = []
    for number in (1, 2):
        pool, _, _ = make_pool()
        for _ in range(number):
            pool.discard(pool.checkout(Holder()), "test")
        reports.append(pool.stats())
    total = metrics.merge(reports)
    assert total["opened"] == 3
    assert total["max"] == 4
    assert total["discarded"] == {"test": 3}
    assert total["hold_seconds"]["count"] == 3
    assert sum(total["hold_seconds"]["buckets"]) == 3
    assert set(metrics.SUMMED) <= set(reports[0])


def test_the_largest_duration_is_kept_whatever_comes_after_it():
    assert histogram(1.0, 5.0, 2.0)["max"] == 5.0


def test_a_share_that_is_reached_exactly_is_enough():
    found = metrics.quantile(histogram(0.001, 1.0), 0.5)
    assert found is not None
    assert found < 0.0012


def test_a_quantile_counts_what_lies_below():
    durations = [0.001] * 3 + [0.01] * 3 + [0.1] * 3 + [1.0]
    for q, near in [(0.3, 0.001), (0.6, 0.01), (0.9, 0.1), (0.95, 1.0)]:
        found = metrics.quantile(histogram(*durations), q)
        assert found is not None
        assert near <= found <= near * 1.2


def test_a_duration_beyond_every_edge_is_its_own_quantile():
    assert metrics.quantile(histogram(1e6), 0.5) == 1e6


def test_totals_have_the_sum_of_the_sums_and_the_largest_of_the_largest():
    reports = []
    for seconds in (3.0, 4.0):
        pool, _, clock = make_pool()
        entry = pool.checkout(Holder())
        clock.advance(seconds)
        pool.checkin(entry)
        reports.append(pool.stats())
    total = metrics.merge(reports)
    assert total["hold_seconds"]["sum"] == 7.0
    assert total["hold_seconds"]["max"] == 4.0
    assert metrics.mean(total["hold_seconds"]) == 3.5


def test_no_reports_add_up_to_a_report_of_nothing():
    total = metrics.merge([])
    assert set(total) == {*metrics.SUMMED, *metrics.HISTOGRAMS, "discarded"}
    assert not any(total[key] for key in metrics.SUMMED)
    assert metrics.mean(total["wait_seconds"]) is None
