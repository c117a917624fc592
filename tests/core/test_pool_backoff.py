"""When connecting fails: one attempt at a time, later and later, and nobody lost."""

from __future__ import annotations

import random
import threading

import pytest

from dbpool_mw.core.errors import ConnectFailed, PoolTimeout, TooManyRequests
from tests.core.fakes import Holder, InThread, check, make_pool, until

ANYBODY = Holder()


class Down:
    """A server that is down, and counts who knocks."""

    def __init__(self, driver):
        self.driver = driver
        self.attempts = 0
        self.together = 0
        self.most_together = 0
        self.lock = threading.Lock()
        self.gate = threading.Event()
        self.gate.set()
        driver.connect_error = ConnectFailed("default", "can't connect", "it is down")
        driver.on_connect = self.knock

    def knock(self):
        with self.lock:
            self.attempts += 1
            self.together += 1
            self.most_together = max(self.most_together, self.together)
        self.gate.wait(20)
        with self.lock:
            self.together -= 1

    def comes_up(self):
        self.driver.connect_error = None


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch):
    monkeypatch.setattr(random, "random", lambda: 0.0)


def fail(pool):
    with pytest.raises(ConnectFailed, match="it is down"):
        pool.checkout(ANYBODY)


def test_the_first_to_fail_hears_it_at_once_and_the_next_waits():
    pool, driver, _ = make_pool(timeout=0.01)
    down = Down(driver)
    fail(pool)
    with pytest.raises(PoolTimeout, match=r"1 failed connects, the last: .*it is down"):
        pool.checkout(ANYBODY)
    assert down.attempts == 1
    check(pool, driver)


def test_each_failure_puts_the_next_attempt_off_twice_as_long_up_to_a_limit():
    pool, driver, clock = make_pool(timeout=0.001)
    down = Down(driver)
    for attempt, pause in enumerate([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0], start=1):
        fail(pool)
        assert down.attempts == attempt
        clock.advance(pause - 0.01)
        with pytest.raises(PoolTimeout):
            pool.checkout(ANYBODY)
        assert down.attempts == attempt
        clock.advance(0.02)
    down.comes_up()
    pool.checkin(pool.checkout(ANYBODY))
    # It is forgotten with the first success.
    assert "failed connects" not in pool._explain()
    driver.connections[0].alive = False
    down = Down(driver)
    fail(pool)
    clock.advance(0.11)
    fail(pool)
    check(pool, driver)


def test_jitter_takes_up_to_half_of_a_pause(monkeypatch):
    pool, driver, clock = make_pool(timeout=0.001)
    Down(driver)
    monkeypatch.setattr(random, "random", lambda: 1.0)
    fail(pool)
    clock.advance(0.051)
    fail(pool)
    check(pool, driver)


def test_while_one_tries_again_the_others_wait_for_what_comes_of_it():
    pool, driver, clock = make_pool(max_conns=5, timeout=20)
    down = Down(driver)
    fail(pool)
    down.gate.clear()
    clock.advance(1)
    callers = [InThread(pool.checkout, ANYBODY) for _ in range(5)]
    until(lambda: pool.stats()["waiting"] == 4 and down.attempts == 2)
    clock.advance(100)  # they look, and find the attempt under way
    assert down.most_together == 1
    down.comes_up()
    down.gate.set()
    for caller in callers:
        pool.checkin(caller.result())
    assert pool.stats()["idle"] == 5
    check(pool, driver)


def test_a_waiter_makes_the_next_attempt_when_its_time_has_come():
    pool, driver, clock = make_pool(timeout=20)
    down = Down(driver)
    fail(pool)
    waiting = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    assert down.attempts == 1
    down.comes_up()
    clock.advance(0.2)
    pool.checkin(waiting.result())
    assert down.attempts == 2
    check(pool, driver)


def test_those_who_waited_since_before_the_failure_try_in_their_turn():
    pool, driver, clock = make_pool(max_conns=1, timeout=20)
    held = pool.checkout(ANYBODY)
    callers = []
    for number in range(3):
        callers.append(InThread(pool.checkout, ANYBODY))
        until(lambda: pool.stats()["waiting"] == number + 1)  # noqa: B023
    down = Down(driver)
    held.connection.closed = True
    pool.checkin(held)
    for number in range(3):
        until(lambda: down.attempts == number + 1)  # noqa: B023
        with pytest.raises(ConnectFailed):
            callers[number].result()
        clock.advance(3)
    assert pool.stats()["waiting"] == 0
    assert down.most_together == 1
    check(pool, driver)


def test_one_whose_attempt_failed_waits_for_those_in_use():
    """As at a server that has no room for more."""
    pool, driver, _ = make_pool(timeout=20)
    held = pool.checkout(ANYBODY)
    down = Down(driver)
    caller = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    pool.checkin(held)
    assert caller.result() is held
    assert down.attempts == 1
    pool.checkin(held)
    assert pool.stats()["timeouts"] == 0
    check(pool, driver)


def test_it_waits_in_the_first_place_and_even_where_no_more_may_wait():
    pool, driver, clock = make_pool(max_conns=2, max_waiting=1, timeout=20)
    held = pool.checkout(ANYBODY)
    down = Down(driver)
    down.gate.clear()
    first = InThread(pool.checkout, ANYBODY)
    until(lambda: down.attempts == 1)
    clock.advance(1)
    second = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    with pytest.raises(TooManyRequests) as refused:
        pool.checkout(ANYBODY)
    assert refused.value.alias == "default"
    clock.advance(1)
    down.gate.set()
    until(lambda: pool.stats()["waiting"] == 2)
    pool.checkin(held)
    pool.checkin(first.result())
    pool.checkin(second.result())
    check(pool, driver)


def test_it_times_out_with_what_the_server_said():
    pool, driver, _ = make_pool(timeout=0.02)
    pool.checkout(ANYBODY)
    Down(driver)
    with pytest.raises(PoolTimeout, match=r"within 0.02 s.*1 in use.*it is down"):
        pool.checkout(ANYBODY)
    assert pool.stats()["waits"] == 0
    assert pool.stats()["timeouts"] == 1


def test_dead_connections_found_while_the_server_is_down_are_not_all_replaced():
    pool, driver, _ = make_pool(max_conns=5, timeout=0.01)
    for entry in [pool.checkout(ANYBODY) for _ in range(5)]:
        pool.checkin(entry)
    down = Down(driver)
    for connection in driver.connections:
        connection.alive = False
    fail(pool)
    for _ in range(4):
        with pytest.raises(PoolTimeout):
            pool.checkout(ANYBODY)
    assert down.attempts == 1
    assert driver.open == []
    check(pool, driver)


def test_the_refill_keeps_to_the_pauses_too(caplog):
    pool, driver, clock = make_pool(min_conns=2)
    down = Down(driver)
    for _ in range(10):
        pool.maintain()
    assert down.attempts == 1
    clock.advance(0.11)
    down.comes_up()
    pool.maintain()
    assert pool.stats()["idle"] == 2
    check(pool, driver)


def test_what_is_no_failure_to_connect_puts_nothing_off():
    """A receiver of connection_created with a fault, say."""
    pool, driver, _ = make_pool()
    driver.connect_error = ValueError("on purpose")
    for _ in range(3):
        with pytest.raises(ValueError, match="on purpose"):
            pool.checkout(ANYBODY)
    driver.connect_error = None
    pool.checkin(pool.checkout(ANYBODY))
    check(pool, driver)
