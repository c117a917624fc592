"""Checkouts that are cancelled, as by a client that hangs up while it waits."""

from __future__ import annotations

import pytest

from dbpool_mw.core.errors import ConnectFailed, PoolError
from dbpool_mw.core.waiter import Waiter
from tests.core.fakes import Holder, InThread, check, make_pool, until


def waits(pool, holder):
    """Check out in a thread, and return the thread when it waits in the queue."""
    before = pool.stats()["waiting"]
    thread = InThread(pool.checkout, holder)
    until(lambda: pool.stats()["waiting"] == before + 1)
    return thread


def is_cancelled(call):
    with pytest.raises(PoolError, match="'default': the checkout was cancelled"):
        call()
    return True


def test_a_wait_that_is_cancelled_ends_at_once_and_the_others_keep_their_order():
    pool, driver, _ = make_pool(max_conns=1, max_waiting=3, timeout=60)
    entry = pool.checkout(Holder())
    gone, staying = Holder(), [Holder(), Holder()]
    threads = [waits(pool, holder) for holder in (staying[0], gone, staying[1])]
    gone.cancelled = True
    pool.cancel_waits()
    assert is_cancelled(threads[1].result)
    assert pool.stats()["waiting"] == 2
    # Nor does it count for MAX_WAITING any more.
    last = waits(pool, Holder())
    for thread in (threads[0], threads[2], last):
        pool.checkin(entry)
        entry = thread.result()
    pool.checkin(entry)
    stats = pool.stats()
    assert stats["cancelled"] == 1
    assert stats["checkouts"] == stats["hold_seconds"]["count"] == 4
    assert stats["waits"] == 4
    assert stats["timeouts"] == stats["refused"] == 0
    check(pool, driver)


def test_a_checkout_that_was_cancelled_before_it_queued_neither_queues_nor_connects():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    holder = Holder()
    holder.cancelled = True
    pool.cancel_waits()
    assert is_cancelled(lambda: pool.checkout(holder))
    assert driver.connections == []
    pool.checkout(Holder())
    assert is_cancelled(lambda: pool.checkout(holder))
    assert pool.stats()["waits"] == 0
    assert pool.stats()["cancelled"] == 2


def test_a_connection_opened_for_a_checkout_cancelled_meanwhile_stays_in_the_pool():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    holder, waiting = Holder(), []

    def cancel():
        waiting.append(waits(pool, Holder()))
        holder.cancelled = True
        pool.cancel_waits()

    driver.on_connect = cancel
    assert is_cancelled(lambda: pool.checkout(holder))
    # The next in the queue got it.
    pool.checkin(waiting[0].result())
    assert pool.stats()["opened"] == pool.stats()["idle"] == 1
    assert pool.stats()["checkouts"] == pool.stats()["cancelled"] == 1
    check(pool, driver)


def test_a_connection_opened_for_nobody_in_a_drain_is_closed():
    pool, driver, _ = make_pool(timeout=60)
    holder = Holder()

    def cancel():
        holder.cancelled = True
        pool.drain()

    driver.on_connect = cancel
    assert is_cancelled(lambda: pool.checkout(holder))
    assert pool.stats()["discarded"] == {"drained": 1}
    check(pool, driver)


def test_a_checkout_whose_connect_failed_does_not_queue_after_it_was_cancelled():
    pool, driver, _ = make_pool(timeout=60)
    pool.checkout(Holder())
    holder = Holder()

    def cancel():
        holder.cancelled = True
        pool.cancel_waits()

    driver.on_connect = cancel
    driver.connect_error = ConnectFailed("default", "no", "down")
    assert is_cancelled(lambda: pool.checkout(holder))
    assert pool.stats()["waiting"] == pool.stats()["connecting"] == 0
    check(pool, driver)


def test_a_connection_handed_to_a_waiter_that_is_cancelled_goes_to_the_next():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    entry = pool.checkout(Holder())
    gone = Holder()

    class TooLate(Waiter):
        def wake(self):
            gone.cancelled = True
            super().wake()

    pool._slots.make_waiter = TooLate
    threads = [waits(pool, gone)]
    pool._slots.make_waiter = Waiter
    threads.append(waits(pool, Holder()))
    pool.checkin(entry)
    assert is_cancelled(threads[0].result)
    pool.checkin(threads[1].result())
    assert pool.stats()["cancelled"] == 1
    check(pool, driver)


def test_when_the_one_who_sees_to_the_next_connect_is_cancelled_another_does():
    pool, driver, clock = make_pool(max_conns=2, timeout=60)
    pool.checkout(Holder())
    driver.connect_error = ConnectFailed("default", "no", "down")
    gone, staying = Holder(), Holder()
    threads = [waits(pool, gone), waits(pool, staying)]
    driver.connect_error = None
    clock.advance(40)
    gone.cancelled = True
    pool.cancel_waits()
    assert is_cancelled(threads[0].result)
    assert threads[1].result().connection is driver.connections[1]


def test_a_finaliser_that_cancels_while_its_thread_has_the_lock_is_put_off():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    entry = pool.checkout(Holder())
    gone = Holder()
    thread = waits(pool, gone)

    def finalise(*_):
        gone.cancelled = True
        pool.cancel_waits()
        assert len(pool._slots.waiters) == 1
        return False

    pool._slots.is_stale = finalise
    pool.stats()
    del pool._slots.is_stale
    assert is_cancelled(thread.result)
    pool.checkin(entry)
    check(pool, driver)
