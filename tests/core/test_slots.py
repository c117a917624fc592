"""The decisions of a pool, without its lock, its I/O or a driver."""

from __future__ import annotations

import math
import random

import pytest

from dbpool_mw.core.config import PoolConfig
from dbpool_mw.core.entry import BUSY, CLOSED, CONNECTING, IDLE, IN_USE
from dbpool_mw.core.slots import DRAINING, PAUSED, RUNNING, SHUT, Slots
from dbpool_mw.core.waiter import Waiter
from tests.core.fakes import Clock, Holder
from tests.soak import soaked

STEPS = 300


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(clock):
    def make(**config):
        return Slots(PoolConfig(**{"max_conns": 2, **config}), clock)

    return make


def opened(slots):
    """Take a slot and return its entry, in use, as if a connection had been opened."""
    entry = slots.take()
    assert entry.state is CONNECTING
    entry.state, entry.holder, entry.expires_at = IN_USE, Holder(), math.inf
    return entry


def idle(slots):
    """Return an entry that is idle since now."""
    entry = opened(slots)
    assert slots.keep(entry, slots.clock()) is None
    return entry


def idle_since(slots):
    return {entry: entry.idle_since for entry in slots.idle}


def was_woken(waiter):
    return waiter.wait(0)


# --- take ----------------------------------------------------------------------------


def test_the_connection_that_became_idle_last_is_taken_first(make):
    slots = make()
    first, second = opened(slots), opened(slots)
    slots.keep(first, slots.clock())
    slots.keep(second, slots.clock())
    assert [slots.take(), slots.take()] == [second, first]
    assert first.state is second.state is IN_USE
    assert slots.idle == []


def test_without_an_idle_connection_a_free_slot_is_taken(make):
    slots = make()
    entry = slots.take()
    assert entry.state is CONNECTING
    assert entry.generation == slots.generation
    assert slots.entries == {entry}


def test_nothing_is_taken_while_all_slots_are_taken(make):
    slots = make(max_conns=1)
    opened(slots)
    assert slots.take() is None


@pytest.mark.parametrize(
    ("state", "opens", "opens_with_bypass"),
    [
        (RUNNING, True, True),
        (DRAINING, True, True),
        (PAUSED, False, True),
        (SHUT, False, False),
    ],
)
def test_a_connection_may_be_opened_as_the_state_allows(
    make, state, opens, opens_with_bypass
):
    slots = make()
    slots.state = state
    assert slots.may_open() is opens
    assert slots.may_open(bypasses_pause=True) is opens_with_bypass
    assert (slots.take() is not None) is opens


def test_after_a_failed_connect_there_is_one_attempt_at_a_time(make, clock):
    slots = make(max_conns=3)
    slots.backoff.failed("down")
    assert slots.take() is None
    clock.advance(10)
    assert slots.take().state is CONNECTING
    assert slots.take() is None
    slots.backoff.succeeded()
    assert slots.take() is not None


def test_an_attempt_that_has_become_due_goes_to_a_waiter_before_a_new_caller(
    make, clock
):
    slots = make()
    slots.backoff.failed("down")
    waiter = slots.queue_up(Holder(), bypasses_pause=False)
    clock.advance(10)
    assert slots.take() is None
    assert waiter.entry.state is CONNECTING


# --- reserve_for_refill --------------------------------------------------------------


def test_a_refill_takes_slots_up_to_min_conns(make):
    slots = make(min_conns=2, max_conns=3)
    for _ in range(2):
        entry = slots.reserve_for_refill()
        assert entry.state is CONNECTING
        assert slots.reserve_for_refill() is None  # one at a time
        entry.state = IN_USE
    assert slots.reserve_for_refill() is None
    assert len(slots.entries) == 2


@pytest.mark.parametrize("state", [DRAINING, PAUSED, SHUT])
def test_only_a_running_pool_is_refilled(make, state):
    slots = make(min_conns=1)
    slots.state = state
    assert slots.reserve_for_refill() is None


