"""Callers stepped through the pool's critical points, in an order that a seed chooses.

Callers are greenlets, of which one runs at a time. Each stops before it takes the lock
and after it has let go of it, at every call of the driver, and while it waits; who goes
on is drawn by lot, and after each step all that must hold is looked at. What a failure
names is its seed: it comes again. No time passes but on a clock set by hand.
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
    PoolTimeout,
    TooManyRequests,
)
from dbpool_mw.core.slots import Slots
from dbpool_mw.core.waiter import Waiter
from tests.core.fakes import Holder, check, give_back, make_pool
from tests.soak import soaked

SEEDS_PER_TEST = 200
CALLERS = 5
CALLS = 5


class Interruption(BaseException):
    """What ends a caller wherever it stands still: a time-out of gevent's, a signal."""


class Caller(Holder):
    def __init__(self, name: str, in_the_middle: bool) -> None:
        super().__init__(name)
        self.in_the_middle = in_the_middle

    def holds_another(self) -> bool:
        return self.in_the_middle


class SteppedLock:
    """The pool's lock, which nobody ever finds taken."""

    def __init__(self, schedule: Schedule) -> None:
        self.point = schedule.point
        self.held = False

    def __enter__(self) -> None:
        self.point()
        assert not self.held, "somebody stands still with the lock held"
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


class SteppedWaiter(Waiter):
    """A caller in the queue, which goes on when the schedule lets it."""

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
        self.schedule.is_served(self)
        super().hand_over(entry)


