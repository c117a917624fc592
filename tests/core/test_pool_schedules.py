"""Callers stepped through the pool's critical points, in an order that a seed chooses.

Callers are greenlets, of which one runs at a time. Each stops before it takes the lock,
after it released it, around what it does to the idle ones without the lock, at every
call of the driver, and while it waits. A random choice
says which one runs next, and the invariants are checked after each step. A failure
prints its seed, which reproduces it. Time passes only on a manual clock.
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from functools import partial
from types import TracebackType

import pytest
from greenlet import getcurrent, greenlet

from dbpool_mw.core import pool as pool_module
from dbpool_mw.core.errors import (
    ConnectFailed,
    PoolClosed,
    PoolError,
    PoolTimeout,
    TooManyRequests,
)
from dbpool_mw.core.slots import Slots
from dbpool_mw.core.waiter import Waiter
from tests.core.fakes import Holder, check, end_hold, make_pool
from tests.soak import soaked

SEEDS_PER_TEST = 200
CALLERS = 5
CALLS = 5


class Interruption(BaseException):
    """An exception raised in a caller where it stops, as by gevent or a signal."""


class Caller(Holder):
    def __init__(self, name: str, holds_another: bool) -> None:
        super().__init__(name)
        self._holds_another = holds_another

    def holds_another(self) -> bool:
        return self._holds_another


class SteppedLock:
    """The pool's lock. No caller stops with it held, so none ever waits for it."""

    def __init__(self, schedule: Schedule) -> None:
        self.point = schedule.point
        self.held = False

    def _is_owned(self) -> bool:
        return False

    def __enter__(self) -> None:
        self.point()
        assert not self.held, "a caller stopped with the lock held"
        self.held = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.held = False
        if kind is None:
            self.point()


