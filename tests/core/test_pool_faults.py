"""A fault in each call that the pool makes of its driver: no slot is ever lost."""

from __future__ import annotations

import functools

import pytest

from dbpool_mw.core.config import PoolConfig
from dbpool_mw.core.pool import ConnectionPool
from tests.core.fakes import Clock, FakeDriver, Holder, at_once, check

ANYBODY = Holder()
#: The driver's functions that never raise an Exception.
SAFE = ("ping", "close", "liveness", "has_ended", "session_attributes")


class Fault(Exception):
    """An error that the pool may handle."""


class Interruption(BaseException):
    """An interruption that the pool has to raise."""


class FaultyDriver(FakeDriver):
    """A driver whose call number ``fails_at`` raises; 0 means that none does."""

    def __init__(self, error):
        super().__init__()
        self.error = error
        self.calls = 0
        self.fails_at = 0
        for name in (
            "connect",
            "reset",
            "session_attributes",
            "why_unusable",
            "roll_back",
            "is_dirty",
            "has_ended",
            "accept",
            "ping",
        ):
            setattr(self, name, self.faulty(name, getattr(self, name)))
        # close() raises after it closed: check() still finds nothing open.
        close, self.on_close = self.close, lambda connection: None
        self.close = self.faulty("close", close, after=True)
        liveness = self.liveness
        self.liveness = self.faulty(
            "liveness", lambda c: self.faulty("alive", liveness(c))
        )

    def faulty(self, name, function, after=False):
        @functools.wraps(function)
        def call(*arguments):
            if self.fails_at:
                self.calls += 1
            fails = self.fails_at and self.calls == self.fails_at
            if fails and name in SAFE and isinstance(self.error, Exception):
                return False if name == "ping" else function(*arguments)
            if fails and not after:
                raise self.error
            result = function(*arguments)
            if fails:
                raise self.error
            return result

        return call


def make(error, **config):
    driver, clock = FaultyDriver(error), Clock()
    pool = ConnectionPool(
        "default",
        PoolConfig(**{"max_conns": 1, "timeout": 0, "check_after_idle": 30, **config}),
        connect=driver.connect,
        reset=driver.reset,
        driver=driver,
        clock=clock,
        spawn=at_once,
    )
    return pool, driver, clock


def first_checkout(pool, driver, clock):
    return lambda: pool.checkin(pool.checkout(ANYBODY))


def second_checkout(pool, driver, clock):
    pool.checkin(pool.checkout(ANYBODY))
    return first_checkout(pool, driver, clock)


def checkout_of_one_idle_for_long(pool, driver, clock):
    pool.checkin(pool.checkout(ANYBODY))
    clock.advance(60)
    return first_checkout(pool, driver, clock)


def checkout_of_a_dead_one(pool, driver, clock):
    pool.checkin(pool.checkout(ANYBODY))
    driver.connections[0].alive = False
    return first_checkout(pool, driver, clock)


def checkin_of_a_dirty_one(pool, driver, clock):
    entry = pool.checkout(ANYBODY)
    entry.connection.transaction = "open"
    entry.connection.dirty = True
    return lambda: pool.checkin(entry)


def checkin_of_one_with_a_transaction(pool, driver, clock):
    entry = pool.checkout(ANYBODY)
    entry.connection.transaction = "open"
    return lambda: pool.checkin(entry)


def checkin_of_a_busy_one(pool, driver, clock):
    entry = pool.checkout(ANYBODY)
    entry.connection.transaction = "busy"
    return lambda: pool.checkin(entry)


def discard(pool, driver, clock):
    entry = pool.checkout(ANYBODY)
    return lambda: pool.discard(entry, "test")


def reaping(pool, driver, clock):
    two_idle(pool)
    clock.advance(10_000)
    return pool.maintain


def refill(pool, driver, clock):
    configure(pool, min_conns=1, max_conns=1)
    return pool.maintain


def configure(pool, **config):
    pool.config = pool._slots.config = PoolConfig(timeout=0, **config)


def two_idle(pool):
    configure(pool, max_conns=2)
    one, two = pool.checkout(ANYBODY), pool.checkout(ANYBODY)
    pool.checkin(one)
    pool.checkin(two)


def drain(pool, driver, clock):
    two_idle(pool)
    return pool.drain


@pytest.mark.parametrize("error", [Fault, Interruption])
@pytest.mark.parametrize(
    "scenario",
    [
        first_checkout,
        second_checkout,
        checkout_of_one_idle_for_long,
        checkout_of_a_dead_one,
        checkin_of_a_dirty_one,
        checkin_of_one_with_a_transaction,
        checkin_of_a_busy_one,
        discard,
        reaping,
        refill,
        drain,
    ],
)
def test_whichever_call_fails_its_slot_is_free_again(scenario, error):
    for number in range(1, 100):
        pool, driver, clock = make(error())
        act = scenario(pool, driver, clock)
        driver.fails_at = number
        raised = None
        try:
            act()
        except (Fault, Interruption) as caught:
            raised = caught
        reached = driver.calls >= number
        driver.fails_at = 0
        if not reached:
            break
        if error is Interruption:
            assert raised is driver.error, f"call {number} was not raised"
        check(pool, driver)
        assert pool.stats()["in_use"] == pool.stats()["connecting"] == 0
        # Every slot is free.
        pool.resume()
        for entry in [pool.checkout(ANYBODY) for _ in range(pool.config.max_conns)]:
            pool.checkin(entry)
        check(pool, driver)
    assert 1 < number < 99