def test_a_refill_takes_no_slot_before_the_next_attempt_is_due(make, clock):
    slots = make(min_conns=1)
    slots.backoff.failed("down")
    assert slots.reserve_for_refill() is None
    clock.advance(10)
    assert slots.reserve_for_refill() is not None


# --- free ----------------------------------------------------------------------------


def test_a_freed_slot_is_free_and_its_entry_closed(make):
    slots = make(max_conns=1)
    entry = opened(slots)
    slots.free(entry)
    assert (entry.state, entry.holder) == (CLOSED, None)
    assert slots.entries == set()
    assert slots.take() is not None


def test_a_freed_slot_goes_to_the_first_waiter(make):
    slots = make(max_conns=1)
    entry = opened(slots)
    first, second = slots.queue_up(Holder(), False), slots.queue_up(Holder(), False)
    slots.free(entry)
    assert first.entry.state is CONNECTING
    assert slots.entries == {first.entry}
    assert second.entry is None
    assert list(slots.waiters) == [second]


# --- replace -------------------------------------------------------------------------


def test_a_dead_connection_is_replaced_by_another_idle_one(make):
    slots = make(max_conns=2)
    first, second = opened(slots), opened(slots)
    slots.keep(first, slots.clock())
    slots.keep(second, slots.clock())
    dead = slots.take()
    assert slots.replace(dead, Holder()) is first
    assert first.state is IN_USE
    assert dead.state is CLOSED
    assert slots.entries == {first}


def test_the_caller_that_found_a_dead_connection_gets_its_slot_before_waiters(make):
    slots = make(max_conns=1)
    idle(slots)
    dead = slots.take()
    waiter = slots.queue_up(Holder(), bypasses_pause=False)
    entry = slots.replace(dead, Holder())
    assert entry.state is CONNECTING
    assert slots.entries == {entry}
    assert waiter.entry is None


def test_in_a_pause_the_slot_of_a_dead_connection_goes_to_a_waiter_with_bypass(make):
    slots = make(max_conns=1)
    idle(slots)
    dead = slots.take()
    waits, bypasses = slots.queue_up(Holder(), False), slots.queue_up(Holder(), True)
    slots.change_state(PAUSED, "paused")
    assert slots.replace(dead, Holder()) is None
    assert bypasses.entry.state is CONNECTING
    assert waits.entry is None


def test_after_a_failed_connect_a_dead_connection_is_not_replaced_at_once(make):
    slots = make(max_conns=1)
    idle(slots)
    dead = slots.take()
    slots.backoff.failed("down")
    assert slots.replace(dead, Holder()) is None
    assert slots.entries == set()


# --- The queue -----------------------------------------------------------------------


@pytest.mark.parametrize(("max_waiting", "full"), [(0, False), (2, True), (3, False)])
def test_the_queue_is_full_at_max_waiting_and_never_with_zero(make, max_waiting, full):
    slots = make(max_waiting=max_waiting)
    slots.queue_up(Holder(), False)
    slots.queue_up(Holder(), False)
    assert slots.is_full() is full


def test_a_caller_queues_up_at_the_end(make, clock):
    slots = make()
    first = slots.queue_up(Holder(), bypasses_pause=False)
    clock.advance(1)
    second = slots.queue_up(Holder(), bypasses_pause=True)
    assert list(slots.waiters) == [first, second]
    assert (first.since, second.since) == (clock.now - 1, clock.now)
    assert (first.bypasses_pause, second.bypasses_pause) == (False, True)


@pytest.mark.parametrize(
    ("since", "position"), [(999, 0), (1000, 0), (1001, 1), (1002.5, 3), (1003, 3)]
)
def test_a_caller_with_since_is_in_front_of_all_that_came_later(
    make, clock, since, position
):
    slots = make()
    for _ in range(3):
        slots.queue_up(Holder(), bypasses_pause=False)
        clock.advance(1)
    waiter = slots.queue_up(Holder(), bypasses_pause=False, since=since)
    assert slots.waiters.index(waiter) == position
    assert waiter.since == since


