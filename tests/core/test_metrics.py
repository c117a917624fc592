"""The table of a pool's metrics, and the arithmetic on them."""

from __future__ import annotations

import re
import types
from pathlib import Path

import pytest

from dbpool_mw import core
from dbpool_mw.control import columns, pool_table, prometheus, protocol, render
from dbpool_mw.core import metrics
from tests.control.fakes import pool as report
from tests.control.fakes import reply
from tests.control.test_prometheus import labels_of, parse
from tests.control.test_render import answered
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


def test_a_quantile_is_never_above_the_largest_duration():
    assert metrics.quantile(histogram(0.00101), 0.95) == 0.00101


def test_a_duration_on_a_bound_counts_in_the_bucket_below_it():
    assert histogram(metrics.BOUNDS[3])["buckets"][3] == 1


def test_totals_are_the_sums_of_counts_reasons_and_histograms():
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


def test_a_histogram_keeps_the_largest_duration():
    assert histogram(1.0, 5.0, 2.0)["max"] == 5.0


def test_a_quantile_is_the_first_duration_that_reaches_its_share():
    found = metrics.quantile(histogram(0.001, 1.0), 0.5)
    assert found is not None
    assert found < 0.0012


def test_a_quantile_counts_all_durations_below_it():
    durations = [0.001] * 3 + [0.01] * 3 + [0.1] * 3 + [1.0]
    for q, near in [(0.3, 0.001), (0.6, 0.01), (0.9, 0.1), (0.95, 1.0)]:
        found = metrics.quantile(histogram(*durations), q)
        assert found is not None
        assert near <= found <= near * 1.2


def test_a_quantile_beyond_every_bound_is_the_largest_duration():
    assert metrics.quantile(histogram(1e6), 0.5) == 1e6


def test_totals_have_the_sum_of_all_sums_and_the_largest_maximum():
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


def test_the_totals_of_no_reports_are_zero():
    total = metrics.merge([])
    assert set(total) == {m.key for m in metrics.METRICS} | {"recent"}
    assert not any(total[key] for key in metrics.SUMMED)
    assert metrics.mean(total["wait_seconds"]) is None


# --- The table of metrics ------------------------------------------------------------


def with_lines(*lines: str) -> types.ModuleType:
    """Return a copy of the module with these lines added to the table of metrics."""
    path = Path(metrics.__file__)
    source, found = re.subn(
        r"(?m)^\)\n\n(?=#: Keys of a pool's report that hold a histogram)",
        "".join(f"    {line},\n" for line in lines) + ")\n\n",
        path.read_text(),
    )
    assert found == 1
    copy = types.ModuleType(metrics.__name__)
    exec(compile(source, path, "exec"), copy.__dict__)
    return copy


@pytest.fixture
def probed(monkeypatch):
    """Add a counter and a histogram to the table that all consumers read."""
    copy = with_lines(
        'Metric("probes", "counter", "Probes sent.", column="PROBES")',
        'Metric("probe_seconds", "histogram", "Time of a probe.")',
    )
    for module in (protocol, render, prometheus):
        monkeypatch.setattr(module, "metrics", copy)
    return copy


def with_probes(module, number, *seconds):
    recent = {window: module.empty_window() for window in module.WINDOWS}
    figures = {"probes": number, "probe_seconds": histogram(*seconds)}
    return report(**figures, recent=recent)


def test_a_counter_in_the_table_is_one_that_the_pool_counts_by_key(probed):
    assert (*metrics.COUNTED, "probes") == probed.COUNTED
    assert (*metrics.HISTOGRAMS, "probe_seconds") == probed.HISTOGRAMS


def test_a_reply_without_a_counter_of_the_table_is_refused(probed):
    lacks = "lacks probes, probe_seconds, recent"
    with pytest.raises(protocol.BadMessage, match=lacks):
        protocol.check_reply(reply(report()))
    protocol.check_reply(reply(with_probes(probed, 1)))


def test_totals_add_up_every_counter_of_the_table(probed):
    total = probed.merge([with_probes(probed, number, 1.0) for number in (3, 4)])
    assert total["probes"] == 7
    assert total["probe_seconds"]["count"] == 2


def test_prometheus_exports_every_counter_of_the_table(probed):
    answer = answered(7, with_probes(probed, 5, 1.0))
    text = prometheus.prometheus([answer])
    labels = labels_of()
    assert parse(text)["dbpool_mw_probes_total"] == {labels: 5}
    assert parse(text)["dbpool_mw_probe_seconds_count"] == {labels: 1}
    assert "# HELP dbpool_mw_probes_total Probes sent.\n" in text
    assert "# TYPE dbpool_mw_probes_total counter\n" in text


def test_the_table_of_the_commands_shows_every_column_of_the_table(probed):
    answer = answered(7, with_probes(probed, 5, 1.0))
    path = Path(columns.__file__)
    copy = types.ModuleType(columns.__name__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "metrics", probed)
        exec(compile(path.read_text(), path, "exec"), copy.__dict__)
        patch.setattr(pool_table, "COLUMNS", copy.COLUMNS)
        table = pool_table.pool_table([answer], ranked=copy.RANKED)
        names = copy.chosen(["probe_seconds,probes/s"])
        asked = pool_table.pool_table([answer], names=names)
    header, row = table.splitlines()
    end = header.index("PROBES") + len("PROBES")
    assert row[:end].split()[-1] == "5"
    assert "PROBE MEAN" not in header
    header, row = asked.splitlines()
    assert header.split()[2:] == ["PROBE", "MEAN/P95/MAX", "PROBES/S"]
    assert row.split()[2:] == ["1.0s/1.0s/1.0s", "-"]


def test_a_pool_reports_every_figure_of_the_table_and_no_other():
    pool, _, _ = make_pool()
    described = {"alias", "database", "address", "state", "recent"}
    assert set(pool.stats()) == {m.key for m in metrics.METRICS} | described


def test_the_names_in_the_table_are_unique():
    for names in (
        [m.key for m in metrics.METRICS],
        [m.prometheus_name for m in metrics.METRICS if m.exported],
        [m.column for m in metrics.METRICS if m.column],
    ):
        assert len(names) == len(set(names))
