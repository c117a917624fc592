"""An exception at every line of a checkout and a checkin: no slot is lost.

What raises is the trace function, so the exception comes where a signal's handler would
raise it: between any two lines of the pool, with its lock held too.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

import dbpool_mw.core
import dbpool_mw.core.errors
from tests.core.fakes import Holder, InThread, check, make_pool, traced, until

CORE = str(Path(dbpool_mw.core.__file__).parent)


class Limit(Exception):
    """As a task's soft time limit: an Exception."""


def interrupted_at(number, call, error):
    """Make a call, and raise before its line ``number``; return if it has so many."""
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        if not frame.f_code.co_filename.startswith(CORE):
            return None
        if event == "line":
            lines += 1
            if lines == number:
                raise error
        return trace

    with contextlib.suppress(KeyboardInterrupt, Limit):
        traced(call, trace)
    return lines >= number


class Keeper(Holder):
    """A holder that knows what it was given, as a binding does."""

    def __init__(self, pool):
        super().__init__()
        self.pool = pool
        self.entries = []

    def holds(self, entry):
        return entry in self.entries

    def check_out(self):
        self.entries.append(self.pool.checkout(self))

    def check_in(self):
        self.pool.checkin(self.entries.pop())


def first_checkout(pool, keeper, driver, clock):
    return keeper.check_out


def checkout_of_an_idle_connection(pool, keeper, driver, clock):
    pool.checkin(pool.checkout(Holder()))
    return keeper.check_out


def checkout_with_a_ping(pool, keeper, driver, clock):
    pool.checkin(pool.checkout(Holder()))
    clock.advance(60)
    return keeper.check_out


def checkout_of_a_dead_connection(pool, keeper, driver, clock):
    pool.checkin(pool.checkout(Holder()))
    driver.connections[0].alive = False
    return keeper.check_out


def checkout_that_times_out(pool, keeper, driver, clock):
    other = Keeper(pool)
    other.check_out()
    other.check_out()

    def call():
        try:
            with contextlib.suppress(dbpool_mw.core.errors.PoolTimeout):
                keeper.check_out()
        finally:
            while other.entries:
                with contextlib.suppress(KeyboardInterrupt, Limit):
                    other.check_in()

    return call


def checkin_of_a_clean_connection(pool, keeper, driver, clock):
    keeper.check_out()
    return keeper.check_in


def checkin_of_a_dirty_connection(pool, keeper, driver, clock):
    keeper.check_out()
    keeper.entries[0].connection.dirty = True
    keeper.entries[0].connection.transaction = "open"
    return keeper.check_in


def checkin_of_a_broken_connection(pool, keeper, driver, clock):
    keeper.check_out()
    keeper.entries[0].connection.transaction = "unknown"
    return keeper.check_in


def discard(pool, keeper, driver, clock):
    keeper.check_out()
    return lambda: pool.discard(keeper.entries.pop(), "on purpose")


PREPARED = [
    first_checkout,
    checkout_of_an_idle_connection,
    checkout_with_a_ping,
    checkout_of_a_dead_connection,
    checkout_that_times_out,
    checkin_of_a_clean_connection,
    checkin_of_a_dirty_connection,
    checkin_of_a_broken_connection,
    discard,
]


@pytest.mark.parametrize("error", [KeyboardInterrupt, Limit])
@pytest.mark.parametrize("prepare", PREPARED)
def test_after_two_rounds_of_maintenance_every_slot_is_there(prepare, error):
    for number in range(1, 1000):
        pool, driver, clock = make_pool(max_conns=2, check_after_idle=30)
        keeper = Keeper(pool)
        call = prepare(pool, keeper, driver, clock)
        reached = interrupted_at(number, call, error)
        for _ in range(2):
            pool.maintain()
        for entry in keeper.entries:
            pool.checkin(entry)
        keeper.entries.clear()
        entries = [pool.checkout(Holder()) for _ in range(2)]
        assert entries[0].connection is not entries[1].connection, number
        assert not any(entry.connection.closed for entry in entries), number
        for entry in entries:
            pool.checkin(entry)
        check(pool, driver)
        if not reached:
            break
    assert 1 < number < 999


def test_an_entry_that_is_held_is_never_taken_for_lost():
    pool, driver, clock = make_pool()
    keeper = Keeper(pool)
    keeper.check_out()
    for _ in range(5):
        clock.advance(100)
        pool.maintain()
    assert pool.stats()["reclaimed"] == 0
    keeper.check_in()
    check(pool, driver)