def test_after_a_failed_connect_leaving_the_queue_wakes_the_next_waiter(make):
    slots = make()
    first, second, third = (slots.queue_up(Holder(), False) for _ in range(3))
    slots.backoff.failed("down")
    slots.leave_queue(first)
    assert list(slots.waiters) == [second, third]
    assert was_woken(second)
    assert not was_woken(third)


def test_after_a_failed_connect_serving_the_first_waiter_wakes_the_next(make, clock):
    slots = make(max_conns=2)
    entry = opened(slots)
    first, second = (slots.queue_up(Holder(), False) for _ in range(2))
    slots.backoff.failed("down")
    slots.keep(entry, clock.now)
    assert first.entry is entry
    assert was_woken(second)


def test_without_a_failed_connect_leaving_the_queue_wakes_no_waiter(make):
    slots = make()
    first, second = slots.queue_up(Holder(), False), slots.queue_up(Holder(), False)
    slots.leave_queue(first)
    assert not was_woken(second)


def test_in_a_pause_the_first_waiter_is_the_first_that_bypasses_it(make):
    slots = make()
    assert slots.first_waiter() is None
    waits = slots.queue_up(Holder(), bypasses_pause=False)
    slots.state = PAUSED
    assert slots.first_waiter() is None
    bypasses = slots.queue_up(Holder(), bypasses_pause=True)
    slots.queue_up(Holder(), bypasses_pause=True)
    assert slots.first_waiter() is bypasses
    slots.state = RUNNING
    assert slots.first_waiter() is waits


def test_free_slots_are_granted_in_the_order_of_the_queue(make):
    slots = make(max_conns=2)
    waiters = [slots.queue_up(Holder(), False) for _ in range(3)]
    slots.grant()
    assert [waiter.entry is not None for waiter in waiters] == [True, True, False]
    assert slots.entries == {waiters[0].entry, waiters[1].entry}
    assert all(was_woken(waiter) for waiter in waiters[:2])


def test_in_a_pause_slots_are_granted_only_to_waiters_with_bypass(make):
    slots = make(max_conns=3)
    slots.state = PAUSED
    bypassing = (False, True, False, True)
    waiters = [slots.queue_up(Holder(), bypasses) for bypasses in bypassing]
    slots.grant()
    granted = [waiter.entry is not None for waiter in waiters]
    assert granted == [False, True, False, True]
    assert list(slots.waiters) == [waiters[0], waiters[2]]


# --- keep ----------------------------------------------------------------------------


def test_a_connection_that_comes_back_goes_to_the_oldest_waiter(make, clock):
    slots = make(max_conns=1)
    entry = opened(slots)
    first, second = slots.queue_up(Holder(), False), slots.queue_up(Holder(), False)
    assert slots.keep(entry, clock.now) is None
    assert first.entry is entry
    assert second.entry is None
    assert entry.state is IN_USE
    assert entry.holder is first.holder
    assert slots.idle == []


def test_a_connection_without_a_waiter_becomes_idle(make, clock):
    slots = make()
    entry = opened(slots)
    clock.advance(5)
    assert slots.keep(entry, clock.now) is None
    assert slots.idle == [entry]
    assert (entry.state, entry.holder, entry.idle_since) == (IDLE, None, clock.now)


