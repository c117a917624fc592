"""Two calls at once, tried out at every line: one runs whole within the other.

While a call of the pool is under way, another one is made between each two lines of
``core/`` outside the lock, once per line: every place where a thread may be overtaken
by another. No threads, so each failure comes again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import dbpool_mw.core
from dbpool_mw.core.errors import PoolClosed, PoolTimeout
from tests.core.fakes import Holder, check, make_pool

CORE = str(Path(dbpool_mw.core.__file__).parent)


class World:
    """A pool, who holds what, and all that was seen to be wrong."""

    def __init__(self, **config):
        config = {"max_conns": 2, "timeout": 0, "max_idle": 600, **config}
        self.pool, self.driver, self.clock = make_pool(**config)
        self.held = []
        self.wrong = []

    def take(self):
        try:
            entry = self.pool.checkout(Holder())
        except (PoolTimeout, PoolClosed):
            return
        connection = entry.connection
        if connection.closed:
            self.wrong.append(f"{connection} was given out closed")
        if any(other.connection is connection for other in self.held):
            self.wrong.append(f"{connection} has two holders")
        self.held.append(entry)

    def give(self, number=0):
        if self.held:
            self.pool.checkin(self.held.pop(number))

    def throw(self):
        if self.held:
            self.pool.discard(self.held.pop(0), "test")

    def look(self):
        """See whether a report made now makes sense."""
        stats = self.pool.stats()
        parts = stats["idle"] + stats["in_use"] + stats["connecting"]
        if stats["size"] != parts or stats["size"] > stats["max"]:
            self.wrong.append(f"sizes: {stats}")
        if stats["idle"] and stats["waiting"]:
            self.wrong.append("somebody waits for what is idle")
        if stats["size"] < len(self.driver.open) - self.being_opened(stats):
            self.wrong.append("more connections are open than places are taken")
        if stats["checkouts"] < stats["hold_seconds"]["count"]:
            self.wrong.append("more checkouts ended than began")
        for holder in self.pool.holders():
            if not 0 <= holder["seconds"] <= self.clock.now - 1000:
                self.wrong.append(f"a holder of before the test: {holder}")

    def being_opened(self, stats):
        # Open already, and not yet put down in the place it has.
        return stats["connecting"]

    def finish(self):
        """Give everything back: no place may be missing, none too many."""
        while self.held:
            self.give()
        self.pool.resume()
        stats = self.pool.stats()
        assert stats["in_use"] == stats["connecting"] == stats["waiting"] == 0
        check(self.pool, self.driver)
        if self.pool.state == "closed":
            assert self.driver.open == []
            return
        for _ in range(stats["max"]):
            self.take()
        assert len(self.held) == stats["max"]
        check(self.pool, self.driver)
        assert self.wrong == []


# What goes on: each prepares a world and returns the call to be overtaken.


def finds_one_idle():
    world = World()
    world.take()
    world.take()
    world.give()
    return world, world.take


def finds_none_idle():
    world = World()
    world.take()
    return world, world.take


def finds_a_dead_one():
    world = World()
    world.take()
    world.take()
    world.held[0].connection.alive = False
    world.give()
    return world, world.take


def finds_only_dead_ones():
    world = World()
    world.take()
    world.take()
    for entry in world.held:
        entry.connection.alive = False
    world.give()
    world.give()
    return world, world.take


def finds_one_that_slept():
    world = World()
    world.take()
    world.give()
    world.clock.advance(60)
    return world, world.take


def finds_all_in_use():
    world = World(max_conns=1)
    world.take()
    return world, world.take


def finds_it_paused():
    world = World()
    world.take()
    world.pool.pause()
    return world, world.take


def comes_back_clean():
    world = World(max_conns=2)
    world.take()
    world.take()
    return world, lambda: world.give(1)


def comes_back_dirty():
    world = World(max_conns=2)
    world.take()
    world.take()
    world.held[1].connection.dirty = True
    world.held[1].connection.transaction = "open"
    return world, lambda: world.give(1)


def comes_back_expired():
    world = World(max_lifetime=100)
    world.take()
    world.clock.advance(200)
    world.take()
    world.held.reverse()
    return world, lambda: world.give(1)


def is_thrown_away():
    world = World()
    world.take()
    world.take()
    return world, world.throw


def is_maintained():
    world = World(min_conns=1, max_conns=3, max_lifetime=1000)
    for _ in range(3):
        world.take()
    world.held[0].connection.alive = False
    world.give()
    world.give()
    world.clock.advance(700)
    return world, world.pool.maintain


def is_refilled():
    world = World(min_conns=2)
    return world, world.pool.maintain


def turned(name):
    def prepare():
        world = World(max_conns=3)
        for _ in range(3):
            world.take()
        world.give()
        world.give()
        return world, getattr(world.pool, name)

    prepare.__name__ = f"{name}s"
    return prepare


# Who comes between.

OTHERS = {
    "look": World.look,
    "take": World.take,
    "give": World.give,
    "throw": World.throw,
    "give and take": lambda world: (world.give(), world.take()),
    "take and give": lambda world: (world.take(), world.give(-1)),
    "maintain": lambda world: world.pool.maintain(),
    "drain": lambda world: world.pool.drain(),
    "pause": lambda world: world.pool.pause(),
    "recycle": lambda world: world.pool.recycle(),
    "resume": lambda world: world.pool.resume(),
    "close": lambda world: world.pool.close(),
}


def overtake(world, call, other, number):
    """Make a call, and another before its line ``number``; tell if it got so far."""
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        if not frame.f_code.co_filename.startswith(CORE):
            return None
        if event == "line" and not world.pool._lock.locked():
            lines += 1
            try:
                if lines == number:
                    other(world)
                if lines >= number:
                    world.look()
            except BaseException as error:
                # Raised from here it would be raised in the call.
                world.wrong.append(repr(error))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines >= number


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    "prepare",
    [
        finds_one_idle,
        finds_none_idle,
        finds_a_dead_one,
        finds_only_dead_ones,
        finds_one_that_slept,
        finds_all_in_use,
        finds_it_paused,
        comes_back_clean,
        comes_back_dirty,
        comes_back_expired,
        is_thrown_away,
        is_maintained,
        is_refilled,
        *map(turned, ["drain", "pause", "recycle", "resume", "close"]),
    ],
)
def test_nothing_is_shared_or_lost_wherever_a_call_is_overtaken(prepare, name):
    for number in range(1, 1000):
        world, call = prepare()
        got_so_far = overtake(world, call, OTHERS[name], number)
        assert world.wrong == [], f"at line {number}"
        world.finish()
        if not got_so_far:
            break
    assert 1 < number < 999
