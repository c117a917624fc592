"""Drain, pause, recycle, resume and close, while callers hold and wait."""

from __future__ import annotations

import pytest

from dbpool_mw.core.errors import PoolClosed, PoolTimeout
from tests.core.fakes import Holder, InThread, check, make_pool, until, use

ANYBODY = Holder()


def waiting_callers(pool, number):
    """Start callers that queue up one after another; return their threads."""
    before = pool.stats()["waiting"]
    threads = []
    for count in range(1, number + 1):
        threads.append(InThread(pool.checkout, ANYBODY))
        until(lambda count=count: pool.stats()["waiting"] == before + count)
    return threads


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


def test_in_a_drain_each_checkout_opens_a_connection_that_its_checkin_closes():
    pool, driver, _ = make_pool()
    pool.drain()
    for number in range(3):
        entry = pool.checkout(ANYBODY)
        assert pool.stats()["stale"] == 0
        pool.checkin(entry)
        assert len(driver.connections) == number + 1
        assert driver.open == []
    assert pool.stats()["discarded"] == {"drained": 3}


def test_a_drain_never_opens_more_than_max_conns():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    entry = pool.checkout(ANYBODY)
    pool.drain()
    waiting = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    pool.checkin(entry)
    assert waiting.result().connection is driver.connections[1]
    check(pool, driver)


def test_in_a_pause_checkouts_wait_in_the_queue_until_resume():
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


def test_a_timeout_in_a_pause_says_that_the_pool_is_paused():
    pool, _, _ = make_pool()
    pool.pause()
    with pytest.raises(PoolTimeout, match="the pool is paused"):
        pool.checkout(ANYBODY)


def test_in_a_pause_every_open_connection_is_stale_until_it_is_closed():
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


def test_a_connection_held_during_a_drain_is_closed_even_after_resume():
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    pool.drain()
    pool.resume()
    pool.checkin(entry)
    assert driver.open == []
    assert pool.stats()["discarded"] == {"drained": 1}


def test_only_slots_taken_before_a_drain_are_stale():
    pool, driver, _ = make_pool()
    driver.on_connect = pool.drain
    pool.checkout(ANYBODY)
    # The first slot was taken before the drain, the second one after it.
    assert pool.stats()["stale"] == 1
    driver.on_connect = lambda: None
    pool.checkout(ANYBODY)
    assert pool.stats()["stale"] == 1


def test_a_closed_pool_ends_every_wait_and_refuses_checkouts_for_good():
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


def test_a_pool_closed_during_a_connect_closes_what_was_opened():
    pool, driver, _ = make_pool()
    driver.on_connect = pool.close
    with pytest.raises(PoolClosed):
        pool.checkout(ANYBODY)
    check(pool, driver)
    assert driver.open == []


@pytest.mark.parametrize(
    ("verb", "reason"),
    [
        ("drain", "drained"),
        ("pause", "paused"),
        ("recycle", "recycled"),
        ("close", "pool closed"),
    ],
)
def test_each_verb_is_logged_and_gives_its_reason_to_closes(verb, reason, caplog):
    caplog.set_level("INFO")
    pool, driver, _ = make_pool()
    use(pool)
    caplog.clear()
    getattr(pool, verb)()
    assert pool.stats()["discarded"] == {reason: 1}
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        f"default: {reason}",
        f"default: closed a connection: {reason} (0 of 2)",
    ]
    check(pool, driver)


def test_a_resume_is_logged(caplog):
    caplog.set_level("INFO")
    pool, _, _ = make_pool()
    pool.pause()
    caplog.clear()
    pool.resume()
    assert [record.getMessage() for record in caplog.records] == ["default: resumed"]


def test_a_resume_serves_as_many_waiters_as_there_are_slots():
    pool, driver, _ = make_pool(max_conns=2, timeout=60)
    pool.pause()
    first, second, third = waiting_callers(pool, 3)
    pool.resume()
    # Neither checked its connection in: the resume granted both slots.
    entries = [first.result(), second.result()]
    assert pool.stats()["waiting"] == 1
    assert len(driver.open) == 2
    pool.checkin(entries[0])
    assert third.result() is entries[0]
    check(pool, driver)


@pytest.mark.parametrize("verb", ["drain", "recycle"])
def test_a_drain_or_a_recycle_ends_a_pause_and_serves_the_waiters(verb):
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    pool.pause()
    (waiting,) = waiting_callers(pool, 1)
    getattr(pool, verb)()
    assert waiting.result().connection in driver.open
    check(pool, driver)


def test_freed_slots_go_to_waiters_in_their_order():
    pool, driver, _ = make_pool(max_conns=2, timeout=60)
    one, two = pool.checkout(ANYBODY), pool.checkout(ANYBODY)
    first, second, third = waiting_callers(pool, 3)
    pool.discard(one, "test")
    assert first.result().connection is driver.connections[2]
    assert pool.stats()["waiting"] == 2
    pool.discard(two, "test")
    assert second.result().connection is driver.connections[3]
    assert third.is_alive()
    pool.close()
    with pytest.raises(PoolClosed):
        third.result()


