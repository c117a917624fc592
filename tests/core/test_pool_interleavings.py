"""Two calls at once: one call runs as a whole before some line of another.

Each case is repeated for every line of ``core/`` that the first call runs without the
lock, which is wherever another thread may come between. There are no threads, so every
failure can be reproduced.
"""

from __future__ import annotations

import contextlib
from collections import deque
from pathlib import Path

import pytest

import dbpool_mw.core
from dbpool_mw.core.errors import PoolClosed, PoolError, PoolTimeout
from dbpool_mw.core.waiter import Waiter
from tests.core.fakes import Holder, check, make_pool, traced

CORE = str(Path(dbpool_mw.core.__file__).parent)


class World:
    """A pool, the entries that are held, and a list of the errors found."""

    def __init__(self, **config):
        config = {"max_conns": 2, "timeout": 0, "max_idle": 600, **config}
        self.pool, self.driver, self.clock = make_pool(**config)
        self.held = []
        self.holders = []
        self.errors = []

    def check_out(self):
        holder = Holder()
        self.holders.append(holder)
        try:
            entry = self.pool.checkout(holder)
        except (PoolTimeout, PoolClosed):
            return
        except PoolError:
            # Another call came between, and cancelled this one.
            assert holder.cancelled
            return
        connection = entry.connection
        if connection.closed:
            self.errors.append(f"{connection} was given out closed")
        if any(other.connection is connection for other in self.held):
            self.errors.append(f"{connection} has two holders")
        self.held.append(entry)

    def check_in(self, number=0):
        if self.held:
            self.pool.checkin(self.held.pop(number))

    def cancel(self):
        for holder in self.holders:
            holder.cancelled = True
        self.pool.cancel_waits()

    def discard(self):
        if self.held:
            self.pool.discard(self.held.pop(0), "test")

    def check_reports(self):
        """Record an error if the pool's reports contradict each other."""
        stats = self.pool.stats()
        parts = stats["idle"] + stats["in_use"] + stats["connecting"]
        if stats["size"] != parts or stats["size"] > stats["max"]:
            self.errors.append(f"sizes: {stats}")
        if stats["idle"] and stats["waiting"]:
            self.errors.append("a caller waits though a connection is idle")
        # A connection may be open before its slot counts as more than connecting.
        if stats["size"] < len(self.driver.open) - stats["connecting"]:
            self.errors.append("more connections are open than slots are taken")
        if stats["checkouts"] < stats["hold_seconds"]["count"]:
            self.errors.append("more checkouts ended than began")
        for holder in self.pool.holders():
            if not 0 <= holder["seconds"] <= self.clock.now - 1000:
                self.errors.append(f"a hold older than the test: {holder}")

    def check_slots(self):
        """Check everything in, and assert that there are MAX_CONNS slots to be had."""
        while self.held:
            self.check_in()
        self.pool.resume()
        stats = self.pool.stats()
        assert stats["in_use"] == stats["connecting"] == stats["waiting"] == 0
        check(self.pool, self.driver)
        if self.pool.state == "closed":
            assert self.driver.open == []
            return
        for _ in range(stats["max"]):
            self.check_out()
        assert len(self.held) == stats["max"]
        check(self.pool, self.driver)
        assert self.errors == []


# The first calls: each function prepares a world and returns the call to interrupt.


def finds_one_idle():
    world = World()
    world.check_out()
    world.check_out()
    world.check_in()
    return world, world.check_out


def finds_none_idle():
    world = World()
    world.check_out()
    return world, world.check_out


def finds_a_dead_one():
    world = World()
    world.check_out()
    world.check_out()
    world.held[0].connection.alive = False
    world.check_in()
    return world, world.check_out


def finds_only_dead_ones():
    world = World()
    world.check_out()
    world.check_out()
    for entry in world.held:
        entry.connection.alive = False
    world.check_in()
    world.check_in()
    return world, world.check_out


def finds_one_to_ping():
    world = World()
    world.check_out()
    world.check_in()
    world.clock.advance(60)
    return world, world.check_out


def finds_all_in_use():
    world = World(max_conns=1)
    world.check_out()
    return world, world.check_out


def finds_the_pool_paused():
    world = World()
    world.check_out()
    world.pool.pause()
    return world, world.check_out


def comes_back_clean():
    world = World(max_conns=2)
    world.check_out()
    world.check_out()
    return world, lambda: world.check_in(1)


def comes_back_dirty():
    world = World(max_conns=2)
    world.check_out()
    world.check_out()
    world.held[1].connection.dirty = True
    world.held[1].connection.transaction = "open"
    return world, lambda: world.check_in(1)


def comes_back_expired():
    world = World(max_lifetime=100)
    world.check_out()
    world.clock.advance(200)
    world.check_out()
    world.held.reverse()
    return world, lambda: world.check_in(1)


def is_discarded():
    world = World()
    world.check_out()
    world.check_out()
    return world, world.discard


def is_maintained():
    world = World(min_conns=1, max_conns=3, max_lifetime=1000)
    for _ in range(3):
        world.check_out()
    world.held[0].connection.alive = False
    world.check_in()
    world.check_in()
    world.clock.advance(700)
    return world, world.pool.maintain


def is_refilled():
    world = World(min_conns=2)
    return world, world.pool.maintain


