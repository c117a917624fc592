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

from dbpool_mw.core.errors import PoolTimeout
from dbpool_mw.core.waiter import Waiter
from tests.core.fakes import Holder, InThread, check, make_pool, until
from tests.soak import soaked

MAX_CONNS = 3
STEPS = 60


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
