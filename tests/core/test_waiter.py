"""One position in the queue."""

from __future__ import annotations

import pytest

from dbpool_mw.core.entry import PoolEntry
from dbpool_mw.core.waiter import Waiter
from tests.core.fakes import InThread


def test_a_wait_ends_after_its_seconds_without_an_entry():
    waiter = Waiter()
    assert waiter.wait(0.001) is False
    assert waiter.entry is None
    assert waiter.error is None


@pytest.mark.parametrize("seconds", [0, -0.5, -1])
def test_a_wait_of_no_or_negative_seconds_returns_at_once(seconds):
    assert InThread(Waiter().wait, seconds).result() is False


def test_an_entry_handed_over_before_the_wait_ends_it_at_once():
    waiter, entry = Waiter(), PoolEntry(0)
    waiter.hand_over(entry)
    assert waiter.wait(0) is True
    assert waiter.entry is entry


def test_an_error_ends_the_wait():
    waiter, error = Waiter(), ValueError()
    waiting = InThread(waiter.wait, 60)
    waiter.fail(error)
    assert waiting.result() is True
    assert waiter.error is error
    assert waiter.entry is None


def test_two_wakes_before_a_wait_count_as_one():
    waiter = Waiter()
    waiter.wake()
    waiter.wake()
    assert waiter.wait(0) is True
    assert waiter.wait(0) is False
