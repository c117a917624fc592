"""The cost of a checkout and of a cycle, next to psycopg_pool and Django's own pool."""

from __future__ import annotations

import time

import psycopg
import psycopg_pool
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper
from django.http import HttpRequest, HttpResponse

from dbpool_mw import pooled
from dbpool_mw.binding import registry
from sandbox.benchmarks.cost import (
    in_turn,
    no_garbage_collection,
    time_bare,
    time_cycle,
)
from sandbox.benchmarks.figures import Part, Ratio, Series

_Pool = psycopg_pool.ConnectionPool[psycopg.Connection]


def measure(dsn: str, rounds: int, operations: int) -> Part:
    """Time each series in turn, ``rounds`` times ``operations`` of each.

    As ``cost.measure``, in a process where Django runs on psycopg.
    """
    unchecked = Series("getconn + putconn", "us")
    checked = Series("getconn + putconn with check_connection", "us")
    bare = Series("checkout + checkin", "us")
    native = Series("connect + close on Django's own pool", "us")
    block = Series("connect in a pooled() block", "us")
    cycle = Series("connect in a request cycle", "us")
    wrapper = connections["default"]
    with (
        _Pool(dsn, min_size=1, max_size=10, open=True) as without_check,
        _Pool(
            dsn, min_size=1, max_size=10, open=True, check=_Pool.check_connection
        ) as with_check,
        _Native(wrapper) as on_djangos_pool,
    ):
        try:
            _time_block(wrapper, 100)  # opens the pool's connection
            (pool,) = registry.pools()
            in_turn(
                rounds,
                operations,
                [
                    (unchecked, lambda number: _time_pool(without_check, number)),
                    (checked, lambda number: _time_pool(with_check, number)),
                    (bare, lambda number: time_bare(pool, number)),
                    (native, lambda number: _time_native(on_djangos_pool, number)),
                    (block, lambda number: _time_block(wrapper, number)),
                    (cycle, lambda number: _time_request(wrapper, number)),
                ],
            )
        finally:
            registry.close()
    return Part(
        "Cost in the worker on psycopg 3",
        "Microseconds of one thread, each with one warm connection: getconn and "
        "putconn of psycopg_pool.ConnectionPool, without a check and with its "
        "check_connection; checkout and checkin of this app's pool; "
        "ensure_connection() and close() of Django with OPTIONS['pool']; "
        "ensure_connection() in a pooled() block; and ensure_connection() in a view, "
        "with the middleware and this app's receiver of request_finished. "
        f"{rounds} rounds of {operations} each, in turn.",
        [unchecked, checked, bare, native, cycle, block],
        [
            Ratio(bare, unchecked, "at most", 1.0),
            Ratio(bare, checked, "at most"),
            Ratio(cycle, native, "at most", 0.6),
            Ratio(block, native, "at most"),
        ],
    )


class _Native:
    """A wrapper of Django's like another one, on Django's own pool.

    This app doesn't know it: it is no alias of DATABASES.
    """

    def __init__(self, wrapper: BaseDatabaseWrapper) -> None:
        pool = {"min_size": 1, "max_size": 10}
        settings = wrapper.settings_dict
        options = {**settings["OPTIONS"], "pool": pool}
        self._wrapper = DatabaseWrapper({**settings, "OPTIONS": options}, "native")

    def __enter__(self) -> DatabaseWrapper:
        return self._wrapper

    def __exit__(self, *_: object) -> None:
        self._wrapper.close_pool()


def _time_pool(pool: _Pool, number: int) -> float:
    with no_garbage_collection():
        began = time.perf_counter()
        for _ in range(number):
            connection = pool.getconn()
            pool.putconn(connection)
        return time.perf_counter() - began


def _time_native(wrapper: DatabaseWrapper, number: int) -> float:
    with no_garbage_collection():
        began = time.perf_counter()
        for _ in range(number):
            wrapper.ensure_connection()
            wrapper.close()
        return time.perf_counter() - began


def _time_block(wrapper: BaseDatabaseWrapper, number: int) -> float:
    with no_garbage_collection():
        began = time.perf_counter()
        for _ in range(number):
            with pooled():
                wrapper.ensure_connection()
        return time.perf_counter() - began


def _time_request(wrapper: BaseDatabaseWrapper, number: int) -> float:
    response = HttpResponse()

    def view(request: HttpRequest) -> HttpResponse:
        wrapper.ensure_connection()
        return response

    return time_cycle(view, number)
