"""After a failed connect: one attempt at a time, with growing delays in between."""

from __future__ import annotations

import random
import threading

import pytest

from dbpool_mw.core.errors import ConnectFailed, PoolTimeout, TooManyRequests
from tests.core.fakes import Holder, InThread, check, make_pool, until

ANYBODY = Holder()


class Outage:
    """A server that refuses connections, and counts the attempts to connect.

    While ``answers`` is cleared, attempts hang in ``connect``.
    """

    def __init__(self, driver):
        self.driver = driver
        self.attempts = 0
        self.at_once = 0
        self.most_at_once = 0
        self.lock = threading.Lock()
        self.answers = threading.Event()
        self.answers.set()
        driver.connect_error = ConnectFailed("default", "can't connect", "it is down")
        driver.on_connect = self.attempt

    def attempt(self):
        with self.lock:
            self.attempts += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.answers.wait(20)
        with self.lock:
            self.at_once -= 1

    def end(self):
        self.driver.connect_error = None


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch):
    monkeypatch.setattr(random, "random", lambda: 0.0)


def fail(pool):
    with pytest.raises(ConnectFailed, match="it is down"):
        pool.checkout(ANYBODY)


def test_the_first_failed_connect_raises_at_once_and_the_next_caller_waits():
    pool, driver, _ = make_pool(timeout=0.01)
    outage = Outage(driver)
    fail(pool)
    with pytest.raises(PoolTimeout, match=r"1 failed connects, the last: .*it is down"):
        pool.checkout(ANYBODY)
    assert outage.attempts == 1
    check(pool, driver)


def test_each_failure_doubles_the_delay_of_the_next_attempt_up_to_a_limit():
    pool, driver, clock = make_pool(timeout=0.001)
    outage = Outage(driver)
    for attempt, delay in enumerate([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0], start=1):
        fail(pool)
        assert outage.attempts == attempt
        clock.advance(delay - 0.01)
        with pytest.raises(PoolTimeout):
            pool.checkout(ANYBODY)
        assert outage.attempts == attempt
        clock.advance(0.02)
    outage.end()
    pool.checkin(pool.checkout(ANYBODY))
    # The first success resets the delay.
    assert "failed connects" not in pool._explain()
    driver.connections[0].alive = False
    outage = Outage(driver)
    fail(pool)
    clock.advance(0.11)
    fail(pool)
    check(pool, driver)


def test_jitter_shortens_a_delay_by_at_most_half(monkeypatch):
    pool, driver, clock = make_pool(timeout=0.001)
    Outage(driver)
    monkeypatch.setattr(random, "random", lambda: 1.0)
    fail(pool)
    clock.advance(0.049)
    with pytest.raises(PoolTimeout):
        pool.checkout(ANYBODY)
    assert pool.stats()["connect_errors"] == 1
    clock.advance(0.002)
    fail(pool)
    check(pool, driver)


def test_during_an_attempt_all_other_callers_wait_for_its_outcome():
    pool, driver, clock = make_pool(max_conns=5, timeout=20)
    outage = Outage(driver)
    fail(pool)
    outage.answers.clear()
    clock.advance(1)
    callers = [InThread(pool.checkout, ANYBODY) for _ in range(5)]
    until(lambda: pool.stats()["waiting"] == 4 and outage.attempts == 2)
    clock.advance(10)  # the next attempt is due, and one is under way
    assert outage.most_at_once == 1
    outage.end()
    outage.answers.set()
    for caller in callers:
        pool.checkin(caller.result())
    assert pool.stats()["idle"] == 5
    check(pool, driver)


def test_a_waiter_makes_the_next_attempt_when_it_is_due():
    pool, driver, clock = make_pool(timeout=20)
    outage = Outage(driver)
    fail(pool)
    waiting = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    assert outage.attempts == 1
    outage.end()
    clock.advance(0.2)
    pool.checkin(waiting.result())
    assert outage.attempts == 2
    check(pool, driver)


def test_callers_that_waited_before_the_outage_try_in_their_order():
    pool, driver, clock = make_pool(max_conns=1, timeout=20)
    held = pool.checkout(ANYBODY)
    callers = []
    for number in range(3):
        callers.append(InThread(pool.checkout, ANYBODY))
        until(lambda: pool.stats()["waiting"] == number + 1)  # noqa: B023
    outage = Outage(driver)
    held.connection.closed = True
    pool.checkin(held)
    for number in range(3):
        until(lambda: outage.attempts == number + 1)  # noqa: B023
        with pytest.raises(ConnectFailed):
            callers[number].result()
        clock.advance(3)
    assert pool.stats()["waiting"] == 0
    assert outage.most_at_once == 1
    check(pool, driver)


def test_a_caller_whose_connect_failed_waits_for_a_connection_in_use():
    """For example at a server whose max_connections are taken."""
    pool, driver, _ = make_pool(timeout=20)
    held = pool.checkout(ANYBODY)
    outage = Outage(driver)
    caller = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    pool.checkin(held)
    assert caller.result() is held
    assert outage.attempts == 1
    pool.checkin(held)
    assert pool.stats()["timeouts"] == 0
    check(pool, driver)