@pytest.mark.parametrize(
    ("state", "stale_reason", "reason"),
    [
        (DRAINING, None, "drained"),
        (PAUSED, None, "paused"),
        (SHUT, None, "pool closed"),
        (RUNNING, "recycled", "recycled"),
        (RUNNING, "drained", "drained"),
        # The state comes first, and what is stale counts as that, even if it expired.
        (PAUSED, "recycled", "paused"),
    ],
)
@pytest.mark.parametrize("expired", [False, True])
def test_each_state_and_a_stale_connection_have_a_reason_to_close(
    make, clock, state, stale_reason, reason, expired
):
    slots = make(max_conns=1)
    entry = opened(slots)
    waiter = slots.queue_up(Holder(), bypasses_pause=False)
    if expired:
        entry.expires_at = clock.now
    slots.change_state(state, stale_reason)
    holder = entry.holder
    assert slots.keep(entry, clock.now) == reason
    assert slots.reason_to_close(entry, clock.now) == reason
    # The caller of keep() closes it: no other caller may get it.
    assert (entry.state, entry.holder) == (IN_USE, holder)
    assert slots.idle == []
    assert waiter.entry is None


@pytest.mark.parametrize(
    ("cancelled", "reason"), [(None, "expired"), ("held too long", "held too long")]
)
def test_a_connection_expires_at_the_end_of_its_lifetime(
    make, clock, cancelled, reason
):
    slots = make()
    entry = opened(slots)
    entry.cancelled = cancelled
    entry.expires_at = clock.now + 1
    assert slots.reason_to_close(entry, clock.now) is None
    clock.advance(1)
    assert slots.keep(entry, clock.now) == reason


def test_entries_of_an_older_generation_are_stale_and_all_are_in_a_pause(make):
    slots = make()
    old = opened(slots)
    assert not slots.is_stale(old)
    slots.change_state(DRAINING, "drained")
    new = opened(slots)
    assert [slots.is_stale(entry) for entry in (old, new)] == [True, False]
    slots.state = PAUSED
    assert slots.is_stale(new)


# --- remove_unfit --------------------------------------------------------------------


def test_connections_idle_longest_are_removed_down_to_min_conns(make, clock):
    slots = make(min_conns=1, max_conns=3, max_idle=600)
    entries = [opened(slots) for _ in range(3)]
    for entry in entries:
        slots.keep(entry, clock.now)
    clock.advance(600)
    victims = slots.remove_unfit((), idle_since(slots))
    assert victims == [(entries[0], "idle"), (entries[1], "idle")]
    assert slots.idle == [entries[2]]


def test_connections_in_use_count_towards_min_conns(make, clock):
    slots = make(min_conns=1, max_idle=600)
    opened(slots)
    entry = idle(slots)
    clock.advance(600)
    assert slots.remove_unfit((), idle_since(slots)) == [(entry, "idle")]


def test_a_connection_is_not_removed_before_max_idle(make, clock):
    slots = make(max_idle=600)
    idle(slots)
    clock.advance(599)
    assert slots.remove_unfit((), idle_since(slots)) == []
    assert len(slots.idle) == 1


def test_dead_and_expired_connections_are_removed_below_min_conns_too(make, clock):
    slots = make(min_conns=3, max_conns=3)
    dead, expired, good = entries = [opened(slots) for _ in range(3)]
    for entry in entries:
        slots.keep(entry, clock.now)
    expired.expires_at = clock.now
    victims = slots.remove_unfit({dead}, idle_since(slots))
    assert victims == [(dead, "dead"), (expired, "expired")]
    assert slots.idle == [good]


def test_removed_connections_keep_their_slots_until_they_are_closed(make):
    slots = make()
    entry = idle(slots)
    assert slots.remove_unfit({entry}, idle_since(slots)) == [(entry, "dead")]
    assert entry.state is BUSY
    assert slots.entries == {entry}


def test_removed_connections_do_not_count_towards_min_conns(make, clock):
    slots = make(min_conns=2, max_conns=3, max_idle=600)
    dead, *others = entries = [opened(slots) for _ in range(3)]
    for entry in entries:
        slots.keep(entry, clock.now)
    clock.advance(600)
    assert slots.remove_unfit({dead}, idle_since(slots)) == [(dead, "dead")]
    assert slots.idle == others


