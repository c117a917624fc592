"""An exception at every line of a request, a block or a close: no slot is lost.

What raises is the trace function, so the exception comes where a signal's handler would
raise it: between any two lines of the package. See ``core/test_interruptions``, which
does so to the pool alone.
"""

from __future__ import annotations

import gc
import linecache
import sys
from pathlib import Path

import pytest
from django.core.signals import request_finished
from django.db import OperationalError, connection, connections
from django.http import HttpResponse
from django.test import RequestFactory, override_settings
from greenlet import GreenletExit

import dbpool_mw
from dbpool_mw import pooled
from dbpool_mw.binding import recording, registry
from dbpool_mw.binding.binding import KEY, bind
from dbpool_mw.core import backoff
from dbpool_mw.core.pool import ConnectionPool
from dbpool_mw.middleware import ConnectionPoolMiddleware
from tests.core.fakes import Holder, at_once, until
from tests.postgres.conftest import ask

PACKAGE = str(Path(dbpool_mw.__file__).parent)


class Nobody(Holder):
    def wrapper(self):
        return None


class Limit(Exception):
    """As a task's soft time limit: an Exception."""


#: Each line gets one of them in its turn.
ERRORS = (KeyboardInterrupt, Limit, GreenletExit)


def interrupted_at(number, call):
    """Make a call, and raise before its line ``number``; return where, if at all."""
    lines, place = 0, None

    def trace(frame, event, argument):
        code = frame.f_code
        # What is raised in a finaliser goes nowhere.
        if code.co_name == "__del__" or not code.co_filename.startswith(PACKAGE):
            return None
        last = 0

        def trace_lines(frame, event, argument):
            nonlocal last, lines, place
            if event != "line":
                return trace_lines
            line = linecache.getline(code.co_filename, frame.f_lineno).strip()
            # No handler of a signal is run before a line that does nothing, nor between
            # the last line of a ``with`` block and its exit.
            leaves = line.startswith("with ") and last > frame.f_lineno
            last = frame.f_lineno
            if line != "try:" and not leaves:
                lines += 1
                if lines == number:
                    place = f"{code.co_filename[len(PACKAGE) :]}:{frame.f_lineno}"
                    raise ERRORS[number % len(ERRORS)]
            return trace_lines

        return trace_lines

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except (*ERRORS, OperationalError):
        pass
    finally:
        sys.settrace(before)
    return place


@pytest.fixture(autouse=True)
def settings(requests, fresh_wrappers, monkeypatch):
    """Have a pool of two whose maintenance is the test's, without pauses."""
    monkeypatch.setattr(registry, "start_threads", lambda: True)
    monkeypatch.setitem(ConnectionPool.__init__.__kwdefaults__, "spawn", at_once)
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.002)
    with override_settings(DBPOOL_MW_MAX_CONNS=2, DBPOOL_MW_TIMEOUT=1):
        yield


# The calls that are interrupted.


def view(request):
    ask("SELECT 1")
    return HttpResponse("well")


def dirty_view(request):
    ask("BEGIN")
    ask("SET application_name = 'dirty'")
    return HttpResponse("well")


def serve(view):
    """Serve a request as a server does that sends request_finished whatever comes."""
    try:
        ConnectionPoolMiddleware(view)(RequestFactory().get("/"))
    finally:
        request_finished.send(sender=None)


def serve_unfinished(view):
    """Serve a request; without request_finished if an exception comes."""
    ConnectionPoolMiddleware(view)(RequestFactory().get("/"))
    request_finished.send(sender=None)


def request():
    serve(view)


def request_without_its_end():
    serve_unfinished(view)


def dirty_request():
    serve(dirty_view)


def lazy_request():
    serve_unfinished(view)


def block():
    with pooled():
        ask("SELECT 1")


@pooled
def function():
    ask("SELECT 1")


def nested_blocks():
    with pooled():
        function()
        ask("SELECT 1")


def dirty_block():
    with pooled():
        dirty_view(None)


def block_that_closes():
    with pooled():
        ask("SELECT 1")
        connection.close()
        ask("SELECT 1")


# Calls that open a connection, or reset one, take more time: of each, every fourth or
# fifth line is interrupted. They have most lines in common, and begin at another one.


@pytest.mark.parametrize(
    ("call", "opens", "first", "step"),
    [
        (request, False, 1, 1),
        (request_without_its_end, False, 1, 1),
        (lazy_request, False, 1, 1),
        (block, False, 1, 1),
        (nested_blocks, False, 1, 2),
        (block_that_closes, False, 1, 3),
        (request, True, 1, 5),
        (request_without_its_end, True, 2, 5),
        (lazy_request, True, 3, 5),
        (block, True, 4, 5),
        (function, True, 5, 5),
        (dirty_request, False, 1, 4),
        pytest.param(
            *(dirty_block, False, 3, 4),
            marks=pytest.mark.skipif(
                sys.version_info < (3, 11),
                reason="contextlib of Python 3.10 keeps the frames of a with block "
                "that was interrupted, and a connection in them",
            ),
        ),
    ],
)
def test_after_two_rounds_and_the_next_work_every_slot_is_there(
    call, opens, first, step
):
    with override_settings(
        DBPOOL_MW_EAGER=() if call is lazy_request else ("default",)
    ):
        call()
        for number in range(first, 10_000, step):
            (pool,) = registry.pools()
            if opens:
                pool.recycle()
            place = interrupted_at(number, call)
            pool.maintain()
            pool.maintain()
            # The thread's next piece of work returns what a wrapper still holds.
            call()
            check(pool, f"line {number}, {place}")
            if place is None:
                break
    assert 50 < number < 9_999


def check(pool, where):
    """Assert that no slot is lost, that the counters add up, and the server agrees."""
    if sys.version_info < (3, 11):
        # Its contextlib leaves a cycle of an exception and its frames, in which a
        # connection stays that was interrupted between its opening and Django's return.
        gc.collect()
    stats = pool.stats()
    assert stats["in_use"] == stats["connecting"] == stats["waiting"] == 0, where
    assert stats["size"] == stats["idle"], where
    assert stats["opened"] == stats["size"] + sum(stats["discarded"].values()), where
    assert not recording.is_recording(connections["default"]), where
    entries = [pool.checkout(Nobody(), timeout=1) for _ in range(2)]

    def are_all():
        with entries[0].connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database()"
                " AND backend_type = 'client backend'"
            )
            return cursor.fetchone() == (2,)

    try:
        until(are_all, 5)  # one of Django's own ends a moment after its close
    except AssertionError as error:
        raise AssertionError(where) from error
    for entry in entries:
        pool.checkin(entry)


@pytest.mark.parametrize("stays_bound", [False, True])
@pytest.mark.parametrize(
    ("call", "step"),
    [(block, 1), (nested_blocks, 2), (dirty_block, 5), (block_that_closes, 3)],
)
def test_a_thread_that_goes_on_without_another_block_keeps_no_slot(
    call, step, stays_bound
):
    call()
    (pool,) = registry.pools()
    for number in range(1, 10_000, step):
        if stays_bound:
            bind(connections["default"])
        place = interrupted_at(number, call)
        pool.maintain()
        pool.maintain()
        check(pool, f"line {number}, {place}")
        # What the thread queries now, outside of all blocks, isn't the block's.
        ask("SELECT 1")
        binding = vars(connections["default"]).get(KEY)
        assert binding is None or binding.request is None, f"line {number}, {place}"
        if not stays_bound:
            assert pool.stats()["in_use"] == 0, f"line {number}, {place}"
        connections["default"].close()
        if place is None:
            break
    assert 50 < number < 9_999