def test_a_caller_whose_connect_failed_keeps_its_position_despite_max_waiting():
    pool, driver, clock = make_pool(max_conns=2, max_waiting=1, timeout=20)
    held = pool.checkout(ANYBODY)
    outage = Outage(driver)
    outage.answers.clear()
    first = InThread(pool.checkout, ANYBODY)
    until(lambda: outage.attempts == 1)
    clock.advance(1)
    second = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    with pytest.raises(TooManyRequests) as refused:
        pool.checkout(ANYBODY)
    assert refused.value.alias == "default"
    clock.advance(1)
    outage.answers.set()
    until(lambda: pool.stats()["waiting"] == 2)
    pool.checkin(held)
    pool.checkin(first.result())
    pool.checkin(second.result())
    check(pool, driver)


def test_a_caller_whose_connect_failed_times_out_with_the_servers_message():
    pool, driver, _ = make_pool(timeout=0.02)
    pool.checkout(ANYBODY)
    Outage(driver)
    with pytest.raises(PoolTimeout, match=r"within 0.02 s.*1 in use.*it is down"):
        pool.checkout(ANYBODY)
    assert pool.stats()["waits"] == 0
    assert pool.stats()["timeouts"] == 1


def test_in_an_outage_dead_connections_are_replaced_by_one_attempt_only():
    pool, driver, _ = make_pool(max_conns=5, timeout=0.01)
    for entry in [pool.checkout(ANYBODY) for _ in range(5)]:
        pool.checkin(entry)
    outage = Outage(driver)
    for connection in driver.connections:
        connection.alive = False
    fail(pool)
    for _ in range(4):
        with pytest.raises(PoolTimeout):
            pool.checkout(ANYBODY)
    assert outage.attempts == 1
    assert driver.open == []
    check(pool, driver)


def test_refills_wait_for_the_delay_too(caplog):
    pool, driver, clock = make_pool(min_conns=2)
    outage = Outage(driver)
    for _ in range(10):
        pool.maintain()
    assert outage.attempts == 1
    clock.advance(0.11)
    outage.end()
    pool.maintain()
    assert pool.stats()["idle"] == 2
    check(pool, driver)


def test_an_error_other_than_connect_failed_delays_no_attempt():
    """For example one that a receiver of connection_created raises."""
    pool, driver, _ = make_pool()
    driver.connect_error = ValueError("on purpose")
    for _ in range(3):
        with pytest.raises(ValueError, match="on purpose"):
            pool.checkout(ANYBODY)
    driver.connect_error = None
    pool.checkin(pool.checkout(ANYBODY))
    check(pool, driver)


# --- Eager callers, which may not need a connection ----------------------------------


def fail_eagerly(pool):
    with pytest.raises(ConnectFailed, match="it is down"):
        pool.checkout(ANYBODY, eager=True)


def go_on_eagerly(pool):
    """Check out eagerly in an outage: nobody tries, and the first query may wait."""
    with pytest.raises(ConnectFailed, match="can't connect now") as caught:
        pool.checkout(ANYBODY, eager=True)
    assert caught.value.may_wait


def test_an_eager_caller_whose_connect_failed_waits_for_nothing():
    pool, driver, _ = make_pool(timeout=20)
    held = pool.checkout(ANYBODY)
    outage = Outage(driver)
    fail_eagerly(pool)
    assert pool.stats()["waiting"] == 0
    go_on_eagerly(pool)
    assert outage.attempts == 1
    # A connection can come back, so that a caller who needs one has to wait for it.
    assert not pool.is_unreachable()
    pool.checkin(held)
    assert pool.checkout(ANYBODY, eager=True) is held
    pool.checkin(held)
    check(pool, driver)


def test_eager_callers_that_wait_are_released_by_a_failed_connect_and_others_wait_on():
    pool, driver, clock = make_pool(max_conns=1, timeout=20)
    held = pool.checkout(ANYBODY)
    callers = []
    for eager in (True, False, True, False):
        callers.append(InThread(pool.checkout, ANYBODY, None, eager))
        until(lambda: pool.stats()["waiting"] == len(callers))
    outage = Outage(driver)
    held.connection.closed = True
    pool.checkin(held)  # the first caller makes the attempt
    for caller in callers[::2]:
        with pytest.raises(ConnectFailed, match="it is down"):
            caller.result()
    until(lambda: pool.stats()["waiting"] == 2)
    assert outage.attempts == 1
    outage.end()
    clock.advance(3)
    for caller in callers[1::2]:
        pool.checkin(caller.result())
    check(pool, driver)


