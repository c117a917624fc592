"""Many threads and many seeds on one pool; every checkout is checked."""

from __future__ import annotations

import os
import random
import threading
import warnings

import pytest

from dbpool_mw.core.errors import PoolError
from tests.core.fakes import DriverError, Holder, InThread, check, make_pool, until

THREADS = 8
STEPS = 60


class Holders:
    """The connections that are held, and those that ever had two holders."""

    def __init__(self):
        self.lock = threading.Lock()
        self.held = set()
        self.shared = []

    def add(self, connection):
        with self.lock:
            if connection in self.held:
                self.shared.append(connection)
            self.held.add(connection)

    def remove(self, connection):
        with self.lock:
            self.held.discard(connection)


@pytest.mark.parametrize("seed", range(25))
def test_threads_share_no_connection_and_lose_no_slot(seed):
    pool, driver, _ = make_pool(max_conns=3, min_conns=1, timeout=20)
    holders = Holders()
    barrier = threading.Barrier(THREADS + 1)
    failures = []

    def work(number):
        rng = random.Random(f"{seed} {number}")
        barrier.wait()
        for _ in range(STEPS):
            try:
                # With a timeout of 0, many get none.
                entry = pool.checkout(Holder(str(number)), rng.choice([20, 20, 20, 0]))
            except (PoolError, DriverError):
                continue
            connection = entry.connection
            holders.add(connection)
            if connection.closed:
                failures.append(f"{connection} was given out closed")
            if pool.stats()["size"] > 3:
                failures.append("above MAX_CONNS")
            fate = rng.random()
            if fate < 0.1:
                connection.transaction = "open"
            elif fate < 0.2:
                connection.dirty = True
            elif fate < 0.3:
                connection.transaction = "unknown"
            elif fate < 0.4:
                connection.alive = False
            holders.remove(connection)
            if fate > 0.9:
                pool.discard(entry, "test")
            else:
                pool.checkin(entry)

    def disturb():
        rng = random.Random(f"{seed} disturb")
        barrier.wait()
        for _ in range(STEPS):
            rng.choice(
                [pool.drain, pool.resume, pool.recycle, pool.maintain, pool.maintain]
            )()
            if rng.random() < 0.2:
                pool.pause()
                pool.resume()
            if rng.random() < 0.1:
                driver.connect_error = DriverError("down")
                pool.maintain()
                driver.connect_error = None
        pool.resume()

    threads = [InThread(work, number) for number in range(THREADS)]
    threads.append(InThread(disturb))
    for thread in threads:
        thread.result(60)
    assert failures == []
    assert holders.shared == []
    assert driver.most_open <= 3
    stats = pool.stats()
    assert stats["in_use"] == stats["connecting"] == stats["waiting"] == 0
    check(pool, driver)
    # Every slot is free.
    pool.resume()
    entries = [pool.checkout(Holder(), 5) for _ in range(3)]
    for entry in entries:
        pool.checkin(entry)
    check(pool, driver)


def test_a_forked_child_reclaims_nothing_that_its_parent_holds():
    pool, driver, _ = make_pool()
    entry = pool.checkout(Holder())
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside other threads; other tests may have some.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            # As the finaliser of a binding in one of the parent's other threads does.
            pool.reclaim_soon(entry)
            pool._call_deferred()
            until(lambda: not pool._deferred)
            unchanged = not entry.connection.closed and entry.state == "in use"
            status = 0 if unchanged and pool.stats()["reclaimed"] == 0 else 2
        finally:
            os._exit(status)
    _, code = os.waitpid(child, 0)
    assert code == 0
    pool.reclaim_soon(entry)
    until(lambda: pool.stats()["reclaimed"] == 1)
    check(pool, driver)


def test_whoever_asks_how_long_a_pool_is_unused_waits_for_no_lock():
    """The registry asks, with its own lock, which a finaliser may wait for."""
    pool, driver, clock = make_pool()
    entry = pool.checkout(Holder())
    with pool._lock:
        assert InThread(pool.unused_seconds).result() == 0
    pool.checkin(entry)
    clock.advance(5)
    with pool._lock:
        assert InThread(pool.unused_seconds).result() == 5
    check(pool, driver)
