"""One caller in the queue."""

from __future__ import annotations

import pytest

from dbpool_mw.core.entry import PoolEntry
from dbpool_mw.core.waiter import Waiter
from tests.core.fakes import InThread


def test_a_wait_that_nobody_ends_ends_with_its_time_and_no_gift():
    waiter = Waiter()
    assert waiter.wait(0.001) is False
    assert waiter.entry is None
    assert waiter.error is None


@pytest.mark.parametrize("seconds", [0, -0.5, -1])
def test_a_time_that_is_over_already_is_no_wait_at_all(seconds):
    assert InThread(Waiter().wait, seconds).result() is False


def test_a_gift_ends_the_wait_even_if_it_came_before():
    waiter, entry = Waiter(), PoolEntry(0)
    waiter.hand_over(entry)
    assert waiter.wait(0) is True
    assert waiter.entry is entry


def test_a_failure_ends_the_wait():
    waiter, error = Waiter(), ValueError()
    waiting = InThread(waiter.wait, 60)
    waiter.fail(error)
    assert waiting.result() is True
    assert waiter.error is error
    assert waiter.entry is None


def test_one_woken_twice_before_it_looks_is_woken_once():
    waiter = Waiter()
    waiter.wake()
    waiter.wake()
    assert waiter.wait(0) is True
    assert waiter.wait(0) is False
