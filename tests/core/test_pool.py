"""The pool's core: one caller at a time, a fake driver, a clock set by hand."""

from __future__ import annotations

import logging

import pytest

from dbpool_mw.core.errors import (
    PoolClosed,
    PoolError,
    PoolTimeout,
    TooManyRequests,
)
from tests.core.fakes import DriverError, Holder, InThread, check, make_pool, until

ANYBODY = Holder()


# --- Checkout and checkin ------------------------------------------------------------


def test_the_first_checkout_opens_a_connection_and_the_second_uses_it_again():
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    first = entry.connection
    pool.checkin(entry)
    entry = pool.checkout(ANYBODY)
    assert entry.connection is first
    assert len(driver.connections) == 1
    pool.checkin(entry)
    check(pool, driver)
    assert pool.stats()["checkouts"] == 2


def test_the_connection_used_last_is_given_first():
    pool, _, _ = make_pool()
    one, two = pool.checkout(ANYBODY), pool.checkout(ANYBODY)
    pool.checkin(one)
    pool.checkin(two)
    assert pool.checkout(ANYBODY) is two


def test_two_holders_never_share_a_connection():
    pool, _, _ = make_pool()
    one, two = pool.checkout(ANYBODY), pool.checkout(ANYBODY)
    assert one.connection is not two.connection


def test_a_clean_connection_costs_no_round_trip():
    pool, driver, _ = make_pool()
    for _ in range(5):
        pool.checkin(pool.checkout(ANYBODY))
    assert driver.round_trips == 0


def test_a_connection_that_died_idle_is_replaced_without_an_error():
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    pool.checkin(entry)
    driver.connections[0].alive = False
    entry = pool.checkout(ANYBODY)
    assert entry.connection is driver.connections[1]
    check(pool, driver)
    assert pool.stats()["discarded"] == {"dead": 1}


def test_when_all_idle_connections_died_each_checkout_replaces_its_own():
    pool, driver, _ = make_pool(max_conns=3)
    entries = [pool.checkout(ANYBODY) for _ in range(3)]
    for entry in entries:
        pool.checkin(entry)
    for connection in driver.connections:
        connection.alive = False
    pool.checkout(ANYBODY)
    check(pool, driver)
    assert pool.stats()["discarded"] == {"dead": 3}


def test_only_a_connection_that_slept_long_is_asked_whether_it_lives():
    pool, driver, clock = make_pool(check_after_idle=30)
    pool.checkin(pool.checkout(ANYBODY))
    clock.advance(29)
    pool.checkin(pool.checkout(ANYBODY))
    assert driver.round_trips == 0
    clock.advance(30)
    pool.checkin(pool.checkout(ANYBODY))
    assert driver.round_trips == 1
    assert pool.stats()["checks"] == 1
    assert len(driver.connections) == 1


def test_a_connection_that_does_not_answer_is_replaced():
    pool, driver, clock = make_pool()
    pool.checkin(pool.checkout(ANYBODY))
    driver.connections[0].answers = False
    clock.advance(60)
    assert pool.checkout(ANYBODY).connection is driver.connections[1]
    check(pool, driver)


def test_an_interrupted_check_frees_the_place():
    pool, driver, clock = make_pool()
    pool.checkin(pool.checkout(ANYBODY))
    driver.ping_error = KeyboardInterrupt()
    clock.advance(60)
    with pytest.raises(KeyboardInterrupt):
        pool.checkout(ANYBODY)
    check(pool, driver)
    assert pool.stats()["discarded"] == {"interrupted": 1}


@pytest.mark.parametrize("error", [DriverError("no"), KeyboardInterrupt()])
def test_a_failed_connect_raises_and_frees_the_place(error):
    pool, driver, _ = make_pool(max_conns=1)
    driver.connect_error = error
    for _ in range(3):
        with pytest.raises(type(error)):
            pool.checkout(ANYBODY)
    assert pool.stats()["size"] == 0
    assert pool.stats()["connect_errors"] == 3
    driver.connect_error = None
    pool.checkin(pool.checkout(ANYBODY))
    check(pool, driver)


