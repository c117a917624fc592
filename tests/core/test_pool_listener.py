"""What a pool tells its listener of durations, waits and failures."""

from __future__ import annotations

from typing import Any

import pytest

from dbpool_mw.core.errors import PoolTimeout, TooManyRequests
from tests.core.fakes import DriverError, Holder, InThread, make_pool, until

ANYBODY = Holder()


class Told:
    """Notes what it is told, and that no lock is held where none may be."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.holds: list[float] = []
        self.after_wait: list[tuple[float, float]] = []
        self.connects: list[float] = []
        self.waits: list[tuple[float, Exception | None]] = []

    def ended(self, holds: Any, after_wait: Any) -> None:
        assert holds or after_wait
        self.holds += holds
        self.after_wait += after_wait

    def opened(self, seconds: float) -> None:
        self.connects.append(seconds)

    def waited(self, seconds: float, error: Exception | None) -> None:
        assert not self.pool._lock._is_owned()
        self.waits.append((seconds, error))


def listened_to(**config: Any) -> tuple[Any, Any, Any, Told]:
    pool, driver, clock = make_pool(**config)
    told = Told(pool)
    pool.listen(told)
    return pool, driver, clock, told


def test_each_hold_and_each_connect_is_told_once() -> None:
    pool, _, clock, told = listened_to()
    for seconds in (1.0, 2.0):
        entry = pool.checkout(ANYBODY)
        clock.advance(seconds)
        pool.checkin(entry)
    pool.stats()
    pool.stats()
    assert told.holds == [1.0, 2.0]
    assert told.connects == [0.0]
    assert told.waits == []


def test_what_is_told_adds_up_to_what_is_counted() -> None:
    pool, _, _, told = listened_to()
    for _ in range(1000):
        pool.checkin(pool.checkout(ANYBODY))
    stats = pool.stats()
    assert len(told.holds) + len(told.after_wait) == 1000
    assert stats["hold_seconds"]["count"] == stats["wait_seconds"]["count"] == 1000


def test_maintenance_tells_without_another_checkin() -> None:
    pool, _, _, told = listened_to()
    pool.checkin(pool.checkout(ANYBODY))
    pool.maintain()
    assert len(told.holds) + len(told.after_wait) == 1


def test_a_wait_in_the_queue_is_told_when_it_ends() -> None:
    pool, _, clock, told = listened_to(max_conns=1, timeout=30)
    entry = pool.checkout(ANYBODY)
    waiting = InThread(pool.checkout, Holder())
    until(lambda: pool.stats()["waiting"] == 1)
    clock.advance(0.25)
    pool.checkin(entry)
    second = waiting.result()
    assert told.waits == [(0.25, None)]
    clock.advance(3.0)
    pool.checkin(second)
    pool.stats()
    assert told.after_wait == [(0.25, 3.0)]


def test_a_checkout_that_finds_or_opens_a_connection_at_once_did_not_wait() -> None:
    pool, driver, clock, told = listened_to(check_after_idle=0.5)
    driver.on_connect = lambda: clock.advance(2.0)
    pool.checkin(pool.checkout(ANYBODY))
    clock.advance(1.0)
    pool.checkin(pool.checkout(ANYBODY))
    assert told.connects == [2.0]
    assert told.waits == []


def test_a_wait_in_vain_is_told_once_with_its_error() -> None:
    pool, _, _, told = listened_to(max_conns=1, timeout=0.01)
    pool.checkout(ANYBODY)
    with pytest.raises(PoolTimeout) as raised:
        pool.checkout(Holder())
    ((_, error),) = told.waits
    assert error is raised.value


def test_a_refusal_and_a_failed_connect_are_told() -> None:
    pool, driver, _, told = listened_to(max_conns=1, max_waiting=1, timeout=30)
    entry = pool.checkout(ANYBODY)
    waiting = InThread(pool.checkout, Holder())
    until(lambda: pool.stats()["waiting"] == 1)
    with pytest.raises(TooManyRequests) as refused:
        pool.checkout(Holder())
    assert told.waits == [(0.0, refused.value)]
    pool.checkin(entry)
    pool.checkin(waiting.result())
    pool.recycle()
    driver.connect_error = DriverError("on purpose")
    with pytest.raises(DriverError) as failed:
        pool.checkout(ANYBODY)
    assert told.waits[-1] == (0.0, failed.value)


def test_nobody_is_told_any_more_after_the_end() -> None:
    pool, _, _, told = listened_to()
    pool.listen(None)
    pool.checkin(pool.checkout(ANYBODY))
    pool.stats()
    assert (told.holds, told.after_wait, told.connects) == ([], [], [])
