"""An operator cancels a hold that was shown: that one, and never the next one's."""

from __future__ import annotations

import contextlib
import random
import threading
import time

import pytest

from dbpool_mw.core.errors import HoldCancelled, HoldEnded, HoldTooLong, PoolError
from tests.core.fakes import Holder, InThread, check, make_pool, traced, until
from tests.core.test_pool_interleavings import CORE, Queue
from tests.soak import soaked


def ids(pool):
    """Return the ids of the holds that are shown, by the path of the holder."""
    return {holder["path"]: holder["id"] for holder in pool.holders()}


# --- One at a time --------------------------------------------------------------------


def test_the_hold_is_aborted_and_its_connection_gets_no_other_holder(caplog):
    pool, driver, _ = make_pool(max_conns=2)
    slow, other = pool.checkout(Holder("slow")), pool.checkout(Holder("other"))
    name = ids(pool)["/slow/"]
    assert pool.cancel([name]) == [name]
    assert driver.aborted == [slow.connection]
    text = f"pool 'default': an operator cancelled hold {name}"
    assert str(slow.connection.aborted) == text
    assert isinstance(slow.connection.aborted, HoldCancelled)
    assert caplog.messages == [f"{text}; cancelling (GET /slow/ in thread slow)"]
    assert {h["path"]: h["state"] for h in pool.holders()} == {
        "/slow/": "cancelled",
        "/other/": "in use",
    }
    pool.checkin(slow)
    pool.checkin(other)
    assert pool.stats()["discarded"] == {"cancelled": 1}
    assert pool.stats()["overdue"] == 0
    assert [entry.connection for entry in pool._slots.idle] == [other.connection]
    check(pool, driver)


def test_both_errors_of_a_hold_that_was_ended_have_one_base():
    assert issubclass(HoldCancelled, HoldEnded)
    assert issubclass(HoldTooLong, HoldEnded)


@pytest.mark.parametrize("name", ["", "1-2-3", "x" * 100_000, "\0"])
def test_an_id_that_was_never_shown_cancels_nothing(name, caplog):
    pool, driver, _ = make_pool()
    pool.checkout(Holder())
    assert pool.cancel([name]) == []
    assert driver.aborted == []
    assert caplog.messages == []


def test_the_id_of_a_hold_that_ended_cancels_not_the_next_one():
    pool, driver, clock = make_pool(max_conns=1)
    names = set()
    for number in range(20):
        entry = pool.checkout(Holder())
        (name,) = ids(pool).values()
        assert name not in names
        assert pool.cancel(names) == []
        names.add(name)
        pool.checkin(entry)
        assert pool.cancel(names) == []
        clock.advance(1e-6 if number % 2 else 1)
    assert driver.aborted == []
    assert pool.stats()["opened"] == 1
    check(pool, driver)


def test_a_hold_is_cancelled_once():
    pool, driver, _ = make_pool()
    pool.checkout(Holder())
    (name,) = ids(pool).values()
    assert pool.cancel([name]) == [name]
    # It goes on, and the answer says that it is cancelled.
    assert pool.cancel([name, name]) == [name]
    assert len(driver.aborted) == 2
    assert pool.stats()["in_use"] == 1


def test_many_are_cancelled_by_one_call():
    pool, driver, _ = make_pool(max_conns=5)
    entries = [pool.checkout(Holder(str(number))) for number in range(5)]
    found = ids(pool)
    wanted = [found["/1/"], found["/3/"], "1-2-3"]
    assert sorted(pool.cancel(wanted)) == sorted(wanted[:2])
    assert {id(c) for c in driver.aborted} == {
        id(entries[number].connection) for number in (1, 3)
    }


def test_an_overdue_hold_may_be_cancelled_as_well():
    pool, _, clock = make_pool(max_hold=60)
    entry = pool.checkout(Holder())
    (name,) = ids(pool).values()
    clock.advance(60)
    pool.maintain()
    assert pool.cancel([name]) == [name]
    assert isinstance(entry.connection.aborted, HoldCancelled)


def test_a_cancelled_hold_does_not_become_overdue():
    pool, driver, clock = make_pool(max_hold=60)
    pool.checkout(Holder())
    pool.cancel(ids(pool).values())
    clock.advance(60)
    pool.maintain()
    assert len(driver.aborted) == 1
    assert pool.stats()["overdue"] == 0


def test_the_socket_of_a_holder_that_a_cancel_does_not_end_is_shut_down():
    pool, driver, clock = make_pool()
    entry = pool.checkout(Holder())
    pool.cancel(ids(pool).values())
    clock.advance(9.9)
    pool.maintain()
    assert driver.shut_downs == []
    clock.advance(0.1)
    pool.maintain()
    assert driver.shut_downs == [entry.connection]