def test_an_open_transaction_is_rolled_back(caplog):
    pool, driver, _ = make_pool()
    entry = pool.checkout(Holder("forgetful"))
    entry.connection.transaction = "open"
    pool.checkin(entry)
    assert driver.connections[0].transaction == "idle"
    assert pool.stats()["rollbacks"] == 1
    assert pool.stats()["idle"] == 1
    assert "rolled back" in caplog.text
    assert "/forgetful/" in caplog.text


def test_a_touched_session_is_reset():
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    entry.connection.dirty = True
    pool.checkin(entry)
    assert driver.resets == [driver.connections[0]]
    assert pool.stats()["resets"] == 1
    assert pool.stats()["idle"] == 1


@pytest.mark.parametrize(
    ("state", "reason"), [("busy", "busy"), ("unknown", "dead"), ("closed", "closed")]
)
def test_what_cannot_be_cleaned_is_closed_for_a_reason(state, reason):
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    if state == "closed":
        entry.connection.closed = True
        entry.connection.transaction = "unknown"
    else:
        entry.connection.transaction = state
    pool.checkin(entry)
    check(pool, driver)
    assert pool.stats()["discarded"] == {reason: 1}


def test_a_reset_that_fails_closes_the_connection():
    pool, driver, _ = make_pool()
    driver.reset_error = DriverError("gone")
    entry = pool.checkout(ANYBODY)
    entry.connection.dirty = True
    pool.checkin(entry)
    check(pool, driver)
    assert pool.stats()["discarded"] == {"not clean": 1}


def test_a_connection_that_stays_dirty_is_closed():
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    entry.connection.transaction = "open"
    entry.connection.stays_dirty = True
    pool.checkin(entry)
    check(pool, driver)
    assert pool.stats()["discarded"] == {"not clean": 1}


def test_an_interrupted_reset_frees_the_place_and_is_not_swallowed():
    pool, driver, _ = make_pool()
    driver.reset_error = KeyboardInterrupt()
    entry = pool.checkout(ANYBODY)
    entry.connection.dirty = True
    with pytest.raises(KeyboardInterrupt):
        pool.checkin(entry)
    check(pool, driver)
    assert pool.stats()["size"] == 0


def test_an_entry_given_back_twice_is_a_bug_and_does_no_harm():
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    pool.checkin(entry)
    for give_back in (pool.checkin, lambda entry: pool.discard(entry, "x")):
        with pytest.raises(PoolError, match=r"bug: .* that is idle"):
            give_back(entry)
    check(pool, driver)
    assert pool.stats()["idle"] == 1


def test_discard_closes_for_the_reason_given():
    pool, driver, _ = make_pool()
    pool.discard(pool.checkout(ANYBODY), "closed in atomic()")
    check(pool, driver)
    assert pool.stats()["discarded"] == {"closed in atomic()": 1}


def test_a_connection_past_its_lifetime_is_closed_at_checkin():
    pool, driver, clock = make_pool(max_lifetime=100)
    entry = pool.checkout(ANYBODY)
    clock.advance(101)
    pool.checkin(entry)
    check(pool, driver)
    assert pool.stats()["discarded"] == {"expired": 1}


def test_lifetimes_differ_and_are_at_most_a_tenth_shorter():
    pool, _, clock = make_pool(max_conns=50, max_lifetime=100)
    ends = {pool.checkout(ANYBODY).expires_at - clock.now for _ in range(50)}
    assert len(ends) > 40
    assert min(ends) >= 90
    assert max(ends) <= 100


def test_a_reclaimed_connection_is_counted_logged_and_usable(caplog):
    pool, driver, _ = make_pool(max_conns=1)
    pool.reclaim(pool.checkout(Holder("gone")))
    assert pool.stats()["reclaimed"] == 1
    assert "/gone/" in caplog.text
    pool.checkin(pool.checkout(ANYBODY))
    check(pool, driver)


# --- Waiting -------------------------------------------------------------------------


