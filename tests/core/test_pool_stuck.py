"""A pool is stuck when all of it is in use, and nothing comes back for STUCK_AFTER."""

from __future__ import annotations

import pytest

from dbpool_mw.core.errors import ConnectFailed
from tests.core.fakes import Holder, InThread, check, make_pool, until

ANYBODY = Holder()


def full_pool(**config):
    """Give a pool with all of its places in use, and the entries."""
    pool, driver, clock = make_pool(**{"max_conns": 2, "stuck_after": 10, **config})
    return pool, driver, clock, [pool.checkout(Holder()) for _ in range(2)]


def test_a_pool_that_was_never_used_is_not_stuck():
    pool, _, clock = make_pool(stuck_after=10)
    clock.advance(1000)
    assert not pool.is_stuck()


def test_a_full_pool_is_stuck_when_nothing_came_back_for_that_long():
    pool, driver, clock, _ = full_pool()
    clock.advance(9.9)
    assert not pool.is_stuck()
    clock.advance(0.1)
    assert pool.is_stuck()
    check(pool, driver)


def test_a_full_pool_that_moves_is_not_stuck_however_long_the_others_hold():
    pool, _, clock, (_, moving) = full_pool()
    for _ in range(20):
        clock.advance(9)
        assert not pool.is_stuck()
        pool.checkin(moving)
        assert not pool.is_stuck()
        moving = pool.checkout(Holder())
    clock.advance(10)
    assert pool.is_stuck()


def test_a_hand_over_to_a_waiter_is_a_connection_that_came_back():
    pool, _, clock, (first, _) = full_pool(timeout=60)
    waiting = InThread(pool.checkout, Holder())
    until(lambda: pool.stats()["waiting"] == 1)
    clock.advance(9)
    pool.checkin(first)
    waiting.result()
    clock.advance(9)
    assert not pool.is_stuck()
    clock.advance(1)
    assert pool.is_stuck()


def test_a_pool_is_no_longer_stuck_when_one_comes_back():
    pool, _, clock, (first, _) = full_pool()
    clock.advance(100)
    assert pool.is_stuck()
    pool.checkin(first)
    assert not pool.is_stuck()


@pytest.mark.parametrize("ends", ["discard", "expires"])
def test_a_place_that_is_free_is_none_of_a_stuck_pool(ends):
    pool, _, clock, (first, _) = full_pool(max_lifetime=50)
    clock.advance(100)
    if ends == "discard":
        pool.discard(first, "on purpose")
    else:
        pool.checkin(first)
    assert pool.stats()["size"] == 1
    assert not pool.is_stuck()


def test_a_pool_with_a_free_place_is_not_stuck():
    pool, _, clock = make_pool(max_conns=2, stuck_after=10)
    pool.checkout(ANYBODY)
    clock.advance(1000)
    assert not pool.is_stuck()


def test_a_pool_is_not_stuck_while_it_opens_a_connection():
    pool, driver, clock = make_pool(max_conns=2, stuck_after=10, timeout=5)
    pool.checkout(ANYBODY)
    clock.advance(100)
    seen = []
    driver.on_connect = lambda: seen.append(pool.is_stuck())
    driver.connect_error = ConnectFailed("default", "refused")
    with pytest.raises(ConnectFailed):
        pool.checkout(ANYBODY, timeout=0, eager=True)
    assert seen == [False]
    assert not pool.is_stuck()


def test_closing_one_that_was_idle_for_long_does_not_make_a_pool_stuck():
    pool, driver, clock = make_pool(max_conns=2, max_idle=100, stuck_after=10)
    idle, held = pool.checkout(ANYBODY), pool.checkout(ANYBODY)
    clock.advance(60)
    pool.checkin(idle)
    pool.checkin(held)
    clock.advance(99)
    held = pool.checkout(ANYBODY)
    clock.advance(20)
    seen = []
    driver.on_close = lambda connection: seen.append(pool.is_stuck())
    pool.maintain()
    assert (seen, pool.stats()["discarded"]) == ([False], {"idle": 1})
    pool.checkin(held)
    check(pool, driver)


def test_a_connection_that_is_being_cleaned_has_not_come_back():
    pool, _, clock, (first, _) = full_pool()
    clock.advance(10)
    first.connection.dirty = True
    seen = []
    pool._cleaner._reset = lambda entry: seen.append(pool.is_stuck())
    pool.checkin(first)
    assert seen == [True]


def test_none_never_calls_a_pool_stuck():
    pool, _, clock, _ = full_pool(stuck_after=float("inf"))
    clock.advance(1_000_000)
    assert not pool.is_stuck()
