"""The pools' figures and waits as OpenTelemetry's SDK exports them."""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import OperationalError
from django.http import HttpResponse
from django.test import AsyncClient, override_settings
from django.utils.decorators import async_only_middleware
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import db_attributes
from opentelemetry.semconv._incubating.metrics import db_metrics
from opentelemetry.trace import StatusCode

from dbpool_mw import pooled
from dbpool_mw.binding import registry
from dbpool_mw.contrib import opentelemetry as pools_telemetry
from dbpool_mw.core.errors import PoolTimeout
from tests.core.fakes import InThread, until
from tests.documents import code_block
from tests.postgres.conftest import Requests, ask, held, stats

pytestmark = pytest.mark.usefixtures("databases", "fresh_wrappers")

HISTOGRAMS = ("create_time", "use_time", "wait_time")


@pytest.fixture(autouse=True)
def _off_again() -> Iterator[None]:
    yield
    pools_telemetry.uninstrument()


@pytest.fixture
def reader() -> InMemoryMetricReader:
    """Instrument the pools, for one reader."""
    found = InMemoryMetricReader()
    pools_telemetry.instrument(MeterProvider([found]))
    return found


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """Instrument the pools, and give what keeps the spans."""
    kept = InMemorySpanExporter()
    pools_telemetry.instrument(MeterProvider(), provider_of(kept))
    return kept


def provider_of(kept: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return provider


def exported(reader: InMemoryMetricReader) -> dict[str, Any]:
    """Collect; return each metric by its name."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def counts(reader: InMemoryMetricReader) -> dict[str, int]:
    """Collect; return the number of records in each histogram that has any."""
    found = exported(reader)
    return {
        name: sum(
            point.count
            for point in found[f"db.client.connection.{name}"].data.data_points
        )
        for name in HISTOGRAMS
        if f"db.client.connection.{name}" in found
    }


def check_out(times: int) -> None:
    for _ in range(times):
        with pooled():
            ask("SELECT 1")


class Recorded:
    """A meter that notes the instruments which the convention's module makes."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[str, str]] = {}

    def __getattr__(self, method: str) -> Callable[..., None]:
        kind = method.removeprefix("create_")

        def create(name: str, unit: str, **others: object) -> None:
            self.made[name] = kind, unit

        return create


def conventional() -> dict[str, tuple[str, str]]:
    meter = Recorded()
    for name in dir(db_metrics):
        if name.startswith("create_db_client_connection_"):
            getattr(db_metrics, name)(meter)
    assert len(meter.made) == 9
    return meter.made


def test_each_metric_is_the_conventions(reader: InMemoryMetricReader) -> None:
    check_out(2)
    made = {
        name: (
            {"Histogram": "histogram"}.get(
                type(metric.data).__name__,
                "counter"
                if getattr(metric.data, "is_monotonic", False)
                else "up_down_counter",
            ),
            metric.unit,
        )
        for name, metric in exported(reader).items()
    }
    assert made.pop("dbpool_mw.durations.dropped") == ("counter", "{duration}")
    assert made == conventional()


def test_the_attributes_are_the_conventions(reader: InMemoryMetricReader) -> None:
    check_out(1)
    found = exported(reader)
    name = db_attributes.DB_CLIENT_CONNECTION_POOL_NAME
    state = db_attributes.DB_CLIENT_CONNECTION_STATE
    address = registry.pools()[0].address
    for metric_name in conventional():
        for point in found[metric_name].data.data_points:
            own = dict(point.attributes)
            has_state = own.pop(state, None) is not None
            assert has_state is (metric_name == db_metrics.DB_CLIENT_CONNECTION_COUNT)
            assert own == {name: "default", "address": address}
    states = db_attributes.DbClientConnectionStateValues
    assert {
        point.attributes[state]
        for point in found[db_metrics.DB_CLIENT_CONNECTION_COUNT].data.data_points
    } == {each.value for each in states}


def test_the_figures_are_those_of_the_pool(reader: InMemoryMetricReader) -> None:
    with override_settings(DBPOOL_MW_MAX_CONNS=7, DBPOOL_MW_MIN_CONNS=1), pooled():
        ask("SELECT 1")
        found = exported(reader)
    values = {
        name.removeprefix("db.client.connection."): [
            point.value for point in metric.data.data_points
        ]
        for name, metric in found.items()
        if hasattr(metric.data.data_points[0], "value")
    }
    assert values == {
        "count": [0, 1],
        "idle.max": [7],
        "idle.min": [1],
        "max": [7],
        "pending_requests": [0],
        "timeouts": [0],
        "dbpool_mw.durations.dropped": [0],
    }


def test_each_checkout_is_in_the_histograms_once(reader: InMemoryMetricReader) -> None:
    check_out(300)
    assert counts(reader) == {"create_time": 1, "use_time": 300, "wait_time": 300}
    check_out(10)
    assert counts(reader) == {"create_time": 1, "use_time": 310, "wait_time": 310}
    assert stats()["checkouts"] == 310


def test_each_of_two_readers_gets_every_duration() -> None:
    one, other = InMemoryMetricReader(), InMemoryMetricReader()
    pools_telemetry.instrument(MeterProvider([one, other]))
    check_out(20)
    whole = {"create_time": 1, "use_time": 20, "wait_time": 20}
    assert counts(one) == whole
    assert counts(other) == whole
    check_out(5)
    assert counts(other)["use_time"] == 25
    assert counts(one)["use_time"] == 25


def test_the_histograms_tell_milliseconds_from_seconds(
    reader: InMemoryMetricReader,
) -> None:
    with pooled():
        ask("SELECT pg_sleep(0.02)")
    (point,) = exported(reader)["db.client.connection.use_time"].data.data_points
    assert point.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
    assert point.bucket_counts[:3] == (0, 0, 0)
    assert 0.02 <= point.sum < 10


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=0.05)
def test_a_timeout_is_exported(reader: InMemoryMetricReader) -> None:
    with held():
        with pytest.raises(OperationalError), pooled():
            ask("SELECT 1")
        (point,) = exported(reader)["db.client.connection.timeouts"].data.data_points
    assert point.value == 1


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=30)
def test_a_wait_is_in_the_histogram_with_its_length(
    reader: InMemoryMetricReader,
) -> None:
    with held() as done:
        waiting = InThread(check_out, 1)
        until(lambda: stats()["waiting"] == 1)
        (point,) = exported(reader)[
            "db.client.connection.pending_requests"
        ].data.data_points
        assert point.value == 1
        waited_from = time.monotonic()
        threading.Event().wait(0.12)
        done.set()
        waiting.result()
        seconds = time.monotonic() - waited_from
    (point,) = exported(reader)["db.client.connection.wait_time"].data.data_points
    assert point.count == 2
    assert 0.1 < point.max < seconds + 1