def test_when_nothing_becomes_free_the_error_says_why():
    pool, driver, clock = make_pool(max_conns=1)
    pool.checkout(Holder("slow"))
    clock.advance(7)
    with pytest.raises(PoolTimeout) as caught:
        pool.checkout(ANYBODY)
    text = str(caught.value)
    assert "no connection within 0.01 s" in text
    assert "1 in use, 0 idle and 0 connecting of at most 1, 0 waiting" in text
    assert "GET /slow/ in thread slow for 7.0 s" in text
    assert "/slow/" not in caught.value.summary
    assert pool.stats()["timeouts"] == 1
    check(pool, driver)


def test_the_error_names_the_longest_holders_and_counts_the_others():
    pool, _, clock = make_pool(max_conns=7)
    for number in range(7):
        pool.checkout(Holder(f"h{number}"))
        clock.advance(1)
    with pytest.raises(PoolTimeout, match=r"/h0/ .* /h4/ .* and 2 more"):
        pool.checkout(ANYBODY)


def test_a_caller_may_bring_its_own_time_out():
    pool, _, _ = make_pool(max_conns=1, timeout=60)
    pool.checkout(ANYBODY)
    with pytest.raises(PoolTimeout, match=r"within 0.02 s"):
        pool.checkout(ANYBODY, timeout=0.02)


def test_above_max_waiting_a_caller_is_refused_at_once():
    pool, _, _ = make_pool(max_conns=1, max_waiting=1, timeout=60)
    entry = pool.checkout(ANYBODY)
    waiting = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    with pytest.raises(TooManyRequests, match=r"MAX_WAITING .1. callers .* held by"):
        pool.checkout(ANYBODY)
    assert pool.stats()["refused"] == 1
    pool.checkin(entry)
    waiting.result()


def test_a_returned_connection_goes_to_the_oldest_waiter():
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


def test_a_newcomer_does_not_overtake_a_waiter():
    pool, _, _ = make_pool(max_conns=1, timeout=60)
    entry = pool.checkout(ANYBODY)
    waiting = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    pool.checkin(entry)
    # Handed over already, whether the waiter woke up or not.
    with pytest.raises(PoolTimeout):
        pool.checkout(ANYBODY, timeout=0.01)
    assert waiting.result() is entry


def test_a_freed_place_goes_to_the_oldest_waiter_who_connects_in_it():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    entry = pool.checkout(ANYBODY)
    waiting = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    pool.discard(entry, "test")
    assert waiting.result().connection is driver.connections[1]
    check(pool, driver)


def test_a_waiter_whose_connect_fails_passes_the_place_on():
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


def test_a_waiter_that_times_out_as_it_is_served_takes_what_it_was_given():
    pool, driver, _ = make_pool(max_conns=1)
    entry = pool.checkout(ANYBODY)
    pool._slots.make_waiter = lambda: ScriptedWaiter(lambda: pool.checkin(entry))
    assert pool.checkout(ANYBODY) is entry
    assert pool.stats()["timeouts"] == 0
    check(pool, driver)


@pytest.mark.parametrize("served", [True, False])
def test_an_interrupted_wait_loses_no_place(served):
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


def test_an_interrupted_wait_for_a_place_frees_the_place():
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


# --- Drain, pause, recycle, resume, close --------------------------------------------


def test_a_drain_closes_idle_connections_now_and_the_others_at_checkin():
    pool, driver, _ = make_pool()
    held, idle = pool.checkout(ANYBODY), pool.checkout(ANYBODY)
    pool.checkin(idle)
    pool.drain()
    assert driver.open == [held.connection]
    assert pool.stats()["stale"] == 1
    assert pool.stats()["state"] == "draining"
    pool.checkin(held)
    assert driver.open == []
    assert pool.stats()["stale"] == 0
    check(pool, driver)


def test_during_a_drain_each_checkout_has_a_connection_for_itself_alone():
    pool, driver, _ = make_pool()
    pool.drain()
    for number in range(3):
        entry = pool.checkout(ANYBODY)
        assert pool.stats()["stale"] == 0
        pool.checkin(entry)
        assert len(driver.connections) == number + 1
        assert driver.open == []
    assert pool.stats()["discarded"] == {"drained": 3}


