"""Turning a pool while callers wait and connections are on their way."""

from __future__ import annotations

import pytest

from dbpool_mw.core.errors import PoolClosed, PoolTimeout
from tests.core.fakes import Holder, InThread, check, make_pool, until

ANYBODY = Holder()


def waiting_callers(pool, number):
    """Start callers that wait, one after another."""
    before = pool.stats()["waiting"]
    threads = []
    for count in range(1, number + 1):
        threads.append(InThread(pool.checkout, ANYBODY))
        until(lambda count=count: pool.stats()["waiting"] == before + count)
    return threads


def test_a_resume_serves_as_many_waiters_as_there_are_places():
    pool, driver, _ = make_pool(max_conns=2, timeout=60)
    pool.pause()
    first, second, third = waiting_callers(pool, 3)
    pool.resume()
    # Neither gives its connection back: both places were granted by the resume.
    entries = [first.result(), second.result()]
    assert pool.stats()["waiting"] == 1
    assert len(driver.open) == 2
    pool.checkin(entries[0])
    assert third.result() is entries[0]
    check(pool, driver)


@pytest.mark.parametrize("turn", ["drain", "recycle"])
def test_a_drain_or_a_recycle_ends_a_pause_and_serves_the_waiters(turn):
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    pool.pause()
    (waiting,) = waiting_callers(pool, 1)
    getattr(pool, turn)()
    assert waiting.result().connection in driver.open
    check(pool, driver)


def test_places_that_become_free_go_to_waiters_in_their_order():
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


def test_a_close_ends_the_wait_of_everybody():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    entry = pool.checkout(ANYBODY)
    threads = waiting_callers(pool, 3)
    pool.close()
    for thread in threads:
        with pytest.raises(PoolClosed, match="was closed"):
            thread.result()
    assert pool.stats()["waiting"] == 0
    assert pool.stats()["timeouts"] == 0
    pool.checkin(entry)
    check(pool, driver)


def test_a_place_that_a_paused_pool_gets_back_goes_to_nobody():
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


def test_what_is_drained_is_not_idle_any_more_while_it_is_closed():
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


def test_one_that_died_is_not_replaced_in_a_pause_its_finder_waits():
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


class InTheMiddle(Holder):
    def holds_another(self):
        return True


def test_a_pause_lets_those_pass_who_hold_a_connection_of_another_pool():
    pool, driver, _ = make_pool(max_conns=2, timeout=0.01)
    pool.pause()
    passing = [pool.checkout(InTheMiddle()) for _ in range(2)]
    # Never more than there are places, and nobody else.
    for holder in (InTheMiddle(), ANYBODY):
        with pytest.raises(PoolTimeout):
            pool.checkout(holder)
    assert pool.stats()["stale"] == 2
    for entry in passing:
        pool.checkin(entry)
    assert pool.stats()["discarded"] == {"paused": 2}
    check(pool, driver)
    pool.close()
    with pytest.raises(PoolClosed):
        pool.checkout(InTheMiddle())


def test_in_a_pause_those_pass_who_waited_before_it_and_hold_another():
    pool, driver, _ = make_pool(max_conns=1, timeout=60)
    held = pool.checkout(ANYBODY)
    (waiting,) = waiting_callers(pool, 1)
    passing = InThread(pool.checkout, InTheMiddle())
    until(lambda: pool.stats()["waiting"] == 2)
    pool.pause()
    pool.checkin(held)
    pool.checkin(passing.result())
    assert pool.stats()["discarded"] == {"paused": 2}
    assert pool.stats()["waiting"] == 1
    pool.resume()
    pool.checkin(waiting.result())
    check(pool, driver)