def changes_state(name):
    def prepare():
        world = World(max_conns=3)
        for _ in range(3):
            world.check_out()
        world.check_in()
        world.check_in()
        return world, getattr(world.pool, name)

    prepare.__name__ = f"{name}s"
    return prepare


# The second calls.

OTHERS = {
    "stats": World.check_reports,
    "checkout": World.check_out,
    "checkin": World.check_in,
    "discard": World.discard,
    "cancel": World.cancel,
    "checkin, checkout": lambda world: (world.check_in(), world.check_out()),
    "checkout, checkin": lambda world: (world.check_out(), world.check_in(-1)),
    "maintain": lambda world: world.pool.maintain(),
    "drain": lambda world: world.pool.drain(),
    "pause": lambda world: world.pool.pause(),
    "recycle": lambda world: world.pool.recycle(),
    "resume": lambda world: world.pool.resume(),
    "close": lambda world: world.pool.close(),
}


def run_within(world, call, other, number):
    """Make a call, and another before its line ``number``; return if it has so many."""
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        if not frame.f_code.co_filename.startswith(CORE):
            return None
        if event == "line" and not world.pool._lock._is_owned():
            lines += 1
            try:
                if lines == number:
                    other(world)
                if lines >= number:
                    world.check_reports()
            except BaseException as error:
                # Raised here, it would come out of the first call.
                world.errors.append(repr(error))
        return trace

    traced(call, trace)
    return lines >= number


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    "prepare",
    [
        finds_one_idle,
        finds_none_idle,
        finds_a_dead_one,
        finds_only_dead_ones,
        finds_one_to_ping,
        finds_all_in_use,
        finds_the_pool_paused,
        comes_back_clean,
        comes_back_dirty,
        comes_back_expired,
        is_discarded,
        is_maintained,
        is_refilled,
        *map(changes_state, ["drain", "pause", "recycle", "resume", "close"]),
    ],
)
def test_a_call_between_any_two_lines_shares_and_loses_nothing(prepare, name):
    for number in range(1, 1000):
        world, call = prepare()
        reached = run_within(world, call, OTHERS[name], number)
        assert world.errors == [], f"at line {number}"
        world.check_slots()
        if not reached:
            break
    assert 1 < number < 999


# The parts with the lock held: checkouts and checkins that need no lock come there too.


def within_a_locked_part(pool, call, other, number):
    """Make a call, and another before its line ``number`` with the lock held.

    Returns if it has so many.
    """
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        if not frame.f_code.co_filename.startswith(CORE):
            return None
        if event == "line" and pool._lock._is_owned():
            lines += 1
            if lines == number:
                other()
        return trace

    traced(call, trace)
    return lines >= number


class Queue:
    """Puts off what calls leave to another thread until the lock is free."""

    def __init__(self, pool, clock):
        self.pool, self.clock = pool, clock
        self.calls = pool._deferred = deque()
        self.waits = 0
        pool._defer = self.calls.append
        pool._slots.make_waiter = lambda: QueuedWaiter(self)

    def run(self):
        while self.calls:
            self.calls.popleft()()


class QueuedWaiter(Waiter):
    __slots__ = ("queue",)

    def __init__(self, queue):
        super().__init__()
        self.queue = queue

    def wait(self, seconds):
        self.queue.waits += 1
        self.queue.run()
        assert self.is_served() or not self.queue.pool._slots.idle
        self.queue.clock.advance(seconds)
        return self.is_served()


def test_who_queues_up_sees_what_comes_back_meanwhile():
    for number in range(1, 1000):
        pool, driver, clock = make_pool(max_conns=1, timeout=5, max_idle=600)
        queue = Queue(pool, clock)
        held = [pool.checkout(Holder("first"))]

        def check_in(pool=pool, held=held, queue=queue):
            pool.checkin(held.pop())
            if queue.waits:
                held.append(None)  # it may have come too late

        def check_out(pool=pool, held=held):
            with contextlib.suppress(PoolTimeout):
                held.append(pool.checkout(Holder("second")))

        reached = within_a_locked_part(pool, check_out, check_in, number)
        if not reached:
            break
        assert held, f"a wait in vain, at line {number}"
        queue.run()
        if held[-1] is not None:
            pool.checkin(held.pop())
        check(pool, driver)
    assert 5 < number < 999


@pytest.mark.parametrize("name", ["maintain", "drain", "pause", "recycle", "close"])
@pytest.mark.parametrize("other", ["checkin", "checkout", "checkout, checkin"])
def test_a_call_without_the_lock_shares_and_loses_nothing(name, other):
    for number in range(1, 1000):
        world = World(max_conns=3, min_conns=1, max_lifetime=1000)
        queue = Queue(world.pool, world.clock)
        for _ in range(3):
            world.check_out()
        world.check_in()
        world.check_in()
        world.clock.advance(700)

        def call(world=world):
            if "checkout" in other:
                # As a finaliser it gets no connection for which it needs the lock.
                with contextlib.suppress(PoolError):
                    world.held.append(world.pool.checkout(Holder()))
            if "checkin" in other:
                world.check_in(-1)

        reached = within_a_locked_part(
            world.pool, getattr(world.pool, name), call, number
        )
        queue.run()
        assert all(
            entry.generation == world.pool._slots.keeps
            for entry in world.pool._slots.idle
        )
        world.check_slots()
        if not reached:
            break
    assert 5 < number < 999
