"""The queue: examples, and random steps compared with a model.

In the random steps callers are threads, and no time passes: a wait ends when the test
ends it. After each step the test waits until the pool has served every caller that the
model serves, and asserts that it served no other.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections import deque

import pytest

from dbpool_mw.core.errors import PoolTimeout, TooManyRequests
from dbpool_mw.core.waiter import Waiter
from tests.core.fakes import DriverError, Holder, InThread, check, make_pool, until
from tests.soak import soaked

ANYBODY = Holder()
MAX_CONNS = 3
STEPS = 60


def test_a_checkout_may_have_a_timeout_of_its_own():
    pool, _, _ = make_pool(max_conns=1, timeout=60)
    pool.checkout(ANYBODY)
    with pytest.raises(PoolTimeout, match=r"within 0.02 s"):
        pool.checkout(ANYBODY, timeout=0.02)


def test_a_caller_beyond_max_waiting_is_refused_at_once():
    pool, _, _ = make_pool(max_conns=1, max_waiting=1, timeout=60)
    entry = pool.checkout(ANYBODY)
    waiting = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    with pytest.raises(TooManyRequests, match=r"MAX_WAITING .1. callers .* held by"):
        pool.checkout(ANYBODY)
    assert pool.stats()["refused"] == 1
    pool.checkin(entry)
    waiting.result()


def test_a_connection_that_is_checked_in_goes_to_the_oldest_waiter():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    entry = pool.checkout(ANYBODY)
    served, threads = [], []

    def call(number):
        entry = pool.checkout(ANYBODY)
        served.append(number)
        pool.checkin(entry)

    for number in range(5):
        threads.append(InThread(call, number))
        until(lambda: pool.stats()["waiting"] == len(threads))
    pool.checkin(entry)
    for thread in threads:
        thread.result()
    assert served == [0, 1, 2, 3, 4]
    assert pool.stats()["waits"] == 5
    check(pool, driver)


def test_a_new_caller_does_not_overtake_a_waiter():
    pool, _, _ = make_pool(max_conns=1, timeout=60)
    entry = pool.checkout(ANYBODY)
    waiting = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    pool.checkin(entry)
    # The waiter has it, even if its thread has not woken up yet.
    with pytest.raises(PoolTimeout):
        pool.checkout(ANYBODY, timeout=0.01)
    assert waiting.result() is entry


def test_a_connection_handed_to_a_waiter_is_not_pinged():
    pool, driver, _ = make_pool(max_conns=1, timeout=20)
    entry = pool.checkout(Holder())
    waiting = InThread(pool.checkout, Holder())
    until(lambda: pool.stats()["waiting"] == 1)
    pool.checkin(entry)
    pool.checkin(waiting.result())
    assert pool.stats()["checks"] == driver.round_trips == 0


def test_a_freed_slot_goes_to_the_oldest_waiter_which_connects_in_it():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    entry = pool.checkout(ANYBODY)
    waiting = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    pool.discard(entry, "test")
    assert waiting.result().connection is driver.connections[1]
    check(pool, driver)


def test_a_waiter_whose_connect_fails_frees_the_slot_for_the_next():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    entry = pool.checkout(ANYBODY)
    threads = []
    for number in range(2):
        threads.append(InThread(pool.checkout, ANYBODY))
        until(lambda number=number: pool.stats()["waiting"] == number + 1)
    driver.connect_error = DriverError("no")
    pool.discard(entry, "test")
    for thread in threads:
        with pytest.raises(DriverError, match="no"):
            thread.result()
    assert pool.stats()["size"] == 0


def test_waking_up_early_does_not_prolong_a_wait():
    pool, _, clock = make_pool(max_conns=1, timeout=10)
    pool.checkout(Holder())
    naps = []

    class EarlyWaiter(Waiter):
        def wait(self, seconds):
            naps.append(seconds)
            clock.advance(4)
            return True

    pool._slots.make_waiter = EarlyWaiter
    with pytest.raises(PoolTimeout):
        pool.checkout(Holder())
    assert naps == [10, 6, 2]


class CallbackWaiter(Waiter):
    """A waiter that calls a function of the test's instead of waiting."""

    def __init__(self, during_wait):
        super().__init__()
        self.during_wait = during_wait

    def wait(self, seconds):
        self.during_wait()
        return False


