"""Many threads, with the shortest switch interval and a driver that fails at random.

The fake driver counts the connections that are open at a time. A holder takes its
connection's own lock without waiting: if it is taken, there are two holders.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter

import pytest

from dbpool_mw.core.errors import PoolClosed, PoolError
from tests.core.fakes import DriverError, FakeDriver, Holder, InThread, check, make_pool
from tests.soak import soaked

THREADS = 6
STEPS = 40
MAX_CONNS = 3


class Interruption(BaseException):
    """An exception that ends a request wherever it is."""


@pytest.fixture(autouse=True)
def _shortest_switch_interval():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Unreliable:
    """Makes connects, resets, pings and closes fail at random, until ``calm``."""

    def __init__(self, driver: FakeDriver, seed: int):
        self.rng = random.Random(seed)
        self.connect, self.reset, self.ping = driver.connect, driver.reset, driver.ping
        self.close = driver.close
        driver.connect, driver.reset = self.flaky_connect, self.flaky_reset
        driver.ping, driver.close = self.flaky_ping, self.flaky_close
        self.calm = False

    def chance(self, share):
        return not self.calm and self.rng.random() < share

    def flaky_connect(self, entry, holder):
        if self.chance(0.05):
            raise DriverError("down")
        if self.chance(0.02):
            raise Interruption
        self.connect(entry, holder)
        entry.connection.lock = threading.Lock()

    def flaky_reset(self, *arguments):
        if self.chance(0.1):
            raise DriverError("gone")
        if self.chance(0.05):
            raise Interruption
        self.reset(*arguments)

    def flaky_ping(self, connection):
        return not self.chance(0.1) and self.ping(connection)

    def flaky_close(self, *connections):
        self.close(*connections)
        if self.chance(0.02):
            raise Interruption


@pytest.mark.parametrize("seed", range(soaked(20)))
def test_after_random_faults_every_slot_is_free(seed):
    pool, driver, clock = make_pool(
        max_conns=MAX_CONNS, min_conns=1, max_waiting=4, check_after_idle=5
    )
    faults = Unreliable(driver, seed)
    pool._connect, pool._cleaner._reset = driver.connect, driver.reset
    barrier = threading.Barrier(THREADS + 1)
    # Appending to a list needs no lock.
    errors, ended = [], []

    def hold(entry, rng):
        connection = entry.connection
        if not connection.lock.acquire(blocking=False):
            errors.append(f"{connection} has two holders")
            return
        if connection.closed:
            errors.append(f"{connection} was given out closed")
        stats = pool.stats()
        if stats["size"] > MAX_CONNS:
            errors.append(str(stats))
        # A checkin makes a connection idle before it takes the lock to serve waiters.
        deadline = time.monotonic() + 10
        while stats["idle"] and stats["waiting"]:
            stats = pool.stats()
            if time.monotonic() > deadline:
                errors.append(str(stats))
                break
        connection.transaction = rng.choice(["idle"] * 6 + ["open", "busy", "unknown"])
        connection.dirty = rng.random() < 0.3
        connection.alive = rng.random() < 0.9
        connection.lock.release()

    def work(number):
        rng = random.Random(f"{seed} {number}")
        barrier.wait()
        for _ in range(STEPS):
            # So short that many waits end while a connection is handed over.
            timeout = rng.choice([20, 20, 0, 1e-5, 1e-4])
            try:
                entry = pool.checkout(Holder(str(number)), timeout)
            except (PoolError, DriverError, Interruption) as error:
                ended.append(type(error).__name__)
                continue
            hold(entry, rng)
            end_hold = rng.choice(
                [pool.checkin] * 4
                + [pool.reclaim, lambda entry: pool.discard(entry, "test")]
            )
            try:
                end_hold(entry)
            except Interruption:
                ended.append("interrupted checkin")

    def disturb():
        rng = random.Random(f"{seed} disturb")
        verbs = [pool.drain, pool.pause, pool.recycle, pool.resume, pool.maintain]
        barrier.wait()
        for _ in range(STEPS):
            clock.advance(rng.choice([0, 1, 10]))
            try:
                rng.choice(verbs)()
            except Interruption:
                ended.append("interrupted operator")
            pool.holders()
            pool.resume()

    threads = [InThread(work, number) for number in range(THREADS)]
    threads.append(InThread(disturb))
    for thread in threads:
        thread.result(60)
    faults.calm = True
    assert errors == []
    assert driver.most_open <= MAX_CONNS
    stats, done = pool.stats(), Counter(ended)
    assert stats["in_use"] == stats["connecting"] == stats["waiting"] == 0
    assert stats["size"] == stats["idle"]
    assert stats["timeouts"] == done["PoolTimeout"]
    refused = stats["refused_by_reason"]
    assert refused["max_waiting"] == done["TooManyRequests"]
    assert refused["connect"] == done["ConnectFailed"]
    check(pool, driver)
    entries = [pool.checkout(Holder()) for _ in range(MAX_CONNS)]
    for entry in entries:
        pool.checkin(entry)
    check(pool, driver)


@pytest.mark.parametrize("seed", range(soaked(10)))
def test_a_close_under_load_leaves_no_connection_and_no_waiter(seed):
    pool, driver, _ = make_pool(max_conns=2, timeout=20)
    rng = random.Random(seed)
    barrier = threading.Barrier(THREADS + 1)
    steps_before_close = rng.randrange(1, 60)
    enough = threading.Semaphore(0)

    def work():
        barrier.wait()
        while True:
            try:
                entry = pool.checkout(Holder())
            except PoolClosed:
                return
            finally:
                enough.release()
            pool.checkin(entry)

    def close():
        barrier.wait()
        for _ in range(steps_before_close):
            assert enough.acquire(timeout=20)
        pool.close()

    threads = [InThread(close), *(InThread(work) for _ in range(THREADS))]
    for thread in threads:
        thread.result(60)
    assert driver.open == []
    assert pool.stats()["size"] == pool.stats()["waiting"] == 0
    check(pool, driver)
