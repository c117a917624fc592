"""The pools' figures in a registry of prometheus_client, and by other exporters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import prometheus_client
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from dbpool_mw import pooled
from dbpool_mw.binding import registry
from dbpool_mw.contrib.opentelemetry import instrument, uninstrument
from dbpool_mw.contrib.prometheus import PoolCollector
from tests.documents import code_block
from tests.postgres.conftest import ask, stats

pytestmark = pytest.mark.usefixtures("databases", "fresh_wrappers")

OTEL = "db_client_connection_"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(families: Iterable[Any]) -> Samples:
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in families
        for s in family.samples
    }


def scraped(collectors: CollectorRegistry) -> Samples:
    text = generate_latest(collectors).decode()
    return samples(text_string_to_metric_families(text))


def test_a_registry_has_the_figures_of_this_process() -> None:
    collectors = CollectorRegistry(auto_describe=True)
    collectors.register(PoolCollector())
    for _ in range(3):
        with pooled():
            ask("SELECT 1")
    with pooled():
        ask("SELECT 1")
        found = scraped(collectors)
    by_name = {name: value for (name, _), value in found.items()}
    assert by_name["dbpool_mw_checkouts_total"] == 4
    assert by_name["dbpool_mw_worker_up"] == 1
    assert by_name[f"{OTEL}use_time_seconds_count"] == 3
    used = {
        labels: value
        for (name, labels), value in found.items()
        if name == f"{OTEL}count"
    }
    assert sorted(used.values()) == [0, 1]


def test_registering_and_scraping_makes_no_pool_and_no_checkout() -> None:
    collectors = CollectorRegistry(auto_describe=True)
    collectors.register(PoolCollector())
    scraped(collectors)
    assert registry.pools() == []
    with pooled():
        ask("SELECT 1")
    before = stats()
    for _ in range(10):
        scraped(collectors)
    assert stats()["checkouts"] == before["checkouts"] == 1
    assert stats()["opened"] == 1


def test_a_registry_knows_the_names_so_that_none_is_there_twice() -> None:
    collectors = CollectorRegistry(auto_describe=True)
    collectors.register(PoolCollector())
    assert registry.pools() == []
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        collectors.register(PoolCollector())
    with pooled():
        ask("SELECT 1")
    names = ["dbpool_mw_checkouts_total", f"{OTEL}count"]
    chosen = collectors.restricted_registry(names)
    found = samples(text_string_to_metric_families(generate_latest(chosen).decode()))
    assert {name for name, _ in found} == set(names)


def test_a_scrape_in_openmetrics_has_the_same_figures() -> None:
    collectors = CollectorRegistry()
    collectors.register(PoolCollector())
    with pooled():
        ask("SELECT 1")
    encode, content_type = choose_encoder("application/openmetrics-text;version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    text = encode(collectors).decode()
    found = samples(openmetrics.text_string_to_metric_families(text))
    assert {name for name, _ in found} == {name for name, _ in scraped(collectors)}


def test_the_documents_example_works(monkeypatch: pytest.MonkeyPatch) -> None:
    collectors = CollectorRegistry(auto_describe=True)
    monkeypatch.setattr(prometheus_client, "REGISTRY", collectors)
    exec(code_block("docs/observability.rst", "PoolCollector"), {})
    assert "dbpool_mw_worker_up" in {name for name, _ in scraped(collectors)}


def of_pools(found: Samples) -> Samples:
    """Return the samples that the convention names, with the labels it names."""
    return {
        (
            name,
            tuple(
                (label.removeprefix(OTEL), value)
                for label, value in labels
                if label != "pid" and not label.startswith("otel_")
            ),
        ): value
        for (name, labels), value in found.items()
        if name.startswith(OTEL) and not name.endswith(("_bucket", "_created"))
    }


def test_opentelemetrys_exporter_has_the_same_names_labels_and_values() -> None:
    ours = CollectorRegistry()
    ours.register(PoolCollector())
    provider = MeterProvider([PrometheusMetricReader()])
    instrument(provider)
    try:
        for _ in range(20):
            with pooled():
                ask("SELECT 1")
        found = of_pools(scraped(prometheus_client.REGISTRY))
        expected = of_pools(scraped(ours))
    finally:
        uninstrument()
        provider.shutdown()
    assert len(expected) == 13
    assert found == pytest.approx(expected)