def test_a_connection_used_since_it_was_found_dead_is_kept(make, clock):
    slots = make()
    entry = idle(slots)
    seen = idle_since(slots)
    slots.take()
    clock.advance(1)
    slots.keep(entry, clock.now)
    assert slots.remove_unfit({entry}, seen) == []
    assert slots.idle == [entry]


# --- turn ----------------------------------------------------------------------------


def test_a_turn_with_a_reason_makes_every_open_connection_stale(make):
    slots = make(max_conns=3)
    in_use, connecting, waiting = opened(slots), slots.take(), idle(slots)
    assert slots.change_state(RUNNING, "recycled") == [(waiting, "recycled")]
    assert slots.idle == []
    assert waiting.state is BUSY
    assert slots.entries == {in_use, connecting, waiting}
    assert all(slots.is_stale(entry) for entry in slots.entries)
    assert slots.stale_reason == "recycled"


def test_a_turn_without_a_reason_leaves_every_connection(make):
    slots = make()
    entry = idle(slots)
    assert slots.change_state(RUNNING, None) == []
    assert slots.idle == [entry]
    assert not slots.is_stale(entry)


def test_a_resume_grants_the_free_slots(make):
    slots = make(max_conns=1)
    slots.change_state(PAUSED, "paused")
    first, second = slots.queue_up(Holder(), False), slots.queue_up(Holder(), False)
    slots.grant()
    assert first.entry is None
    slots.change_state(RUNNING, None)
    assert first.entry.state is CONNECTING
    assert second.entry is None


def test_after_a_failed_connect_a_change_of_state_wakes_the_first_waiter(
    make,
):
    slots = make()
    slots.change_state(PAUSED, "paused")
    slots.backoff.failed("down")
    waits, bypasses = slots.queue_up(Holder(), False), slots.queue_up(Holder(), True)
    slots.change_state(RUNNING, None)
    assert was_woken(waits)
    assert not was_woken(bypasses)


# --- Random steps --------------------------------------------------------------------