def test_a_close_ends_every_wait_with_an_error_that_has_the_alias():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    entry = pool.checkout(ANYBODY)
    threads = waiting_callers(pool, 3)
    pool.close()
    for thread in threads:
        with pytest.raises(PoolClosed, match="'default' was closed") as caught:
            thread.result()
        assert caught.value.alias == "default"
    assert pool.stats()["waiting"] == 0
    assert pool.stats()["timeouts"] == 0
    pool.checkin(entry)
    check(pool, driver)


def test_in_a_pause_a_freed_slot_goes_to_no_waiter():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    entry = pool.checkout(ANYBODY)
    (waiting,) = waiting_callers(pool, 1)
    pool.pause()
    pool.checkin(entry)
    assert waiting.is_alive()
    assert pool.stats()["waiting"] == 1
    assert driver.open == []
    pool.resume()
    assert waiting.result().connection is driver.connections[1]
    check(pool, driver)


def test_a_drained_connection_is_in_use_and_stale_while_it_is_closed():
    pool, driver, _ = make_pool()
    pool.checkin(pool.checkout(ANYBODY))
    seen = []

    def on_close(connection):
        stats = pool.stats()
        seen.append((stats["idle"], stats["in_use"], stats["stale"], stats["size"]))

    driver.on_close = on_close
    pool.drain()
    assert seen == [(0, 1, 1, 1)]
    check(pool, driver)


def test_in_a_pause_a_dead_connection_is_not_replaced_and_its_caller_waits():
    pool, driver, _ = make_pool(timeout=20)
    entry = pool.checkout(ANYBODY)
    pool.checkin(entry)
    entry.connection.alive = False
    driver.on_close = lambda connection: pool.pause()
    finder = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    assert driver.open == []
    pool.resume()
    pool.checkin(finder.result())
    assert pool.stats()["discarded"] == {"dead": 1}
    check(pool, driver)


def test_a_recycle_after_a_drain_goes_on_pooling():
    pool, driver, _ = make_pool()
    pool.drain()
    held = pool.checkout(ANYBODY)
    pool.recycle()
    assert pool.state == "running"
    assert pool.stats()["stale"] == 1
    pool.checkin(held)
    pool.checkin(pool.checkout(ANYBODY))
    assert pool.stats()["idle"] == 1
    assert pool.stats()["discarded"] == {"recycled": 1}
    check(pool, driver)


class HoldsAnother(Holder):
    def holds_another(self):
        return True


def test_a_holder_of_another_pools_connection_bypasses_a_pause():
    pool, driver, _ = make_pool(max_conns=2, timeout=0.01)
    pool.pause()
    bypassing = [pool.checkout(HoldsAnother()) for _ in range(2)]
    # At most MAX_CONNS of them, and no other caller.
    for holder in (HoldsAnother(), ANYBODY):
        with pytest.raises(PoolTimeout):
            pool.checkout(holder)
    assert pool.stats()["stale"] == 2
    for entry in bypassing:
        pool.checkin(entry)
    assert pool.stats()["discarded"] == {"paused": 2}
    check(pool, driver)
    pool.close()
    with pytest.raises(PoolClosed):
        pool.checkout(HoldsAnother())


def test_a_waiter_that_holds_another_pools_connection_bypasses_a_later_pause():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    held = pool.checkout(ANYBODY)
    (waiting,) = waiting_callers(pool, 1)
    bypassing = InThread(pool.checkout, HoldsAnother())
    until(lambda: pool.stats()["waiting"] == 2)
    pool.pause()
    pool.checkin(held)
    pool.checkin(bypassing.result())
    assert pool.stats()["discarded"] == {"paused": 2}
    assert pool.stats()["waiting"] == 1
    pool.resume()
    pool.checkin(waiting.result())
    check(pool, driver)


@pytest.mark.parametrize("verb", ["drain", "pause"])
def test_a_failover_replaces_connections_and_ends_no_order(verb):
    pool, driver, _ = make_pool()
    connection = use(pool)
    pool.fail_over()
    assert connection.closed
    assert use(pool) is not connection
    getattr(pool, verb)()
    state, stats = pool.state, pool.stats()
    pool.fail_over()
    assert pool.state == state
    assert pool.stats() == stats
    assert stats["discarded"] == {"failed over": 1, state.replace("ing", "ed"): 1}
    check(pool, driver)


def test_a_connection_of_before_a_failover_is_not_kept_when_a_drain_ends():
    pool, driver, _ = make_pool()
    pool.drain()
    entry = pool.checkout(Holder())
    pool.fail_over()
    pool.resume()
    pool.checkin(entry)
    assert entry.connection.closed
    assert pool.stats()["discarded"] == {"failed over": 1}
    check(pool, driver)
