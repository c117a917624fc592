"""How often a message is let through, on a manual clock."""

from __future__ import annotations

import os
import threading

import pytest

from dbpool_mw.core.rate import RateLimit
from tests.core.fakes import Clock, InThread


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limit(clock):
    return RateLimit(2, clock)


def test_the_first_call_is_let_through_and_stands_for_itself_alone(limit):
    assert limit.admit() == (0, 0)


def test_calls_within_the_time_are_counted_by_the_next_that_is_let_through(
    limit, clock
):
    limit.admit()
    assert limit.admit() is None
    clock.advance(1.9)
    assert limit.admit() is None
    clock.advance(0.6)
    assert limit.admit() == (2, pytest.approx(2.5))
    clock.advance(2)
    assert limit.admit() == (0, pytest.approx(2))


def test_of_many_threads_at_once_one_is_let_through_and_none_goes_uncounted(
    limit, clock
):
    together = threading.Barrier(8)

    def call():
        together.wait()
        return [limit.admit() for _ in range(200)]

    threads = [InThread(call) for _ in range(8)]
    results = [result for thread in threads for result in thread.result()]
    assert [result for result in results if result is not None] == [(0, 0)]
    clock.advance(2)
    assert limit.admit() == (8 * 200 - 1, 2)


def test_the_child_of_a_fork_begins_anew_even_if_the_lock_was_held(limit):
    limit.admit()
    with limit._lock:
        child = os.fork()
        if not child:
            os._exit(0 if limit.admit() == (0, 0) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert limit.admit() is None
