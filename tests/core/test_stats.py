"""The arithmetic on what a pool counts."""

from __future__ import annotations

import pytest

from dbpool_mw.core import stats
from tests.core.fakes import Owner, make_pool


def histogram(*durations):
    made = stats.Histogram()
    for duration in durations:
        made.record(duration)
    return made.as_dict()


def test_an_empty_histogram_has_neither_mean_nor_quantile():
    assert stats.mean(histogram()) is None
    assert stats.quantile(histogram(), 0.95) is None


def test_the_mean_is_exact():
    assert stats.mean(histogram(1.0, 2.0, 6.0)) == 3.0


@pytest.mark.parametrize("duration", [1e-6, 1e-5, 0.00123, 0.5, 7.0, 1000.0, 1e6])
def test_a_quantile_is_at_most_a_fifth_too_high(duration):
    found = stats.quantile(histogram(*[duration] * 99, duration * 1.0001), 0.95)
    assert found is not None
    assert duration <= found <= max(duration * 1.2, 1e-5)


def test_a_quantile_is_never_above_the_largest():
    assert stats.quantile(histogram(0.00101), 0.95) == 0.00101


def test_a_duration_on_an_edge_counts_below_it():
    assert histogram(stats.BOUNDS[3])["buckets"][3] == 1


def test_totals_add_up_counts_reasons_and_histograms():
    reports = []
    for number in (1, 2):
        pool, _, _ = make_pool()
        for _ in range(number):
            pool.discard(pool.checkout(Owner()), "test")
        reports.append(pool.stats())
    total = stats.merge(reports)
    assert total["opened"] == 3
    assert total["max"] == 4
    assert total["discarded"] == {"test": 3}
    assert total["hold_seconds"]["count"] == 3
    assert sum(total["hold_seconds"]["buckets"]) == 3
    assert set(stats.SUMMED) <= set(reports[0])