def test_a_second_call_adds_nothing(reader: InMemoryMetricReader) -> None:
    other = InMemoryMetricReader()
    pools_telemetry.instrument(MeterProvider([other]))
    check_out(3)
    assert exported(other) == {}
    assert counts(reader)["use_time"] == 3


def test_nothing_is_exported_after_the_end_until_it_is_begun_again() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    pools_telemetry.instrument(provider)
    check_out(2)
    assert counts(reader)["use_time"] == 2
    check_out(10)
    stats()
    pools_telemetry.uninstrument()
    check_out(40)
    found = exported(reader)
    assert "db.client.connection.count" not in found
    pools_telemetry.instrument(provider)
    check_out(3)
    assert counts(reader)["use_time"] == 5
    assert "db.client.connection.count" in exported(reader)


def test_what_ended_before_is_not_exported() -> None:
    check_out(5)
    reader = InMemoryMetricReader()
    pools_telemetry.instrument(MeterProvider([reader]))
    check_out(1)
    assert counts(reader) == {"use_time": 1, "wait_time": 1}


def test_more_durations_than_are_kept_are_counted(
    reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools_telemetry, "MOST", 10)
    for _ in range(15):
        check_out(1)
        stats()
    found = exported(reader)
    (point,) = found["dbpool_mw.durations.dropped"].data.data_points
    assert point.value == 6
    (use,) = found["db.client.connection.use_time"].data.data_points
    assert use.count == 9
    # There is room again.
    check_out(4)
    assert counts(reader)["use_time"] == 13


def in_child(function: Callable[[], Any]) -> Any:
    """Return what a function returns in a forked child, by way of JSON."""
    source, target = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(target, json.dumps(function()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(target)
    with os.fdopen(source) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    assert text, "the child failed"
    return json.loads(text)


needs_quiet_fork = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


@needs_quiet_fork
def test_a_child_exports_nothing_of_its_parents(reader: InMemoryMetricReader) -> None:
    check_out(20)
    assert counts(reader)["use_time"] == 20
    check_out(7)
    stats()

    def child() -> Any:
        nothing = exported(reader)
        names = [name for name in nothing if name.startswith("db.")]
        check_out(3)
        return [names, counts(reader)]

    assert in_child(child) == [
        [],
        {"create_time": 1, "use_time": 3, "wait_time": 3},
    ]
    assert counts(reader)["use_time"] == 27


@needs_quiet_fork
def test_the_example_exports_by_the_global_provider_even_if_it_is_set_later() -> None:
    def child() -> Any:
        names: dict[str, Any] = {}
        exec(code_block("docs/observability.rst", "instrument()"), names)
        names["ShopConfig"].ready(None)
        check_out(2)
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader]))
        check_out(1)
        return counts(reader)

    assert in_child(child) == {"create_time": 1, "use_time": 3, "wait_time": 3}