def test_a_waiter_that_times_out_while_it_is_served_takes_the_connection():
    pool, driver, _ = make_pool(max_conns=1)
    entry = pool.checkout(ANYBODY)
    pool._slots.make_waiter = lambda: CallbackWaiter(lambda: pool.checkin(entry))
    assert pool.checkout(ANYBODY) is entry
    assert pool.stats()["timeouts"] == 0
    check(pool, driver)


@pytest.mark.parametrize("served", [True, False])
def test_an_interrupted_wait_frees_its_slot(served):
    pool, driver, _ = make_pool(max_conns=1)
    entry = pool.checkout(ANYBODY)

    def interrupt():
        if served:
            pool.checkin(entry)
        raise KeyboardInterrupt

    make_waiter, pool._slots.make_waiter = (
        pool._slots.make_waiter,
        lambda: CallbackWaiter(interrupt),
    )
    with pytest.raises(KeyboardInterrupt):
        pool.checkout(ANYBODY)
    pool._slots.make_waiter = make_waiter
    if not served:
        pool.checkin(entry)
    assert pool.stats()["waiting"] == 0
    pool.checkin(pool.checkout(ANYBODY))
    check(pool, driver)


def test_an_interrupted_wait_frees_a_slot_to_connect_in():
    pool, driver, _ = make_pool(max_conns=1)
    entry = pool.checkout(ANYBODY)

    def interrupt():
        pool.discard(entry, "test")
        raise KeyboardInterrupt

    pool._slots.make_waiter = lambda: CallbackWaiter(interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.checkout(ANYBODY)
    check(pool, driver)
    assert pool.stats()["size"] == 0


# --- A model of the queue ------------------------------------------------------------


class Interruption(BaseException):
    """An exception that another thread or a signal raises in a waiting caller."""


class ManualWaiter(Waiter):
    """A waiter that waits until it is served or the test ends its wait."""

    __slots__ = ("ended", "interrupted")

    def __init__(self):
        super().__init__()
        self.ended = threading.Event()
        self.interrupted = False

    def wait(self, seconds):
        assert self.ended.wait(20), "the wait was not ended within 20 s"
        if self.interrupted:
            raise Interruption
        return self.entry is not None

    def hand_over(self, entry):
        super().hand_over(entry)
        self.ended.set()

    def time_out(self):
        self.ended.set()

    def interrupt(self):
        self.interrupted = True
        self.ended.set()


class HoldsAnother(Holder):
    def holds_another(self):
        return True


class Caller:
    """A thread that checks a connection out; ``waiter`` is set if it has to wait."""

    def __init__(self, pool, bypasses_pause):
        self.bypasses_pause = bypasses_pause
        self.waiter = None
        holder = HoldsAnother() if bypasses_pause else Holder()
        self.thread = InThread(pool.checkout, holder)


class Model:
    """A pool, and the order in which it should serve its callers."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.pool, self.driver, _ = make_pool(max_conns=MAX_CONNS)
        self.pool._slots.make_waiter = self.make_waiter
        self.paused = False
        self.queue = deque()
        self.held = []
        self.waiters = deque()

    def make_waiter(self):
        # The pool calls this only for a caller that the model expects to wait.
        self.waiters.append(ManualWaiter())
        return self.waiters[-1]

    def settle(self):
        """Serve callers in the model; assert that the pool served the same ones."""
        while len(self.held) < MAX_CONNS and self.next_caller():
            caller = self.next_caller()
            self.queue.remove(caller)
            self.is_served(caller)
        until(lambda: self.pool.stats()["waiting"] == len(self.queue))
        assert all(caller.thread.is_alive() for caller in self.queue)
        stats = self.pool.stats()
        assert stats["in_use"] == len(self.held)
        check(self.pool, self.driver)

    def next_caller(self):
        for caller in self.queue:
            if caller.bypasses_pause or not self.paused:
                return caller
        return None

    def is_served(self, caller):
        entry = caller.thread.result()
        assert not entry.connection.closed
        assert all(entry.connection is not other.connection for other in self.held)
        self.held.append(entry)

    def call(self):
        bypasses_pause = self.rng.random() < 0.2
        waits = (self.paused and not bypasses_pause) or len(self.held) == MAX_CONNS
        caller = Caller(self.pool, bypasses_pause)
        if waits:
            until(lambda: self.pool.stats()["waiting"] == len(self.queue) + 1)
            caller.waiter = self.waiters.pop()
            self.queue.append(caller)
        else:
            self.is_served(caller)

    def any_held(self):
        return self.held.pop(self.rng.randrange(len(self.held)))

    def checkin(self):
        if self.held:
            self.pool.checkin(self.any_held())

    def dirty_checkin(self):
        if self.held:
            entry = self.any_held()
            entry.connection.dirty = True
            self.pool.checkin(entry)

    def discard(self):
        if self.held:
            self.pool.discard(self.any_held(), "test")

    def time_out(self):
        if self.queue:
            index = self.rng.randrange(len(self.queue))
            caller = self.queue[index]
            del self.queue[index]
            caller.waiter.time_out()
            with pytest.raises(PoolTimeout):
                caller.thread.result()

    def interrupt(self):
        if self.queue:
            index = self.rng.randrange(len(self.queue))
            caller = self.queue[index]
            del self.queue[index]
            caller.waiter.interrupt()
            with pytest.raises(Interruption):
                caller.thread.result()

    def time_out_while_served(self):
        """End the oldest wait at the moment in which a connection is checked in."""
        if self.queue and self.held and not self.paused:
            caller, entry = self.queue.popleft(), self.any_held()
            self.run_together(caller.waiter.time_out, lambda: self.pool.checkin(entry))
            # If it timed out first, the next waiter is served, or none.
            with contextlib.suppress(PoolTimeout):
                self.is_served(caller)

    def interrupt_while_served(self):
        if self.queue and self.held and not self.paused:
            caller, entry = self.queue.popleft(), self.any_held()
            self.run_together(caller.waiter.interrupt, lambda: self.pool.checkin(entry))
            with contextlib.suppress(Interruption):
                self.is_served(caller)

    def run_together(self, *calls):
        barrier = threading.Barrier(len(calls))
        threads = [InThread(lambda c=call: (barrier.wait(), c())) for call in calls]
        for thread in threads:
            thread.result()

    def pause(self):
        self.pool.pause()
        self.paused = True

    def drain_recycle_or_resume(self):
        self.rng.choice([self.pool.drain, self.pool.recycle, self.pool.resume])()
        self.paused = False


@pytest.mark.parametrize("seed", range(soaked(30)))
def test_random_callers_are_served_in_the_order_of_the_model(seed):
    model = Model(seed)
    steps = [
        *[model.call] * 8,
        *[model.checkin] * 3,
        model.dirty_checkin,
        model.discard,
        model.time_out,
        model.interrupt,
        model.time_out_while_served,
        model.interrupt_while_served,
        model.pause,
        model.drain_recycle_or_resume,
        model.drain_recycle_or_resume,
    ]
    for _ in range(STEPS):
        model.rng.choice(steps)()
        model.settle()
    model.pool.resume()
    model.paused = False
    while model.held or model.queue:
        model.checkin()
        model.settle()
    assert model.pool.stats()["idle"] == model.pool.stats()["size"]
    check(model.pool, model.driver)