class Schedule:
    """A pool, its callers, and the lot that says who goes on."""

    def __init__(self, seed: int, **config) -> None:
        self.rng = random.Random(seed)
        self.pool, self.driver, self.clock = make_pool(**config)
        self.hub = getcurrent()
        self.asleep: dict[greenlet, SteppedWaiter] = {}
        self.fragile: set[greenlet] = set()
        self.held = []
        self.done: Counter[str] = Counter()
        self.pool._lock = SteppedLock(self)
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
        """Stop where an exception may come from: not on the way from lock to lock."""
        caller = getcurrent()
        if caller is self.hub:
            return
        self.fragile.add(caller)
        interrupted = self.hub.switch()
        self.fragile.remove(caller)
        if interrupted:
            raise Interruption

    def stepped(self, function):
        # The driver's close closes whatever comes, and its connect leaves nothing open.
        closes = function == self.driver.close

        def call(*arguments):
            assert not self.pool._lock.held, "I/O with the lock held"
            (self.point if closes else self.fragile_point)()
            result = function(*arguments)
            (self.fragile_point if closes else self.point)()
            return result

        return call

    def is_served(self, waiter: SteppedWaiter) -> None:
        """See that nobody who came before is in the queue yet, and may be served."""
        paused = self.pool.state == "paused"
        assert waiter.bypasses_pause or not paused
        for other in self.pool._slots.waiters:
            assert waiter.since <= other.since or (paused and not other.bypasses_pause)

    def reserve(self):
        """See that a place isn't taken by one who came just now, if others wait."""
        taker = sys._getframe(1).f_code.co_name
        assert taker != "take" or self.pool._slots.first_waiter() is None
        return Slots.reserve(self.pool._slots)

    # --- What callers do -------------------------------------------------------------

    def call(self, holder: Caller) -> None:
        timeout = self.rng.choice([0.0, 0.5, 3.0, 60.0])
        began = self.clock.now
        try:
            entry = self.pool.checkout(holder, timeout)
        except PoolTimeout:
            assert self.clock.now >= began + timeout - 1e-6
            self.done["timeouts"] += 1
            return
        except (ConnectFailed, PoolClosed, TooManyRequests, Interruption) as error:
            self.done[type(error).__name__] += 1
            return
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
        self.give_back(entry)

    def give_back(self, entry) -> None:
        verb = self.rng.choice(["checkin"] * 4 + ["reclaim", "discard", "reclaim_soon"])
        try:
            give_back(self.pool, entry, verb)
        except Interruption:
            self.done["interrupted"] += 1

    def caller(self, number: int) -> None:
        for _ in range(CALLS):
            self.call(Caller(f"caller {number}", self.rng.random() < 0.2))

    def operator(self, closes: bool) -> None:
        for _ in range(CALLS):
            verbs = ["drain", "pause", "resume", "recycle", "maintain", "maintain"]
            try:
                getattr(self.pool, self.rng.choice(verbs))()
            except Interruption:
                self.done["interrupted"] += 1
        if closes:
            self.pool.close()
        else:
            self.pool.resume()

    # --- Who goes on -----------------------------------------------------------------

    def run(
        self, interrupts: bool = False, outages: bool = False, closes: bool = False
    ) -> None:
        programs = [partial(self.caller, number) for number in range(CALLERS)]
        callers = [*map(greenlet, programs), greenlet(partial(self.operator, closes))]
        # What breaks and what passes is over some time; then all must come to its end.
        trouble = 400
        while callers:
            trouble -= 1
            ready = [each for each in callers if self.may_go_on(each)]
            if trouble > 0 and outages and self.rng.random() < 0.03:
                self.server_turns()
            if trouble > 0 and self.rng.random() < 0.03:
                self.clock.advance(self.rng.choice([0.01, 0.2, 1.0, 40.0]))
            if trouble <= 0:
                self.driver.connect_error = None
            if not ready:
                self.sleep_until_somebody_wakes()
                continue
            chosen = self.rng.choice(ready)
            breaks = interrupts and trouble > 0 and self.rng.random() < 0.05
            chosen.switch(*[breaks] * (chosen in self.fragile))
            if chosen.dead:
                callers.remove(chosen)
            self.look()

    def may_go_on(self, caller: greenlet) -> bool:
        waiter = self.asleep.get(caller)
        return waiter is None or waiter.woken or self.clock.now >= waiter.until

    def sleep_until_somebody_wakes(self) -> None:
        wakes = min(waiter.until for waiter in self.asleep.values())
        assert wakes < math.inf, "everybody waits, and nobody will come"
        pool = self.pool
        if pool._slots.backoff.failures and pool._slots.first_waiter() is not None:
            late = wakes - max(pool._slots.backoff.retry_at, self.clock.now)
            # Later only by the length of a nap whose beginning was held up.
            assert late <= 2.0, "nobody wakes when it is time to connect again"
        self.clock.now = max(self.clock.now, wakes)

    def server_turns(self) -> None:
        down = ConnectFailed("default", "no", "down")
        up_again = self.driver.connect_error is not None
        self.driver.connect_error = None if up_again else down
        for connection in self.driver.open:
            if all(connection is not entry.connection for entry in self.held):
                connection.alive = connection.alive and self.rng.random() < 0.8

    # --- What must hold --------------------------------------------------------------

    def look(self) -> None:
        """See what must hold wherever callers stand still."""
        # Not by its reports, which take more time than all else.
        pool = self.pool
        size, full = len(pool._slots.entries), pool.config.max_conns
        assert size <= full
        assert sum(not each.closed for each in self.driver.connections) <= size
        assert not (pool._slots.idle and pool._slots.waiters)
        # Nobody is forgotten: who waits does so for a reason.
        paused = pool.state == "paused"
        waiting = any(
            waiter.bypasses_pause or not paused for waiter in pool._slots.waiters
        )
        if waiting and pool.state != "closed":
            assert size == full or pool._slots.backoff.failures

    def finish(self) -> None:
        """See that every place is there and that the counters add up."""
        stats = self.pool.stats()
        assert stats["in_use"] == stats["connecting"] == stats["waiting"] == 0
        assert stats["checkouts"] == self.done["checkouts"]
        assert stats["timeouts"] == self.done["timeouts"]
        assert stats["refused"] == self.done["TooManyRequests"]
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
def test_nothing_is_shared_lost_or_forgotten_in_whatever_order(
    monkeypatch, kind, max_conns
):
    for seed in range(soaked(SEEDS_PER_TEST)):
        rng = random.Random(f"{kind} {max_conns} {seed}")
        # The lengths of its pauses and lives are drawn by lot too.
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
            schedule.finish()
        except BaseException as error:
            # No note before Python 3.11.
            print(f"seed {seed}: {error!r}")
            raise