class Walk:
    """The slots of a pool, and an independent record of who has which entry.

    Every entry is in exactly one of ``connecting``, ``in_use``, ``busy`` and the idle
    list. ``granted`` has what waiters were given and have not picked up yet.
    """

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.clock = Clock()
        config = PoolConfig(
            min_conns=self.rng.choice([0, 1]),
            max_conns=self.rng.choice([1, 2, 4]),
            max_waiting=self.rng.choice([0, 3]),
            max_idle=20,
        )
        self.slots = Slots(config, self.clock, lambda: OrderedWaiter(self))
        self.connecting, self.in_use, self.busy = [], [], []
        self.granted = []

    def taken(self):
        return [*self.connecting, *self.in_use, *self.busy]

    def record(self, entry):
        """Record that a caller was given an entry."""
        assert entry not in self.taken()
        if entry.state is CONNECTING:
            self.connecting.append(entry)
        else:
            assert entry.state is IN_USE
            self.in_use.append(entry)

    def any_of(self, entries):
        return entries.pop(self.rng.randrange(len(entries)))

    def acquire(self, since=None):
        bypasses_pause = self.rng.random() < 0.3
        entry = self.slots.take(None, bypasses_pause)
        if entry is not None:
            self.record(entry)
        elif since is not None or not self.slots.is_full():
            self.slots.queue_up(Holder(), bypasses_pause, since)

    def keep(self, entry):
        if self.slots.keep(entry, self.clock.now) is not None:
            entry.state = BUSY
            self.busy.append(entry)

    # --- Steps -----------------------------------------------------------------------

    def checkout(self):
        self.acquire()

    def connect(self):
        if self.connecting:
            entry = self.any_of(self.connecting)
            entry.state, entry.expires_at = IN_USE, self.clock.now + 50
            self.in_use.append(entry)
            if self.slots.backoff.succeeded():
                self.slots.grant()

    def fail_to_connect(self):
        if self.connecting:
            entry = self.any_of(self.connecting)
            self.slots.backoff.failed("down")
            self.slots.wake_for_retry()
            self.slots.free(entry)
            if self.slots.entries:
                self.acquire(since=self.clock.now - self.rng.choice([0, 1, 10]))

    def find_dead(self):
        if self.in_use:
            entry = self.any_of(self.in_use)
            entry.state = BUSY
            other = self.slots.replace(entry, Holder())
            if other is None:
                self.acquire()
            else:
                self.record(other)

    def checkin(self):
        if self.in_use:
            self.keep(self.any_of(self.in_use))

    def checkin_dirty(self):
        if self.in_use:
            entry = self.any_of(self.in_use)
            entry.state = BUSY
            self.busy.append(entry)

    def end_cleaning(self):
        if self.busy:
            self.keep(self.any_of(self.busy))

    def end_closing(self):
        if self.busy:
            self.slots.free(self.any_of(self.busy))

    def time_out(self):
        if self.slots.waiters:
            self.slots.leave_queue(self.rng.choice(self.slots.waiters))

    def pass_time(self):
        self.clock.advance(self.rng.choice([0.05, 1, 10, 30]))

    def reap(self):
        dead = {entry for entry in self.slots.idle if self.rng.random() < 0.2}
        for entry, _ in self.slots.remove_unfit(dead, idle_since(self.slots)):
            self.busy.append(entry)

    def refill(self):
        entry = self.slots.reserve_for_refill()
        if entry is not None:
            self.record(entry)

    def turn(self):
        state, stale_reason = self.rng.choice(
            [
                (RUNNING, None),
                (RUNNING, None),
                (RUNNING, "recycled"),
                (DRAINING, "drained"),
                (PAUSED, "paused"),
            ]
        )
        for entry, _ in self.slots.change_state(state, stale_reason):
            self.busy.append(entry)

    # --- Invariants ------------------------------------------------------------------

    def check(self):
        for entry in self.granted:
            self.record(entry)
        self.granted.clear()
        slots = self.slots
        assert len(slots.entries) <= slots.config.max_conns
        assert {entry for entry in slots.entries if entry.state is IDLE} == set(
            slots.idle
        )
        assert len(set(slots.idle)) == len(slots.idle)
        assert not (slots.idle and slots.waiters)
        assert slots.state is not PAUSED or not slots.idle
        taken = self.taken()
        assert len(set(taken)) == len(taken)
        assert slots.entries == {*taken, *slots.idle}
        assert all(waiter.entry is None for waiter in slots.waiters)
        first = slots.first_waiter()
        if first is not None and not slots.backoff.failures:
            assert not slots.may_open(first.bypasses_pause)


class OrderedWaiter(Waiter):
    """A waiter that asserts that no earlier one could be served instead."""

    __slots__ = ("walk",)

    def __init__(self, walk):
        super().__init__()
        self.walk = walk

    def hand_over(self, entry):
        paused = self.walk.slots.state is PAUSED
        assert self.bypasses_pause or not paused
        for other in self.walk.slots.waiters:
            assert self.since <= other.since or (paused and not other.bypasses_pause)
        assert self.entry is None
        super().hand_over(entry)
        self.walk.granted.append(entry)


@pytest.mark.parametrize("seed", range(soaked(30)))
def test_the_invariants_hold_after_each_of_many_random_steps(seed):
    walk = Walk(seed)
    steps = [
        *[walk.checkout] * 5,
        *[walk.connect] * 4,
        *[walk.checkin] * 3,
        *[walk.end_closing] * 2,
        walk.fail_to_connect,
        walk.find_dead,
        walk.checkin_dirty,
        walk.end_cleaning,
        walk.time_out,
        walk.pass_time,
        walk.reap,
        walk.refill,
        walk.turn,
    ]
    for _ in range(STEPS):
        walk.rng.choice(steps)()
        walk.check()