def test_an_entry_that_nobody_holds_is_reclaimed_in_the_second_round(caplog):
    pool, driver, _ = make_pool()
    keeper = Keeper(pool)
    keeper.check_out()
    keeper.entries.clear()
    pool.maintain()
    assert pool.stats()["reclaimed"] == 0
    pool.maintain()
    assert pool.stats()["reclaimed"] == 1
    assert pool.stats()["size"] == 0
    assert "nobody held any more (GET /someone/ in thread someone)" in caplog.text
    check(pool, driver)


@pytest.mark.parametrize(
    ("verb", "state"),
    [
        ("checkin", "idle"),
        ("checkin of a dirty one", "busy"),
        ("discard", "in use"),
        ("checkout", "in use"),
        ("checkout of a dead one", "in use"),
    ],
)
@pytest.mark.parametrize("of_another_pool", [False, True])
def test_a_finaliser_that_uses_a_pool_while_its_thread_has_the_lock_cannot_hang(
    verb, state, of_another_pool
):
    """Nor where it is for another pool that the thread has the lock."""
    pool, driver, _ = make_pool()
    locked = make_pool()[0] if of_another_pool else pool
    entry = pool.checkout(Holder())
    if verb == "checkin of a dirty one":
        entry.connection.dirty = True
    elif verb == "checkout of a dead one":
        dead = pool.checkout(Holder())
        pool.checkin(dead)
        dead.connection.alive = False

    def finalise(*_):
        # Called with the lock held, as by the garbage collector at an allocation.
        if verb.startswith("checkin"):
            pool.checkin(entry)
        elif verb == "discard":
            pool.discard(entry, "on purpose")
        else:
            with pytest.raises(dbpool_mw.core.errors.PoolError, match="finaliser"):
                pool.checkout(Holder())
            pool.discard(entry, "on purpose")
        assert entry.state == state

    locked._slots.checkouts = finalise
    locked.stats()
    del locked._slots.checkouts
    pool._call_deferred()
    until(lambda: pool.stats()["in_use"] == 0)
    check(pool, driver)


@pytest.mark.parametrize("prepare", PREPARED)
def test_a_thread_that_ends_takes_no_slot_with_it(prepare):
    for number in range(1, 1000):
        pool, driver, clock = make_pool(max_conns=2, check_after_idle=30)
        keeper = Keeper(pool)
        call = prepare(pool, keeper, driver, clock)
        reached = InThread(in_this_thread, keeper, number, call).result()
        pool.maintain()
        pool.maintain()
        for entry in keeper.entries:
            pool.checkin(entry)
        keeper.entries.clear()
        entries = [pool.checkout(Holder()) for _ in range(2)]
        for entry in entries:
            pool.checkin(entry)
        check(pool, driver)
        if not reached:
            break
    assert 1 < number < 999


def in_this_thread(keeper, number, call):
    keeper.thread_id = threading.get_ident()
    reached = interrupted_at(number, call, Limit)
    # Frees the pool's lock, should it still be this thread's: a trace function, unlike
    # a signal's handler, can raise between the end of a with block and its exit.
    keeper.pool.cancel_waits()
    return reached


def test_the_slot_that_a_thread_lost_comes_back_while_it_waits_for_another():
    pool, driver, _ = make_pool(max_conns=1, timeout=20)
    keeper = Keeper(pool)

    def lose_and_wait():
        keeper.thread_id = threading.get_ident()
        pool.checkout(keeper)
        keeper.check_out()

    thread = InThread(lose_and_wait)
    until(lambda: pool.stats()["waiting"] == 1)
    pool.maintain()
    pool.maintain()
    thread.result()
    assert pool.stats()["reclaimed"] == 1
    keeper.check_in()
    check(pool, driver)


def test_a_connection_that_closes_in_the_background_is_not_taken_for_lost():
    pool, driver, _ = make_pool(max_conns=2)
    pool._spawn = lambda function, *victims: InThread(function, *victims).is_alive()
    entries = [pool.checkout(Holder()) for _ in range(2)]
    for entry in entries:
        pool.checkin(entry)
    closes, may_close = threading.Event(), threading.Event()

    def close(connection):
        closes.set()
        assert may_close.wait(20)

    driver.on_close = close
    pool.recycle()
    assert closes.wait(20)
    for _ in range(3):
        pool.maintain()
    may_close.set()
    until(lambda: pool.stats()["size"] == 0)
    assert pool.stats()["discarded"] == {"recycled": 2}
    assert pool.stats()["reclaimed"] == 0
    check(pool, driver)


