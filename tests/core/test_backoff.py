"""When the next attempt to connect is due, on a manual clock."""

from __future__ import annotations

import math
import random

import pytest

from dbpool_mw.core.backoff import Backoff
from tests.core.fakes import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def backoff(clock, monkeypatch):
    monkeypatch.setattr(random, "random", lambda: 0.0)
    return Backoff(clock)


def test_without_a_failure_an_attempt_is_always_due(backoff):
    assert backoff.is_due()
    assert backoff.seconds() == math.inf
    assert backoff.succeeded() is False


def test_each_failure_doubles_the_delay_up_to_two_seconds(backoff, clock):
    delays = []
    for number in range(1, 9):
        backoff.failed(f"failure {number}")
        delays.append(backoff.retry_at - clock.now)
        assert backoff.failures == number
        assert backoff.error == f"failure {number}"
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0])


def test_an_attempt_is_due_when_its_delay_is_over_and_not_before(backoff, clock):
    backoff.failed("down")
    clock.advance(0.099)
    assert not backoff.is_due()
    clock.advance(0.002)
    assert backoff.is_due()


def test_a_waiter_sleeps_until_the_next_attempt_at_least_a_minimum(backoff, clock):
    for _ in range(5):
        backoff.failed("down")
    assert backoff.seconds() == pytest.approx(1.6)
    clock.advance(1.59)
    assert backoff.seconds() == pytest.approx(0.05)
    clock.advance(100)
    assert backoff.seconds() == pytest.approx(0.05)


def test_after_a_success_the_delays_begin_anew(backoff, clock):
    backoff.failed("down")
    backoff.failed("down")
    assert backoff.succeeded() is True
    assert backoff.is_due()
    assert backoff.seconds() == math.inf
    backoff.failed("down again")
    assert backoff.retry_at - clock.now == pytest.approx(0.1)


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 0.1), (0.5, 0.075), (1.0, 0.05)])
def test_jitter_shortens_a_delay_by_at_most_half(
    backoff, clock, monkeypatch, chance, delay
):
    monkeypatch.setattr(random, "random", lambda: chance)
    backoff.failed("down")
    assert backoff.retry_at - clock.now == pytest.approx(delay)


def test_a_million_failures_do_not_overflow_the_delay(backoff):
    backoff.failures = 10**6
    backoff.failed("down")
    assert backoff.seconds() == pytest.approx(2.0)