def test_a_waiter_gets_a_new_connection_in_the_place_of_a_cancelled_one():
    pool, driver, _ = make_pool(max_conns=1, timeout=20)
    entry = pool.checkout(Holder())
    waiting = InThread(pool.checkout, Holder("next"))
    until(lambda: pool.stats()["waiting"] == 1)
    pool.cancel(ids(pool).values())
    pool.checkin(entry)
    other = waiting.result()
    assert other.connection is not entry.connection
    assert other.connection.aborted is None
    pool.checkin(other)
    check(pool, driver)


# --- Two at once ----------------------------------------------------------------------


class World:
    """A pool of one connection, and the hold of it that an operator was shown."""

    def __init__(self):
        self.pool, self.driver, self.clock = make_pool(max_conns=1, timeout=0)
        self.queue = Queue(self.pool, self.clock)
        self.shown = self.pool.checkout(Holder("shown"))
        self.connection = self.shown.connection
        (self.name,) = ids(self.pool).values()
        self.cancelled = []
        self.has_ended = False
        self.next = None

    def cancel(self):
        self.cancelled = self.pool.cancel([self.name])

    def check_in(self):
        self.clock.advance(0.001)
        self.has_ended = True
        self.pool.checkin(self.shown)

    def check_in_and_out(self):
        self.check_in()
        self.clock.advance(0.001)
        # Where another call has the lock, this one would wait for it.
        with contextlib.suppress(PoolError):
            self.next = self.pool.checkout(Holder("next"))

    def verify(self):
        """Assert that the hold was cancelled or not, and the next one never."""
        self.queue.run()
        assert self.driver.aborted == ([self.connection] if self.cancelled else [])
        if not self.has_ended:
            self.check_in()
        entry = self.next or self.pool.checkout(Holder("next"))
        connection = entry.connection
        assert (connection.aborted, connection.closed) == (None, False)
        for _ in range(3):
            self.clock.advance(5)
            self.pool.maintain()
        assert self.driver.shut_downs == []
        self.pool.checkin(entry)
        last = self.pool.checkout(Holder("last"))
        assert (last.connection.aborted, last.connection.closed) == (None, False)
        self.pool.checkin(last)
        check(self.pool, self.driver)


def within(world, call, other, number, *, locked):
    """Make a call, and another before its line ``number``; return if it has so many.

    ``locked``: lines with the lock held count as well. There the other call does what
    needs no lock, and the rest later, as another thread would.
    """
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        if not frame.f_code.co_filename.startswith(CORE):
            return None
        if event == "line" and (locked or not world.pool._lock._is_owned()):
            lines += 1
            if lines == number:
                other()
        return trace

    traced(call, trace)
    return lines >= number


@pytest.mark.parametrize(
    ("call", "other"),
    [
        (World.cancel, World.check_in),
        (World.cancel, World.check_in_and_out),
        (World.check_in, World.cancel),
        (World.check_in_and_out, World.cancel),
    ],
)
def test_a_hold_that_ends_at_any_line_is_cancelled_or_unknown(call, other):
    answers = set()
    for number in range(1, 1000):
        world = World()
        reached = within(
            world,
            lambda world=world: call(world),
            lambda world=world: other(world),
            number,
            locked=call is World.cancel,
        )
        world.verify()
        answers.add(bool(world.cancelled))
        if not reached:
            break
    assert 5 < number < 999
    assert answers == {True, False}


@pytest.mark.parametrize("seed", range(soaked(5)))
def test_threads_that_check_out_and_in_lose_only_what_was_cancelled(seed):
    pool, driver, _ = make_pool(max_conns=3, timeout=20)
    pool._clock = pool._slots.clock = time.monotonic
    dice = random.Random(seed)
    numbers = [dice.randrange(20, 60) for _ in range(4)]
    start, stop = threading.Barrier(len(numbers) + 1), threading.Event()
    nap = threading.Event()
    cancelled, ended = [], {}

    def work(count):
        start.wait(20)
        for _ in range(count):
            entry = pool.checkout(Holder())
            nap.wait(0.0001)
            error = entry.connection.aborted
            if error is not None:
                # It was given this connection, or began to use it, after the last one.
                _, serial, began = str(error).rpartition(" ")[2].split("-")
                assert int(serial) == entry.serial
                assert ended.get(entry.serial, 0) < int(began, 16) / 1e9
            ended[entry.serial] = time.monotonic()
            pool.checkin(entry)

    def cancel():
        start.wait(20)
        while not stop.is_set():
            shown = [h["id"] for h in pool.holders() if h["state"] == "in use"]
            if shown:
                cancelled.extend(pool.cancel([dice.choice(shown)]))

    workers = [InThread(work, number) for number in numbers]
    operator = InThread(cancel)
    try:
        for worker in workers:
            worker.result()
    finally:
        stop.set()
    operator.result()
    assert len(cancelled) == len(driver.aborted) > 0
    assert (
        len({id(c) for c in driver.aborted}) >= pool.stats()["discarded"]["cancelled"]
    )
    check(pool, driver)