def test_the_search_reads_no_variables_of_another_threads_frames(monkeypatch):
    class Frame:
        f_back = None
        f_lasti = 0
        f_globals: ClassVar = {"__name__": "dbpool_mw.core.pool"}
        f_code = SimpleNamespace(co_name="checkin")

        @property
        def f_locals(self):
            raise AssertionError("CPython crashes when the thread leaves the frame")

    pool, driver, _ = make_pool()
    keeper = Keeper(pool)
    keeper.thread_id = 1
    keeper.check_out()
    keeper.entries.clear()
    monkeypatch.setattr(sys, "_current_frames", lambda: {1: Frame()})
    for _ in range(3):
        pool.maintain()
    assert pool.stats()["reclaimed"] == 0
    monkeypatch.undo()
    pool.maintain()
    pool.maintain()
    assert pool.stats()["reclaimed"] == 1
    check(pool, driver)


@pytest.mark.parametrize("state", ["connecting", "busy"])
def test_what_another_thread_works_on_for_long_is_not_taken_for_lost(state):
    pool, driver, _ = make_pool(max_conns=1)
    works, may_go = threading.Event(), threading.Event()

    def work(*_):
        works.set()
        assert may_go.wait(20)

    if state == "connecting":
        driver.on_connect = work
    else:
        driver.on_close = work
    keeper = Keeper(pool)

    def use():
        # The thread that works isn't that of the holder: a finaliser's, for example.
        keeper.check_out()
        pool.discard(keeper.entries.pop(), "on purpose")

    thread = InThread(use)
    assert works.wait(20)
    for _ in range(3):
        pool.maintain()
    may_go.set()
    thread.result()
    assert pool.stats()["reclaimed"] == 0
    check(pool, driver)


def hand_over(pool, keeper):
    """A checkin for which a waiter is handed the connection."""
    keeper.check_out()
    return keeper.check_in


def hand_over_a_slot(pool, keeper):
    """A connection that comes back broken, for which a waiter is handed the slot."""
    keeper.check_out()
    keeper.entries[0].connection.transaction = "unknown"
    return keeper.check_in


@pytest.mark.parametrize("prepare", [hand_over, hand_over_a_slot])
def test_a_waiter_is_served_after_two_rounds_whatever_hand_over_was_interrupted(
    prepare,
):
    for number in range(1, 1000):
        pool, driver, _ = make_pool(max_conns=1, timeout=20)
        keeper, other = Keeper(pool), Keeper(pool)
        call = prepare(pool, keeper)

        def wait(other=other):
            other.thread_id = threading.get_ident()
            other.check_out()

        thread = InThread(wait)
        until(lambda pool=pool: pool.stats()["waiting"] == 1)
        reached = interrupted_at(number, call, Limit)
        while keeper.entries:
            keeper.check_in()
        pool.maintain()
        pool.maintain()
        thread.result()
        assert pool.stats()["waiting"] == pool.stats()["timeouts"] == 0, number
        other.check_in()
        pool.maintain()
        check(pool, driver)
        if not reached:
            break
    assert 1 < number < 999


@pytest.mark.parametrize("end", ["close", "cancel_waits", "connect_failed"])
def test_a_wait_whose_end_was_interrupted_ends_all_the_same(end):
    for number in range(1, 1000):
        pool, driver, _ = make_pool(max_conns=1, timeout=20)
        keeper, other = Keeper(pool), Keeper(pool)
        keeper.check_out()

        def wait(pool=pool, other=other):
            other.thread_id = threading.get_ident()
            other.entries.append(pool.checkout(other, eager=True))

        thread = InThread(wait)
        until(lambda pool=pool: pool.stats()["waiting"] == 1)
        other.cancelled = end == "cancel_waits"
        calls = {
            "close": pool.close,
            "cancel_waits": pool.cancel_waits,
            "connect_failed": lambda pool=pool: pool._slots.connect_failed(
                dbpool_mw.core.errors.ConnectFailed("default", "on purpose")
            ),
        }
        reached = interrupted_at(number, calls[end], Limit)
        pool.maintain()
        keeper.check_in()
        with contextlib.suppress(dbpool_mw.core.errors.PoolError):
            thread.result()
        assert pool.stats()["waiting"] == pool.stats()["timeouts"] == 0, number
        while other.entries:
            other.check_in()
        check(pool, driver)
        if not reached:
            break
    assert 1 < number < 999


@pytest.mark.parametrize("work", ["refill", "close"])
def test_a_thread_that_begins_after_its_entry_was_reclaimed_does_no_harm(work):
    pool, driver, _ = make_pool(max_conns=1, min_conns=int(work == "refill"))
    late = []
    pool._spawn = lambda *call: late.append(call) or True
    if work == "close":
        pool.checkin(pool.checkout(Holder()))
        pool.recycle()
    for _ in range(4):
        pool.maintain()
    assert pool.stats()["reclaimed"] > 0
    for function, *arguments in late:
        function(*arguments)
    check(pool, driver)