def test_a_drain_keeps_within_max_conns():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    entry = pool.checkout(ANYBODY)
    pool.drain()
    waiting = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    pool.checkin(entry)
    assert waiting.result().connection is driver.connections[1]
    check(pool, driver)


def test_a_pause_holds_checkouts_in_the_queue_until_resume():
    pool, driver, _ = make_pool(timeout=60)
    pool.checkin(pool.checkout(ANYBODY))
    pool.pause()
    assert driver.open == []
    waiting = [InThread(pool.checkout, ANYBODY) for _ in range(2)]
    until(lambda: pool.stats()["waiting"] == 2)
    assert driver.open == []
    pool.resume()
    for thread in waiting:
        pool.checkin(thread.result())
    check(pool, driver)
    assert pool.stats()["state"] == "running"
    assert pool.stats()["idle"] > 0


def test_a_time_out_in_a_pause_says_that_the_pool_is_paused():
    pool, _, _ = make_pool()
    pool.pause()
    with pytest.raises(PoolTimeout, match="the pool is paused"):
        pool.checkout(ANYBODY)


def test_in_a_pause_every_open_connection_is_waited_for():
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    pool.pause()
    assert pool.stats()["stale"] == 1
    assert pool.holders()[0]["stale"] is True
    pool.checkin(entry)
    assert pool.stats()["stale"] == 0
    assert pool.stats()["discarded"] == {"paused": 1}
    check(pool, driver)


def test_a_recycle_replaces_every_connection_and_goes_on_pooling():
    pool, driver, _ = make_pool()
    held, idle = pool.checkout(ANYBODY), pool.checkout(ANYBODY)
    pool.checkin(idle)
    pool.recycle()
    pool.checkin(held)
    assert driver.open == []
    assert pool.stats()["discarded"] == {"recycled": 2}
    entry = pool.checkout(ANYBODY)
    pool.checkin(entry)
    assert pool.checkout(ANYBODY) is entry
    check(pool, driver)


def test_what_was_held_over_a_drain_is_closed_even_after_resume():
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    pool.drain()
    pool.resume()
    pool.checkin(entry)
    assert driver.open == []
    assert pool.stats()["discarded"] == {"drained": 1}


def test_a_connection_opened_during_the_drain_is_not_waited_for_by_it():
    pool, driver, _ = make_pool()
    driver.on_connect = pool.drain
    pool.checkout(ANYBODY)
    # The place was taken before the drain: that one is waited for.
    assert pool.stats()["stale"] == 1
    driver.on_connect = lambda: None
    pool.checkout(ANYBODY)
    assert pool.stats()["stale"] == 1


def test_a_closed_pool_refuses_and_ends_every_wait():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    entry = pool.checkout(ANYBODY)
    waiting = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    pool.close()
    with pytest.raises(PoolClosed):
        waiting.result()
    with pytest.raises(PoolClosed):
        pool.checkout(ANYBODY)
    pool.checkin(entry)
    assert driver.open == []
    assert pool.stats()["discarded"] == {"pool closed": 1}
    pool.resume()
    assert pool.state == "closed"


def test_a_pool_closed_during_a_connect_keeps_nothing():
    pool, driver, _ = make_pool()
    driver.on_connect = pool.close
    with pytest.raises(PoolClosed):
        pool.checkout(ANYBODY)
    check(pool, driver)
    assert driver.open == []


# --- Maintenance ---------------------------------------------------------------------


def test_maintenance_fills_up_to_min_conns():
    pool, driver, _ = make_pool(min_conns=2, max_conns=3)
    pool.maintain()
    assert pool.stats()["idle"] == 2
    pool.maintain()
    assert len(driver.connections) == 2
    check(pool, driver)


def test_maintenance_survives_a_server_that_is_down(caplog):
    pool, driver, _ = make_pool(min_conns=1)
    driver.connect_error = DriverError("refused\n")
    pool.maintain()
    assert "can't refill: refused" in caplog.text
    driver.connect_error = None
    pool.maintain()
    assert pool.stats()["idle"] == 1
    check(pool, driver)