class SteppedIdle(list):
    """The idle entries, which checkouts and checkins change without the lock."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def pop(self):
        if self.schedule.pool._lock.held:
            return super().pop()
        self.schedule.point()
        entry = super().pop()
        self.schedule.point()
        return entry

    def append(self, entry) -> None:
        if self.schedule.pool._lock.held:
            super().append(entry)
            return
        self.schedule.point()
        super().append(entry)
        self.schedule.point()

    def remove(self, entry) -> None:
        assert self.schedule.pool._lock.held
        super().remove(entry)


class SteppedWaiter(Waiter):
    """A waiter whose ``wait()`` ends when the schedule chooses its caller."""

    __slots__ = ("schedule", "until", "woken")

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.woken = False
        self.until = math.inf

    def wait(self, seconds: float) -> bool:
        self.until = self.schedule.clock.now + seconds
        self.schedule.asleep[getcurrent()] = self
        try:
            self.schedule.fragile_point()
        finally:
            del self.schedule.asleep[getcurrent()]
        woken, self.woken = self.woken, False
        return woken

    def wake(self) -> None:
        self.woken = True

    def hand_over(self, entry) -> None:
        self.schedule.check_order(self)
        super().hand_over(entry)


class Schedule:
    """A pool, its callers, and the random choice of the one that runs next."""

    def __init__(self, seed: int, **config) -> None:
        self.rng = random.Random(seed)
        self.pool, self.driver, self.clock = make_pool(**config)
        self.hub = getcurrent()
        self.asleep: dict[greenlet, SteppedWaiter] = {}
        self.fragile: set[greenlet] = set()
        self.held = []
        self.calling: list[Caller] = []
        #: How many callers put a connection back without the lock just now.
        self.returning = 0
        self.done: Counter[str] = Counter()
        self.pool._lock = SteppedLock(self)
        # What these greenlets execute can't be told from their thread's frames.
        self.pool._orphans.find = lambda *arguments: []
        self.idle = self.pool._idle = self.pool._slots.idle = SteppedIdle(self)
        self.pool.checkin = self.without_the_lock(self.pool.checkin, 1)
        self.pool._check_in = self.without_the_lock(self.pool._check_in, -1)
        self.pool._slots.make_waiter = lambda: SteppedWaiter(self)
        self.pool._slots.reserve = self.reserve
        self.pool._connect = self.stepped(self.driver.connect)
        self.pool._cleaner._reset = self.stepped(self.driver.reset)
        for name in ("ping", "roll_back", "close"):
            setattr(self.driver, name, self.stepped(getattr(self.driver, name)))

    # --- Where callers stop ----------------------------------------------------------

    def point(self) -> None:
        if getcurrent() is not self.hub:
            self.hub.switch()

    def fragile_point(self) -> None:
        """Stop where an interruption may be raised, unlike at ``point``."""
        caller = getcurrent()
        if caller is self.hub:
            return
        self.fragile.add(caller)
        interrupted = self.hub.switch()
        self.fragile.remove(caller)
        if interrupted:
            raise Interruption

    def without_the_lock(self, function, change):
        """Count who runs ``function`` as returning (1), or as not (-1)."""

        def call(*arguments):
            self.returning += change
            try:
                function(*arguments)
            finally:
                self.returning -= change

        return call

    def stepped(self, function):
        # Interruptions come after a close and before any other call, so that none
        # leaves a connection open that the pool does not know.
        closes = function == self.driver.close

        def call(*arguments):
            assert not self.pool._lock.held, "I/O with the lock held"
            (self.point if closes else self.fragile_point)()
            result = function(*arguments)
            (self.fragile_point if closes else self.point)()
            return result

        return call

    def check_order(self, waiter: SteppedWaiter) -> None:
        """Assert that no waiter that came earlier could be served instead."""
        paused = self.pool.state == "paused"
        assert waiter.bypasses_pause or not paused
        for other in self.pool._slots.waiters:
            assert waiter.since <= other.since or (paused and not other.bypasses_pause)

    def reserve(self, holder=None):
        """Assert that a new caller takes no slot while another one waits for it."""
        caller = sys._getframe(1).f_code.co_name
        assert caller != "take" or self.pool._slots.first_waiter() is None
        return Slots.reserve(self.pool._slots, holder)

    # --- What callers do -------------------------------------------------------------

    def call(self, holder: Caller) -> None:
        timeout = self.rng.choice([0.0, 0.5, 3.0, 60.0])
        began = self.clock.now
        self.calling.append(holder)
        state = self.state()
        try:
            entry = self.pool.checkout(holder, timeout)
        except PoolTimeout:
            assert self.clock.now >= began + timeout - 1e-6
            self.done["timeouts"] += 1
            return
        except (ConnectFailed, PoolClosed, TooManyRequests, Interruption) as error:
            self.done[type(error).__name__] += 1
            return
        except PoolError:
            assert holder.cancelled
            self.done["cancelled"] += 1
            return
        finally:
            self.calling.remove(holder)
        if state[0] == "paused" and not holder.holds_another():
            assert self.state() != state, "served in a pause"
        self.done["checkouts"] += 1
        connection = entry.connection
        assert not connection.closed
        assert connection.transaction == "idle"
        assert not connection.dirty
        assert all(connection is not other.connection for other in self.held)
        self.held.append(entry)
        for _ in range(self.rng.randrange(3)):
            self.point()
        connection.transaction = self.rng.choice(["idle"] * 5 + ["open", "busy"])
        connection.dirty = self.rng.random() < 0.3
        self.held.remove(entry)
        self.end_hold(entry)

    def state(self) -> tuple[str, int]:
        return self.pool.state, self.pool._slots.generation

    def cancel(self) -> None:
        """Cancel one of the callers that are in a checkout, as its client hangs up."""
        if self.calling:
            self.rng.choice(self.calling).cancelled = True
            self.pool.cancel_waits()
            for waiter in self.pool._slots.waiters:
                assert not waiter.holder.cancelled

    def end_hold(self, entry) -> None:
        verb = self.rng.choice(["checkin"] * 4 + ["reclaim", "discard", "reclaim_soon"])
        try:
            end_hold(self.pool, entry, verb)
        except Interruption:
            self.done["interrupted"] += 1

    def caller(self, number: int) -> None:
        for _ in range(CALLS):
            self.call(Caller(f"caller {number}", self.rng.random() < 0.2))

    def operator(self, closes: bool) -> None:
        for _ in range(CALLS):
            verbs = ["drain", "pause", "resume", "recycle", "maintain", "maintain"]
            self.cancel()
            self.order(self.rng.choice(verbs))
        self.order("close" if closes else "resume")

    def order(self, verb: str) -> None:
        try:
            getattr(self.pool, verb)()
        except Interruption:
            self.done["interrupted"] += 1

    # --- Which caller runs next ------------------------------------------------------

    def run(
        self, interrupts: bool = False, outages: bool = False, closes: bool = False
    ) -> None:
        programs = [partial(self.caller, number) for number in range(CALLERS)]
        callers = [*map(greenlet, programs), greenlet(partial(self.operator, closes))]
        # Outages, interruptions and leaps of time end after so many steps: from then
        # on every caller has to reach its end.
        trouble = 400
        while callers:
            trouble -= 1
            ready = [caller for caller in callers if self.can_run(caller)]
            if trouble > 0 and outages and self.rng.random() < 0.03:
                self.toggle_outage()
            if trouble > 0 and self.rng.random() < 0.03:
                self.clock.advance(self.rng.choice([0.01, 0.2, 1.0, 40.0]))
            if trouble <= 0:
                self.driver.connect_error = None
            if not ready:
                self.advance_to_the_next_timeout()
                continue
            chosen = self.rng.choice(ready)
            breaks = interrupts and trouble > 0 and self.rng.random() < 0.05
            chosen.switch(*[breaks] * (chosen in self.fragile))
            if chosen.dead:
                callers.remove(chosen)
            self.check_step()

    def can_run(self, caller: greenlet) -> bool:
        waiter = self.asleep.get(caller)
        return waiter is None or waiter.woken or self.clock.now >= waiter.until

    def advance_to_the_next_timeout(self) -> None:
        wakes = min(waiter.until for waiter in self.asleep.values())
        assert wakes < math.inf, "every caller waits without end"
        pool = self.pool
        if pool._slots.backoff.failures and pool._slots.first_waiter() is not None:
            late = wakes - max(pool._slots.backoff.retry_at, self.clock.now)
            # A nap may end late, by its own length, if its beginning was delayed.
            assert late <= 2.0, "no waiter wakes when the next attempt is due"
        self.clock.now = max(self.clock.now, wakes)

    def toggle_outage(self) -> None:
        down = ConnectFailed("default", "no", "down")
        up_again = self.driver.connect_error is not None
        self.driver.connect_error = None if up_again else down
        for connection in self.driver.open:
            if all(connection is not entry.connection for entry in self.held):
                connection.alive = connection.alive and self.rng.random() < 0.8

    # --- Invariants ------------------------------------------------------------------

    def check_step(self) -> None:
        """Assert what holds wherever the callers have stopped."""
        # Reads attributes, because reports would take most of the test's time.
        pool = self.pool
        size, full = len(pool._slots.entries), pool.config.max_conns
        assert size <= full
        assert sum(not c.closed for c in self.driver.connections) <= size
        assert not (self.idle and pool._slots.waiters) or self.returning
        # Callers wait only while all slots are taken or connecting is put off.
        paused = pool.state == "paused"
        waiting = any(
            waiter.bypasses_pause or not paused for waiter in pool._slots.waiters
        )
        if waiting and pool.state != "closed":
            assert size == full or pool._slots.backoff.failures

    def check_end(self) -> None:
        """Assert that every slot is free and that the counters add up."""
        stats = self.pool.stats()
        assert stats["in_use"] == stats["connecting"] == stats["waiting"] == 0
        assert stats["checkouts"] == self.done["checkouts"]
        assert stats["timeouts"] == self.done["timeouts"]
        assert stats["cancelled"] == self.done["cancelled"]
        assert stats["refused_by_reason"] == {
            "timeout": self.done["timeouts"],
            "max_waiting": self.done["TooManyRequests"],
            "closed": self.done["PoolClosed"],
            "connect": self.done["ConnectFailed"],
        }
        assert stats["hold_seconds"]["count"] == self.done["checkouts"]
        check(self.pool, self.driver)
        if self.pool.state == "closed":
            assert self.driver.open == []
            return
        self.driver.connect_error = None
        self.clock.advance(60)
        entries = [self.pool.checkout(Holder()) for _ in range(stats["max"])]
        for entry in entries:
            self.pool.checkin(entry)
        check(self.pool, self.driver)


@pytest.fixture(autouse=True)
def _quiet():
    pool_module.logger.disabled = True
    yield
    pool_module.logger.disabled = False


KINDS = {
    "calls": {},
    "interrupted": {"interrupts": True},
    "outages": {"outages": True},
    "closed": {"closes": True, "outages": True},
    "all": {"interrupts": True, "outages": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_conns", [1, 2, 3])
def test_the_invariants_hold_after_each_step_of_every_schedule(
    monkeypatch, kind, max_conns
):
    for seed in range(soaked(SEEDS_PER_TEST)):
        rng = random.Random(f"{kind} {max_conns} {seed}")
        # The jitter of delays and lifetimes depends on the seed too.
        monkeypatch.setattr(random, "random", rng.random)
        schedule = Schedule(
            rng.random(),
            max_conns=max_conns,
            min_conns=rng.choice([0, 1]),
            max_waiting=rng.choice([0, 0, 2]),
            check_after_idle=rng.choice([0.0, 10.0]),
            max_idle=30.0,
            max_lifetime=100.0,
        )
        try:
            schedule.run(**KINDS[kind])
            schedule.check_end()
        except BaseException as error:
            # Python 3.10 has no BaseException.add_note().
            print(f"seed {seed}: {error!r}")
            raise
