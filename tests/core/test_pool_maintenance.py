"""One round of maintenance, and who comes across it."""

from __future__ import annotations

import pytest

from tests.core.fakes import Holder, InThread, check, make_pool, until

ANYBODY = Holder()


def test_what_was_used_between_the_look_and_the_decision_stays():
    pool, driver, clock = make_pool()
    pool.checkin(pool.checkout(ANYBODY))
    liveness = driver.liveness

    def look(connection):
        entry = pool.checkout(ANYBODY)
        clock.advance(1)
        pool.checkin(entry)
        return lambda: False

    driver.liveness = look
    pool.maintain()
    driver.liveness = liveness
    assert len(driver.open) == 1
    assert pool.stats()["idle"] == 1
    check(pool, driver)


def test_what_was_reaped_is_never_given_out():
    pool, driver, clock = make_pool(max_idle=600)
    entry = pool.checkout(ANYBODY)
    pool.checkin(entry)
    # To the second.
    clock.advance(600)
    pool.maintain()
    assert driver.open == []
    assert pool.checkout(ANYBODY) is not entry
    # It was not even looked at: it would count as dead.
    assert pool.stats()["discarded"] == {"idle": 1}
    check(pool, driver)


def test_what_is_being_reaped_takes_its_place_and_is_nobodys():
    pool, driver, clock = make_pool(max_conns=1, max_idle=600)
    pool.checkin(pool.checkout(ANYBODY))
    clock.advance(601)
    seen = []

    def on_close(connection):
        stats = pool.stats()
        seen.append((stats["idle"], stats["in_use"], stats["size"], pool.holders()))

    driver.on_close = on_close
    pool.maintain()
    assert seen == [(0, 1, 1, [])]
    check(pool, driver)


def test_a_place_freed_by_maintenance_goes_to_whoever_waits_for_it():
    pool, driver, clock = make_pool(max_conns=1, max_idle=600, timeout=60)
    pool.checkin(pool.checkout(ANYBODY))
    clock.advance(601)
    waiting = []

    def on_close(connection):
        waiting.append(InThread(pool.checkout, ANYBODY))
        until(lambda: pool.stats()["waiting"] == 1)

    driver.on_close = on_close
    pool.maintain()
    assert waiting[0].result().connection is driver.connections[1]
    check(pool, driver)


def test_a_refill_that_comes_late_serves_the_waiter_that_came_meanwhile():
    pool, driver, _ = make_pool(min_conns=1, max_conns=1, timeout=60)
    waiting = []

    def on_connect():
        waiting.append(InThread(pool.checkout, ANYBODY))
        until(lambda: pool.stats()["waiting"] == 1)

    driver.on_connect = on_connect
    pool.maintain()
    assert waiting[0].result().connection is driver.connections[0]
    assert len(driver.connections) == 1
    check(pool, driver)


def test_dead_connections_do_not_count_towards_min_conns():
    pool, driver, clock = make_pool(min_conns=2, max_conns=3, max_idle=600)
    entries = [pool.checkout(ANYBODY) for _ in range(3)]
    for entry in entries:
        pool.checkin(entry)
    entries[0].connection.alive = False
    clock.advance(601)
    pool.maintain()
    # One died, so the other two are needed however long they slept.
    assert pool.stats()["discarded"] == {"dead": 1}
    assert len(driver.connections) == 3
    check(pool, driver)


def test_a_closed_a_paused_and_a_drained_pool_are_not_refilled():
    for turn in ("close", "pause", "drain"):
        pool, driver, _ = make_pool(min_conns=1)
        getattr(pool, turn)()
        pool.maintain()
        assert driver.connections == []


def no_thread(*arguments):
    raise RuntimeError("can't start new thread")


# A greenlet that is started in a thread of gevent's own never runs.
@pytest.mark.parametrize("start", [no_thread, lambda *arguments: None])
def test_what_was_lost_where_no_thread_starts_is_reclaimed(monkeypatch, start):
    pool, driver, _ = make_pool(max_conns=2)
    entries = [pool.checkout(ANYBODY) for _ in range(2)]
    monkeypatch.setattr("_thread.start_new_thread", start)
    for entry in entries:
        pool.reclaim_soon(entry)
    monkeypatch.undo()
    pool.maintain()
    stats = pool.stats()
    assert (stats["reclaimed"], stats["idle"]) == (2, 2)
    pool.maintain()
    assert pool.stats()["reclaimed"] == 2
    check(pool, driver)


def test_what_was_lost_is_reclaimed_at_once_where_one_does():
    pool, driver, _ = make_pool()
    pool.reclaim_soon(pool.checkout(ANYBODY))
    until(lambda: pool.stats()["idle"] == 1)
    assert pool.stats()["reclaimed"] == 1
    check(pool, driver)