def test_an_interrupted_refill_frees_the_place():
    pool, driver, _ = make_pool(min_conns=1)
    driver.connect_error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        pool.maintain()
    assert pool.stats()["size"] == 0


def test_a_refill_during_which_the_pool_is_drained_keeps_nothing():
    pool, driver, _ = make_pool(min_conns=1)
    driver.on_connect = pool.drain
    pool.maintain()
    assert driver.open == []
    check(pool, driver)


def test_idle_connections_are_reaped_down_to_min_conns_the_coldest_first():
    pool, driver, clock = make_pool(min_conns=1, max_conns=3, max_idle=600)
    entries = [pool.checkout(ANYBODY) for _ in range(3)]
    for entry in entries:
        pool.checkin(entry)
        clock.advance(1)
    clock.advance(600)
    pool.maintain()
    assert driver.open == [entries[2].connection]
    assert pool.stats()["discarded"] == {"idle": 2}
    check(pool, driver)


def test_a_connection_that_is_not_idle_long_enough_stays():
    pool, driver, clock = make_pool(max_idle=600)
    pool.checkin(pool.checkout(ANYBODY))
    clock.advance(599)
    pool.maintain()
    assert len(driver.open) == 1


def test_maintenance_closes_what_is_too_old_or_dead():
    pool, driver, clock = make_pool(max_conns=3, max_lifetime=100)
    old, dead, good = (pool.checkout(ANYBODY) for _ in range(3))
    for entry in (old, dead, good):
        pool.checkin(entry)
    old.expires_at = clock.now
    dead.connection.alive = False
    pool.maintain()
    assert driver.open == [good.connection]
    assert pool.stats()["discarded"] == {"expired": 1, "dead": 1}
    check(pool, driver)


def test_maintenance_leaves_a_connection_that_was_checked_out_while_it_looked():
    pool, driver, _ = make_pool()
    pool.checkin(pool.checkout(ANYBODY))
    taken = []

    def look(connection):
        taken.append(pool.checkout(ANYBODY))
        return lambda: False

    liveness, driver.liveness = driver.liveness, look
    pool.maintain()
    driver.liveness = liveness
    assert taken[0].connection in driver.open
    pool.checkin(taken[0])
    check(pool, driver)


# --- Reports -------------------------------------------------------------------------


def test_stats_tell_what_was_measured():
    pool, driver, clock = make_pool()
    driver.on_connect = lambda: clock.advance(2)
    entry = pool.checkout(ANYBODY)
    clock.advance(5)
    pool.checkin(entry)
    stats = pool.stats()
    assert stats["alias"] == "default"
    assert stats["database"] == "app"
    assert stats["connect_seconds"]["sum"] == 2
    assert stats["wait_seconds"]["max"] == 2
    assert stats["hold_seconds"]["max"] == 5
    assert stats["hold_seconds"]["count"] == 1
    entry = pool.checkout(ANYBODY)
    stats = pool.stats()
    assert stats["checkouts"] == 2
    assert stats["in_use"] == 1
    pool.checkin(entry)
    stats = pool.stats()
    assert stats["checkouts"] == 2
    assert stats["wait_seconds"]["count"] == 2
    assert sum(stats["wait_seconds"]["buckets"]) == 2


def test_holders_come_the_longest_first():
    pool, _, clock = make_pool()
    pool.checkout(Holder("a"))
    clock.advance(3)
    pool.checkout(Holder("b"))
    clock.advance(1)
    assert [(h["path"], h["seconds"], h["backend_pid"]) for h in pool.holders()] == [
        ("/a/", 4, 1001),
        ("/b/", 1, 1002),
    ]


def test_sizes_are_logged_with_the_alias_first(caplog):
    caplog.set_level(logging.INFO, logger="dbpool_mw.pool")
    pool, _, _ = make_pool()
    pool.discard(pool.checkout(ANYBODY), "test")
    assert caplog.messages == [
        "default: opened a connection (1 of 2)",
        "default: closed a connection: test (0 of 2)",
    ]
