"""The cost of one request's cycle and of a checkout, next to psycopg2's own pool.

In a process where Django runs on psycopg2. ``cost_psycopg`` uses the public functions.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.core.signals import request_finished
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from psycopg2.pool import ThreadedConnectionPool

from dbpool_mw.binding import registry
from dbpool_mw.binding.requests import end_request
from dbpool_mw.contrib.opentelemetry import instrument, uninstrument
from dbpool_mw.core.entry import Holder, PoolEntry
from dbpool_mw.core.pool import ConnectionPool
from dbpool_mw.middleware import ConnectionPoolMiddleware
from sandbox.benchmarks.figures import Part, Ratio, Series


def measure(dsn: str, rounds: int, operations: int) -> Part:
    """Time each series in turn, ``rounds`` times ``operations`` of each.

    One thread, one warm connection in each pool. Django must be set up with the app
    installed and its default alias on the database of ``dsn``.
    """
    reference = Series("getconn + putconn", "us")
    bare = Series("checkout + checkin", "us")
    leaks = Series("the same with LEAK_AFTER", "us")
    exported = Series("the same with OpenTelemetry", "us")
    cycle = Series("request cycle", "us")
    psycopg2_pool = ThreadedConnectionPool(1, 10, dsn)
    try:
        time_cycle(_view, 100)  # opens the pool's connection
        (pool,) = registry.pools()
        watchful = _with_leak_after(pool)
        time_exported = _with_opentelemetry(pool)
        in_turn(
            rounds,
            operations,
            [
                (reference, lambda number: _time_reference(psycopg2_pool, number)),
                (bare, lambda number: time_bare(pool, number)),
                (exported, time_exported),
                (leaks, lambda number: time_bare(watchful, number)),
                (cycle, lambda number: time_cycle(_view, number)),
            ],
        )
    finally:
        psycopg2_pool.closeall()
        watchful.close()
        registry.close()
    return Part(
        "Cost in the worker on psycopg2",
        "Microseconds of one thread, each with one warm connection: getconn and "
        "putconn of psycopg2.pool.ThreadedConnectionPool; checkout and checkin of this "
        "app's pool, the same while OpenTelemetry's SDK exports the pool, and the same "
        "with LEAK_AFTER set, which captures the stack of each checkout; and a "
        "request's cycle, which is the middleware around a view that does nothing, and "
        "this app's receiver of request_finished. "
        f"{rounds} rounds of {operations} each, in turn.",
        [reference, bare, exported, leaks, cycle],
        [
            Ratio(bare, reference, "at most", 1.8),
            Ratio(exported, bare, "at most", 1.05),
            Ratio(cycle, reference, "at most", 4),
        ],
    )


def in_turn(
    rounds: int,
    operations: int,
    timed: Sequence[tuple[Series, Callable[[int], float]]],
) -> None:
    """Fill the series with microseconds; each round begins with another one.

    Beside each series stands what returns the seconds that so many operations took.
    """
    for number in range(rounds):
        turn = number % len(timed)
        for series, seconds in [*timed[turn:], *timed[:turn]]:
            series.rounds.append(seconds(operations) / operations * 1e6)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep collections out of the timed loop, as timeit does."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _time_reference(pool: ThreadedConnectionPool, number: int) -> float:
    with no_garbage_collection():
        began = time.perf_counter()
        for _ in range(number):
            connection = pool.getconn()
            pool.putconn(connection)
        return time.perf_counter() - began


class _Nobody:
    """A holder that does nothing but hold."""

    thread_id = threading.get_ident()

    def holds(self, entry: PoolEntry) -> bool:
        return True

    def will_return(self) -> bool:
        return True

    def let_go(self, entry: PoolEntry, since: float) -> bool:
        return False

    def describe(self) -> dict[str, Any]:
        return {}

    def holds_another(self) -> bool:
        return False

    def cancellation(self) -> Callable[[], bool]:
        return lambda: False


_NOBODY: Holder = _Nobody()


def _with_leak_after(pool: ConnectionPool) -> ConnectionPool:
    """Return a pool like ``pool`` that captures the stack of each checkout."""
    config = replace(pool.config, leak_after=30.0)
    return ConnectionPool(
        pool.name,
        config,
        driver=pool._driver,
        connect=lambda entry, holder: pool._connect(entry, None),
        reset=pool._cleaner._reset,
    )


def _with_opentelemetry(pool: ConnectionPool) -> Callable[[int], float]:
    """Return ``time_bare`` of a pool of the registry while an SDK exports it."""
    provider = MeterProvider([InMemoryMetricReader()])

    def time_exported(number: int) -> float:
        instrument(provider, TracerProvider())
        try:
            return time_bare(pool, number)
        finally:
            uninstrument()

    return time_exported


def time_bare(pool: ConnectionPool, number: int) -> float:
    """Return the seconds that so many checkouts and checkins take."""
    with no_garbage_collection():
        began = time.perf_counter()
        for _ in range(number):
            entry = pool.checkout(_NOBODY)
            pool.checkin(entry)
        return time.perf_counter() - began


_response = HttpResponse()


def _view(request: HttpRequest) -> HttpResponse:
    return _response


def time_cycle(view: Callable[[HttpRequest], HttpResponse], number: int) -> float:
    """Return the seconds that so many requests' cycles around a view take."""
    middleware = ConnectionPoolMiddleware(view)
    # A server makes the request objects, so making them is not timed.
    requests: list[WSGIRequest] = [RequestFactory().get("/") for _ in range(number)]
    with no_garbage_collection():
        began = time.perf_counter()
        for request in requests:
            middleware(request)
            end_request(sender=WSGIHandler, signal=request_finished)
        return time.perf_counter() - began