def test_no_eager_caller_makes_an_attempt_until_one_of_another_has_succeeded():
    pool, driver, clock = make_pool(max_conns=5, timeout=20)
    outage = Outage(driver)
    fail_eagerly(pool)
    for seconds in (0, 0.2, 2, 20, 2000):
        clock.advance(seconds)
        go_on_eagerly(pool)
        pool.maintain()
    assert outage.attempts == 1
    # The server is back: whoever needs a connection gets it, and then all do.
    outage.end()
    go_on_eagerly(pool)
    held = [pool.checkout(ANYBODY), pool.checkout(ANYBODY, eager=True)]
    assert outage.attempts == 3
    for entry in held:
        pool.checkin(entry)
    check(pool, driver)


def test_an_eager_caller_waits_for_no_attempt_of_another_in_an_outage():
    pool, driver, clock = make_pool(max_conns=5, timeout=20)
    outage = Outage(driver)
    fail_eagerly(pool)
    clock.advance(20)
    outage.answers.clear()
    trying = InThread(pool.checkout, ANYBODY)
    until(lambda: outage.attempts == 2)
    clock.advance(20)
    go_on_eagerly(pool)
    outage.end()
    outage.answers.set()
    pool.checkin(trying.result())
    check(pool, driver)


def test_an_eager_caller_replaces_no_dead_connection_in_an_outage():
    pool, driver, clock = make_pool(max_conns=3, timeout=20)
    first, second = pool.checkout(ANYBODY), pool.checkout(ANYBODY)
    outage = Outage(driver)
    fail_eagerly(pool)
    for entry in (first, second):
        pool.checkin(entry)
        entry.connection.alive = False
    clock.advance(20)
    go_on_eagerly(pool)
    assert outage.attempts == 1
    assert driver.open == []
    check(pool, driver)


def test_an_eager_caller_waits_in_a_pause_whatever_failed_before_it():
    pool, driver, clock = make_pool(timeout=20)
    outage = Outage(driver)
    fail_eagerly(pool)
    pool.pause()
    caller = InThread(pool.checkout, ANYBODY, None, True)
    until(lambda: pool.stats()["waiting"] == 1)
    outage.end()
    clock.advance(20)
    pool.resume()
    pool.checkin(caller.result())
    check(pool, driver)


def test_a_pool_is_unreachable_from_a_failure_until_long_after_the_next_attempt():
    pool, driver, clock = make_pool(max_conns=5, timeout=20)
    assert not pool.is_unreachable()
    outage = Outage(driver)
    fail_eagerly(pool)
    clock.advance(2)
    assert pool.is_unreachable()
    clock.advance(0.11)
    assert not pool.is_unreachable()
    # ... and while somebody tries.
    outage.answers.clear()
    trying = InThread(pool.checkout, ANYBODY)
    until(lambda: outage.attempts == 2)
    clock.advance(20)
    assert pool.is_unreachable()
    outage.end()
    outage.answers.set()
    held = trying.result()
    assert not pool.is_unreachable()
    pool.checkin(held)
    assert not pool.is_unreachable()
    check(pool, driver)


def test_an_eager_caller_waits_its_turn_at_an_exhausted_pool():
    pool, driver, _ = make_pool(max_conns=1, max_waiting=1, timeout=20)
    held = pool.checkout(ANYBODY)
    caller = InThread(pool.checkout, ANYBODY, None, True)
    until(lambda: pool.stats()["waiting"] == 1)
    with pytest.raises(TooManyRequests):
        pool.checkout(ANYBODY, eager=True)
    pool.checkin(held)
    assert caller.result() is held
    with pytest.raises(PoolTimeout):
        pool.checkout(ANYBODY, timeout=0.01, eager=True)
    pool.checkin(held)
    check(pool, driver)


def test_an_eager_caller_may_wait_where_little_time_has_gone_and_more_may_come():
    pool, driver, clock = make_pool(max_conns=2, timeout=20)

    def caught(caller):
        with pytest.raises(ConnectFailed) as found:
            caller()
        return found.value.may_wait

    def eager():
        pool.checkout(ANYBODY, None, True)

    outage = Outage(driver)
    assert not caught(eager)  # nothing else is open, and nobody else tries
    clock.advance(20)
    outage.end()
    held = pool.checkout(ANYBODY)
    outage = Outage(driver)
    assert caught(eager)
    clock.advance(20)
    outage.end()
    pool.discard(pool.checkout(ANYBODY), "cut")
    outage = Outage(driver)
    driver.on_connect = lambda: clock.advance(3)  # a network that does not answer
    assert not caught(eager)
    # Those who waited for another's attempt.
    for seconds in (0.5, 2):
        clock.advance(20)
        driver.on_connect = lambda: None
        driver.connect_error = None
        second = pool.checkout(ANYBODY)
        waiting = InThread(eager)
        until(lambda: pool.stats()["waiting"] == 1)
        outage = Outage(driver)
        clock.advance(seconds)
        pool.discard(second, "cut")
        assert caught(waiting.result) is (seconds < 1)
    pool.checkin(held)
    check(pool, driver)