# --- Spans ---------------------------------------------------------------------------


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=30)
def test_a_wait_is_a_span_inside_of_the_one_that_waited(
    spans: InMemorySpanExporter,
) -> None:
    tracer = provider_of(spans).get_tracer("test")
    waited: list[float] = []

    def request() -> None:
        with tracer.start_as_current_span("request"), pooled():
            ask("SELECT 1")
            (pool,) = registry.pools()
            waited.extend(entry.waited for entry in pool._slots.entries)

    with held() as done:
        waiting = InThread(request)
        until(lambda: stats()["waiting"] == 1)
        threading.Event().wait(0.1)
        done.set()
        waiting.result()
    span, parent = spans.get_finished_spans()
    assert (span.name, parent.name) == ("pool.acquire", "request")
    assert span.parent is not None
    assert span.parent.span_id == parent.context.span_id
    assert parent.start_time <= span.start_time
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(*waited, abs=0.005)
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "db.system.name": "postgresql",
        "db.client.connection.pool.name": "default",
        "address": registry.pools()[0].address,
    }


def check_is_inside(spans: InMemorySpanExporter) -> None:
    """Check that there is a wait, inside of a request."""
    span, request = spans.get_finished_spans()
    assert (span.name, request.name) == ("pool.acquire", "GET")
    assert span.parent is not None
    assert span.parent.span_id == request.context.span_id


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=30)
def test_the_wait_of_a_request_is_in_its_trace(
    spans: InMemorySpanExporter, requests: Requests
) -> None:
    reason = "its instrumentation is installed for one pair of Python and Django"
    instrumentation = pytest.importorskip(
        "opentelemetry.instrumentation.django", reason=reason
    )
    instrumentor = instrumentation.DjangoInstrumentor()
    with override_settings(MIDDLEWARE=list(settings.MIDDLEWARE)), held() as done:
        instrumentor.instrument(
            tracer_provider=provider_of(spans), meter_provider=MeterProvider()
        )
        try:
            sent = InThread(requests, lambda request: HttpResponse("well"))
            until(lambda: stats()["waiting"] == 1)
            threading.Event().wait(0.01)
            done.set()
            assert sent.result().status_code == 200
        finally:
            instrumentor.uninstrument()
    check_is_inside(spans)


#: What the middleware below makes its spans with.
tracers: list[Any] = []


@async_only_middleware
def traced(get_response: Any) -> Any:
    async def middleware(request: Any) -> Any:
        with tracers[0].start_as_current_span(request.method):
            return await get_response(request)

    return middleware


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=30)
def test_the_wait_of_a_request_under_asgi_is_in_its_trace(
    spans: InMemorySpanExporter, requests: Requests
) -> None:
    async def get() -> Any:
        return await AsyncClient().get("/")

    tracers[:] = [provider_of(spans).get_tracer("test")]
    middleware = [f"{__name__}.traced", *settings.MIDDLEWARE]
    with override_settings(MIDDLEWARE=middleware), held() as done:
        sent = InThread(async_to_sync(get))
        until(lambda: stats()["waiting"] == 1)
        threading.Event().wait(0.01)
        done.set()
        assert sent.result().status_code == 200
    check_is_inside(spans)


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=0.05)
def test_a_wait_in_vain_is_a_span_with_the_error_and_no_holder(
    spans: InMemorySpanExporter,
) -> None:
    with held(), pytest.raises(OperationalError) as raised, pooled():
        ask("SELECT 1")
    assert isinstance(raised.value, PoolTimeout)
    assert "held by" in str(raised.value)
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "pool 'default': no connection within 0.05 s"
    assert (span.attributes or {})["error.type"] == "PoolTimeout"
    assert (span.end_time - span.start_time) / 1e9 >= 0.05


def test_a_pool_that_has_connections_makes_no_span(spans: InMemorySpanExporter) -> None:
    check_out(50)
    assert spans.get_finished_spans() == ()


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=30)
def test_what_processes_spans_and_fails_ends_no_checkout() -> None:
    class Fails(SimpleSpanProcessor):
        def on_start(self, *args: Any, **kwargs: Any) -> None:
            raise ValueError("on purpose")

    provider = TracerProvider()
    provider.add_span_processor(Fails(InMemorySpanExporter()))
    pools_telemetry.instrument(MeterProvider(), provider)
    with held() as done:
        waiting = InThread(check_out, 1)
        until(lambda: stats()["waiting"] == 1)
        threading.Event().wait(0.01)
        done.set()
        waiting.result()
    assert stats()["in_use"] == 0
