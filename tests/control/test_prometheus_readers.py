"""The Prometheus text, read by those who didn't write it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import Any

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from dbpool_mw.control.client import Answer
from dbpool_mw.control.prometheus import families, prometheus
from dbpool_mw.core import metrics
from tests.control.fakes import histogram, pool
from tests.control.test_render import answered, silent

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None,
    reason="no promtool on PATH. On Debian, root can install it with .ci/debian.",
)

#: Series of every family, and labels that need escapes.
ANSWERS = [
    answered(
        7,
        pool(
            idle=2,
            in_use=1,
            oldest_hold_seconds=2.5,
            refused_by_reason=dict.fromkeys(metrics.REFUSALS, 3),
            discarded={"idle": 3, "closed in atomic()": 1},
            wait_seconds=histogram(0.000015, 0.001, 0.5, 5000.0),
        ),
        pool(address="shop/report@[::1]:5432"),
    ),
    answered(8, pool('back\\slash "quoted"\nline', state="paused")),
    silent(9),
]

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(found: Iterable[Metric]) -> Series:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in found
        for sample in family.samples
    }


def exported(answers: list[Answer]) -> Series:
    """Return the series of the families before they are rendered."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(answers)
        for sample in family.samples
    }


def test_prometheus_clients_parser_reads_every_series_and_type() -> None:
    text = prometheus(ANSWERS)
    found = list(text_string_to_metric_families(text))
    assert series(found) == exported(ANSWERS)
    assert [(f.name, f.type, f.documentation) for f in found] == [
        (name.removesuffix("_total"), kind, text)
        for name, kind, text, _ in families(ANSWERS)
    ]


def test_a_parser_of_openmetrics_reads_it_but_for_the_names_of_counters() -> None:
    # There a counter's samples end in _total, and what describes it does not.
    described = re.compile(r"^(# (?:HELP|TYPE) \S+)_total ", re.MULTILINE)
    text = described.sub(r"\1 ", prometheus(ANSWERS)) + "# EOF\n"
    found = list(openmetrics_families(text))
    assert series(found) == exported(ANSWERS)


@needs_promtool
def test_promtool_finds_no_fault_but_opentelemetrys_name() -> None:
    ended = subprocess.run(
        [str(PROMTOOL), "check", "metrics"],
        input=prometheus(ANSWERS),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # What ends in _count is a histogram's to promtool. It reads the whole text first.
    assert (ended.stdout + ended.stderr).splitlines() == [
        "db_client_connection_count non-histogram and non-summary metrics should not "
        'have "_count" suffix'
    ]


WAITS, HOLDS, CONNECTS = (0.00001, 0.004, 2.0), (0.1, 0.1, 30.0), (0.02,)
REPORT = pool(
    idle=3,
    in_use=2,
    min=1,
    max=10,
    waiting=4,
    timeouts=5,
    wait_seconds=histogram(*WAITS),
    hold_seconds=histogram(*HOLDS),
    connect_seconds=histogram(*CONNECTS),
)


def by_opentelemetry() -> bytes:
    """Return the same pool as OpenTelemetry's Prometheus exporter writes it."""
    exporter = pytest.importorskip(
        "opentelemetry.exporter.prometheus",
        reason="opentelemetry-exporter-prometheus, which extra test has, is missing",
    )
    from opentelemetry.sdk import metrics as sdk
    from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
    from opentelemetry.semconv._incubating.attributes import db_attributes
    from opentelemetry.semconv._incubating.metrics import db_metrics

    aggregation = ExplicitBucketHistogramAggregation(metrics.BOUNDS[::4])
    view = View(instrument_type=sdk.Histogram, aggregation=aggregation)
    provider = sdk.MeterProvider([exporter.PrometheusMetricReader()], views=[view])
    meter = provider.get_meter("dbpool_mw")
    name = {db_attributes.DB_CLIENT_CONNECTION_POOL_NAME: REPORT["alias"]}
    state = db_attributes.DB_CLIENT_CONNECTION_STATE

    def instrument(key: str) -> Any:
        return getattr(db_metrics, f"create_db_client_connection_{key}")(meter)

    count = instrument("count")
    count.add(REPORT["idle"], {**name, state: "idle"})
    count.add(REPORT["in_use"], {**name, state: "used"})
    for key, number in (
        ("idle_min", REPORT["min"]),
        ("idle_max", REPORT["max"]),
        ("max", REPORT["max"]),
        ("pending_requests", REPORT["waiting"]),
        ("timeouts", REPORT["timeouts"]),
    ):
        instrument(key).add(number, name)
    for key, durations in (
        ("wait_time", WAITS),
        ("use_time", HOLDS),
        ("create_time", CONNECTS),
    ):
        times = instrument(key)
        for seconds in durations:
            times.record(seconds, name)
    try:
        return generate_latest(REGISTRY)
    finally:
        provider.shutdown()


def of_opentelemetry(text: str, *additional: str) -> tuple[dict[str, str], Series]:
    """Return the kinds and the series named by it, without ``additional`` labels."""
    found = [
        family
        for family in text_string_to_metric_families(text)
        if family.name.startswith("db_client_connection_")
    ]
    for family in found:
        for sample in family.samples:
            for label in set(sample.labels) & set(additional):
                del sample.labels[label]
    return {family.name: family.type for family in found}, series(found)


def test_opentelemetrys_exporter_writes_the_same_series() -> None:
    scope = ("otel_scope_name", "otel_scope_version", "otel_scope_schema_url")
    kinds, theirs = of_opentelemetry(by_opentelemetry().decode(), *scope)
    our_kinds, ours = of_opentelemetry(
        prometheus([answered(7, REPORT)]), "pid", "address"
    )
    assert our_kinds == kinds
    assert ours.keys() == theirs.keys()
    assert ours == pytest.approx(theirs)
    assert len(kinds) == 9
