"""Rounds of maintenance, and callers that use the pool meanwhile."""

from __future__ import annotations

import pytest

from tests.core.fakes import DriverError, Holder, InThread, check, make_pool, until

ANYBODY = Holder()


def test_maintenance_opens_connections_up_to_min_conns():
    pool, driver, _ = make_pool(min_conns=2, max_conns=3)
    pool.maintain()
    assert pool.stats()["idle"] == 2
    pool.maintain()
    assert len(driver.connections) == 2
    check(pool, driver)


@pytest.mark.parametrize("error", [DriverError("refused\n"), ValueError(" refused ")])
def test_a_refill_that_fails_is_logged_and_tried_again(error, caplog):
    pool, driver, _ = make_pool(min_conns=1)
    driver.connect_error = error
    pool.maintain()
    assert caplog.messages == ["default: can't refill: refused"]
    driver.connect_error = None
    pool.maintain()
    assert pool.stats()["idle"] == 1
    check(pool, driver)


def test_an_interrupted_refill_frees_the_slot():
    pool, driver, _ = make_pool(min_conns=1)
    driver.connect_error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        pool.maintain()
    assert pool.stats()["size"] == 0


def test_a_refill_closes_its_connection_if_the_pool_was_drained_meanwhile():
    pool, driver, _ = make_pool(min_conns=1)
    driver.on_connect = pool.drain
    pool.maintain()
    assert driver.open == []
    check(pool, driver)


def test_idle_connections_are_reaped_down_to_min_conns_the_longest_idle_first():
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


def test_a_connection_is_not_reaped_before_max_idle():
    pool, driver, clock = make_pool(max_idle=600)
    pool.checkin(pool.checkout(ANYBODY))
    clock.advance(599)
    pool.maintain()
    assert len(driver.open) == 1


def test_maintenance_closes_expired_and_dead_connections():
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


def test_maintenance_keeps_healthy_connections_and_their_order():
    pool, driver, clock = make_pool(max_conns=3)
    first, second = pool.checkout(Holder()), pool.checkout(Holder())
    pool.checkin(first)
    pool.checkin(second)
    for _ in range(3):
        clock.advance(1)
        pool.maintain()
    assert pool.checkout(Holder()) is second
    assert pool.checkout(Holder()) is first
    assert pool.stats()["opened"] == 2
    check(pool, driver)


def test_maintenance_keeps_a_connection_checked_out_while_it_looks():
    pool, driver, _ = make_pool()
    pool.checkin(pool.checkout(ANYBODY))
    checked_out = []

    def look(connection):
        checked_out.append(pool.checkout(ANYBODY))
        return True

    driver.has_ended = look
    pool.maintain()
    assert checked_out[0].connection in driver.open
    pool.checkin(checked_out[0])
    check(pool, driver)


def test_a_connection_used_after_it_was_found_dead_is_kept():
    pool, driver, clock = make_pool()
    pool.checkin(pool.checkout(ANYBODY))

    def look(connection):
        entry = pool.checkout(ANYBODY)
        clock.advance(1)
        pool.checkin(entry)
        return True

    driver.has_ended = look
    pool.maintain()
    assert len(driver.open) == 1
    assert pool.stats()["idle"] == 1
    check(pool, driver)


def test_a_reaped_connection_is_never_checked_out_again():
    pool, driver, clock = make_pool(max_idle=600)
    entry = pool.checkout(ANYBODY)
    pool.checkin(entry)
    # Exactly at the limit.
    clock.advance(600)
    pool.maintain()
    assert driver.open == []
    assert pool.checkout(ANYBODY) is not entry
    # No checkout tried it: that would have counted it as dead.
    assert pool.stats()["discarded"] == {"idle": 1}
    check(pool, driver)


def test_a_connection_being_reaped_keeps_its_slot_and_has_no_holder():
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


def test_a_slot_freed_by_maintenance_goes_to_the_first_waiter():
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


def test_a_refill_serves_a_caller_that_queued_up_meanwhile():
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
    # One died: MIN_CONNS needs the other two, however long they were idle.
    assert pool.stats()["discarded"] == {"dead": 1}
    assert len(driver.connections) == 3
    check(pool, driver)


def test_a_pool_that_is_closed_paused_or_drained_is_not_refilled():
    for verb in ("close", "pause", "drain"):
        pool, driver, _ = make_pool(min_conns=1)
        getattr(pool, verb)()
        pool.maintain()
        assert driver.connections == []


def no_thread(*arguments):
    raise RuntimeError("can't start new thread")


# Started in one of gevent's own threads, a "thread" is a greenlet that never runs.
@pytest.mark.parametrize("start", [no_thread, lambda *arguments: None])
def test_where_no_thread_starts_maintenance_reclaims(monkeypatch, start):
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


def test_reclaim_soon_reclaims_in_another_thread_without_maintenance():
    pool, driver, _ = make_pool()
    pool.reclaim_soon(pool.checkout(ANYBODY))
    until(lambda: pool.stats()["idle"] == 1)
    assert pool.stats()["reclaimed"] == 1
    check(pool, driver)
