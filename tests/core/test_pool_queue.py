"""The queue beside a model of it: who is served, in which order, after every step.

Callers are threads, and no time passes: a wait ends when the test ends it. After each
step the test waits until everybody whom the model serves has been served, and sees that
nobody else was.
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

    def take(number):
        mine = pool.checkout(ANYBODY)
        served.append(number)
        pool.checkin(mine)

    for number in range(5):
        threads.append(InThread(take, number))
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
    # Handed over already, whether the waiter woke up or not.
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

    class Restless(Waiter):
        def wait(self, seconds):
            naps.append(seconds)
            clock.advance(4)
            return True

    pool._slots.make_waiter = Restless
    with pytest.raises(PoolTimeout):
        pool.checkout(Holder())
    assert naps == [10, 6, 2]


class ScriptedWaiter:
    """A waiter whose wait ends as the test says, in the middle of the pool's code."""

    def __init__(self, during_wait):
        self.entry = self.error = None
        self.during_wait = during_wait

    def wait(self, seconds):
        self.during_wait()
        return False

    def hand_over(self, entry):
        self.entry = entry

    def fail(self, error):
        self.error = error


def test_a_waiter_that_times_out_while_it_is_served_takes_the_connection():
    pool, driver, _ = make_pool(max_conns=1)
    entry = pool.checkout(ANYBODY)
    pool._slots.make_waiter = lambda: ScriptedWaiter(lambda: pool.checkin(entry))
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
        lambda: ScriptedWaiter(interrupt),
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

    pool._slots.make_waiter = lambda: ScriptedWaiter(interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.checkout(ANYBODY)
    check(pool, driver)
    assert pool.stats()["size"] == 0


# --- A model of the queue ------------------------------------------------------------


class Interruption(BaseException):
    """What ends a wait from outside."""


class ScriptedWait(Waiter):
    """A waiter whose time is up when the test says so."""

    __slots__ = ("ended", "interrupted")

    def __init__(self):
        super().__init__()
        self.ended = threading.Event()
        self.interrupted = False

    def wait(self, seconds):
        assert self.ended.wait(20), "nobody ended the wait"
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


class InTheMiddle(Holder):
    def holds_another(self):
        return True


class Caller:
    def __init__(self, pool, passes):
        self.bypasses_pause = passes
        self.waiter = None
        self.thread = InThread(pool.checkout, InTheMiddle() if passes else Holder())


class Model:
    """A pool, and what it ought to do."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.pool, self.driver, _ = make_pool(max_conns=MAX_CONNS)
        self.pool._slots.make_waiter = self.make_waiter
        self.paused = False
        self.queue = deque()
        self.held = []
        self.waiters = deque()

    def make_waiter(self):
        # Under the lock, by a caller that the model expects to wait.
        self.waiters.append(ScriptedWait())
        return self.waiters[-1]

    def settle(self):
        """Serve whom the model serves, the oldest first; see that nobody else was."""
        while len(self.held) < MAX_CONNS and self.who_is_next():
            caller = self.who_is_next()
            self.queue.remove(caller)
            self.picked_up(caller)
        until(lambda: self.pool.stats()["waiting"] == len(self.queue))
        assert all(caller.thread.is_alive() for caller in self.queue)
        stats = self.pool.stats()
        assert stats["in_use"] == len(self.held)
        check(self.pool, self.driver)

    def who_is_next(self):
        may_be = (each for each in self.queue if each.bypasses_pause or not self.paused)
        return next(may_be, None)

    def picked_up(self, caller):
        entry = caller.thread.result()
        assert not entry.connection.closed
        assert all(entry.connection is not other.connection for other in self.held)
        self.held.append(entry)

    def call(self):
        passes = self.rng.random() < 0.2
        waits = (self.paused and not passes) or len(self.held) == MAX_CONNS
        caller = Caller(self.pool, passes)
        if waits:
            until(lambda: self.pool.stats()["waiting"] == len(self.queue) + 1)
            caller.waiter = self.waiters.pop()
            self.queue.append(caller)
        else:
            self.picked_up(caller)

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
        """End the oldest wait at the very moment in which a connection comes back."""
        if self.queue and self.held and not self.paused:
            caller, entry = self.queue.popleft(), self.any_held()
            self.at_once(caller.waiter.time_out, lambda: self.pool.checkin(entry))
            # If it comes too late, the next one is served, or it stays idle.
            with contextlib.suppress(PoolTimeout):
                self.picked_up(caller)

    def interrupt_while_served(self):
        if self.queue and self.held and not self.paused:
            caller, entry = self.queue.popleft(), self.any_held()
            self.at_once(caller.waiter.interrupt, lambda: self.pool.checkin(entry))
            with contextlib.suppress(Interruption):
                self.picked_up(caller)

    def at_once(self, *calls):
        barrier = threading.Barrier(len(calls))
        threads = [InThread(lambda c=call: (barrier.wait(), c())) for call in calls]
        for thread in threads:
            thread.result()

    def pause(self):
        self.pool.pause()
        self.paused = True

    def turn(self):
        self.rng.choice([self.pool.drain, self.pool.recycle, self.pool.resume])()
        self.paused = False


@pytest.mark.parametrize("seed", range(soaked(30)))
def test_waiters_are_served_in_their_order_and_nobody_else_is(seed):
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
        model.turn,
        model.turn,
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
