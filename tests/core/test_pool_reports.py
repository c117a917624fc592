"""What a pool reports: figures, holders, and the texts of errors and messages."""

from __future__ import annotations

import pytest

from dbpool_mw.core.errors import PoolClosed, PoolError, PoolTimeout
from dbpool_mw.core.waiter import Waiter
from tests.core.fakes import Clock, Holder, InThread, check, make_pool, until, use

ANYBODY = Holder()


class Described(Holder):
    def __init__(self, **words):
        super().__init__()
        self.words = {"thread": None, "method": None, "path": None, **words}

    def describe(self):
        return self.words


def why(pool):
    with pytest.raises(PoolTimeout) as caught:
        pool.checkout(ANYBODY, timeout=0)
    return str(caught.value)


def test_a_holder_outside_a_request_is_named_by_its_thread():
    pool, _, _ = make_pool(max_conns=1)
    pool.checkout(Described(thread="job-1"))
    assert why(pool).endswith("; held by thread job-1 for 0.0 s")


def test_a_holder_that_describes_nothing_is_named_unknown():
    pool, _, _ = make_pool(max_conns=1)
    pool.checkout(Described())
    assert why(pool).endswith("; held by unknown for 0.0 s")


def test_a_reclaim_without_a_known_holder_is_logged_too(caplog):
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    entry.holder = None
    pool.reclaim(entry)
    assert "from a holder that is gone (unknown)" in caplog.text
    check(pool, driver)


def test_a_rollback_without_a_known_holder_is_logged_too(caplog):
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    entry.holder = None
    entry.connection.transaction = "open"
    pool.checkin(entry)
    assert "left open (unknown)" in caplog.text
    check(pool, driver)


def test_an_entry_handed_to_a_waiter_is_the_waiters_from_that_moment():
    pool, _, _ = make_pool(max_conns=1)
    entry = pool.checkout(ANYBODY)
    seen = []

    class CheckinWaiter(Waiter):
        def wait(self, seconds):
            pool.checkin(entry)
            stats = pool.stats()
            seen.append((stats["in_use"], stats["checkouts"]))
            seen.extend(holder["path"] for holder in pool.holders())

    pool._slots.make_waiter = CheckinWaiter
    pool.checkout(Holder("next"))
    assert seen == [(1, 1), "/next/"]
    assert pool.stats()["checkouts"] == 2
    assert pool.stats()["checkouts"] == 2


def test_while_a_connection_is_opened_its_slot_is_connecting():
    pool, driver, _ = make_pool(max_conns=3)
    seen = []

    def on_connect():
        stats = pool.stats()
        seen.append((stats["size"], stats["connecting"], stats["in_use"]))

    driver.on_connect = on_connect
    pool.checkout(ANYBODY)
    pool.checkout(ANYBODY)
    assert seen == [(1, 1, 0), (2, 1, 1)]


def test_changing_a_report_does_not_change_the_pool():
    pool, _, _ = make_pool()
    pool.discard(pool.checkout(ANYBODY), "test")
    stats = pool.stats()
    stats["discarded"]["test"] = 99
    stats["hold_seconds"]["buckets"][0] = 99
    assert pool.stats()["discarded"] == {"test": 1}
    assert pool.stats()["hold_seconds"]["count"] == 1


def test_a_checkout_that_times_out_is_counted_as_a_wait_only():
    pool, _, _ = make_pool(max_conns=1)
    entry = pool.checkout(ANYBODY)
    why(pool)
    pool.checkin(entry)
    assert pool.stats()["checkouts"] == 1
    assert pool.stats()["wait_seconds"]["count"] == 1
    assert pool.stats()["waits"] == 1


# --- Figures -------------------------------------------------------------------------


def test_stats_have_the_alias_the_database_and_every_duration():
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


def test_every_event_is_counted_each_time():
    pool, driver, clock = make_pool(max_conns=1, check_after_idle=10, max_hold=60)
    for number in range(1, 4):
        use(pool, dirty=True, transaction="open")
        clock.advance(11)
        pool.reclaim(pool.checkout(Holder()))
        entry = pool.checkout(Holder())
        clock.advance(61)
        pool.maintain()
        pool.checkin(entry)
        stats = pool.stats()
        assert stats["rollbacks"] == stats["resets"] == number
        assert stats["checks"] == stats["reclaimed"] == stats["overdue"] == number
        assert stats["discarded"] == {"held too long": number}
    check(pool, driver)


class Ticking(Clock):
    """A clock that advances by a second at each call."""

    def __call__(self):
        self.now += 1
        return self.now


def test_a_checkout_of_an_idle_connection_counts_as_a_wait_of_zero():
    pool, _, _ = make_pool(check_after_idle=600)
    pool._clock = Ticking()
    use(pool)
    use(pool)
    use(pool)
    waits = pool.stats()["wait_seconds"]
    assert waits["count"] == 3
    assert waits["sum"] == waits["max"] > 0
    # The first checkout connected; the other two found the connection idle.
    assert waits["buckets"][0] == 2
    assert sum(waits["buckets"]) == 3


def test_waits_of_zero_and_of_a_microsecond_are_in_the_first_bucket():
    pool, _, _ = make_pool(max_conns=1, timeout=20)
    use(pool)
    entry = pool.checkout(Holder())
    waiting = InThread(pool.checkout, Holder())
    until(lambda: pool.stats()["waiting"] == 1)
    # A wait that takes hardly any time by this clock.
    pool._clock.advance(1e-6)
    pool.checkin(entry)
    pool.checkin(waiting.result())
    assert pool.stats()["wait_seconds"]["buckets"][0] == 3


def test_a_connection_being_closed_counts_as_in_use_until_its_slot_is_free():
    pool, driver, clock = make_pool(max_conns=2, max_idle=5)
    seen = []
    driver.on_close = lambda connection: seen.append(
        {key: pool.stats()[key] for key in ("size", "idle", "in_use", "connecting")}
    )
    use(pool)
    clock.advance(6)
    pool.maintain()
    use(pool)
    driver.connections[-1].alive = False
    use(pool)
    pool.discard(pool.checkout(Holder()), "on purpose")
    assert seen == [{"size": 1, "idle": 0, "in_use": 1, "connecting": 0}] * 3
    check(pool, driver)


def test_a_connection_closed_after_an_interruption_is_in_use_until_then():
    pool, driver, _ = make_pool(max_conns=1, min_conns=1, check_after_idle=0)
    seen = []
    driver.on_close = lambda connection: seen.append(pool.stats()["in_use"])
    driver.reset_error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        use(pool, dirty=True)
    driver.reset_error = None
    use(pool)
    driver.ping_error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        use(pool)
    assert pool.stats()["discarded"] == {"interrupted": 2}
    # A drain during a refill: the refill closes what it opened.
    driver.on_connect = pool.drain
    pool.maintain()
    assert pool.stats()["discarded"] == {"interrupted": 2, "drained": 1}
    assert seen == [1, 1, 1]
    check(pool, driver)


def test_the_longest_holder_comes_first():
    pool, _, clock = make_pool()
    pool.checkout(Holder("a"))
    clock.advance(3)
    pool.checkout(Holder("b"))
    clock.advance(1)
    assert [(h["path"], h["seconds"], h["backend_pid"]) for h in pool.holders()] == [
        ("/a/", 4, 1001),
        ("/b/", 1, 1002),
    ]


# --- Errors --------------------------------------------------------------------------


def test_a_timeout_says_how_many_connections_there_are_and_who_holds_them():
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


def test_a_timeout_in_a_pause_has_counts_state_and_holders():
    pool, _, clock = make_pool(max_conns=1, timeout=0.001)
    pool.checkout(Holder("busy"))
    pool.pause()
    clock.advance(2)
    with pytest.raises(PoolTimeout) as caught:
        pool.checkout(Holder())
    assert str(caught.value) == (
        "pool 'default': no connection within 0.001 s; 1 in use, 0 idle and 0 "
        "connecting of at most 1, 0 waiting, the pool is paused; held by GET /busy/ in "
        "thread busy for 2.0 s"
    )
    (holder,) = pool.holders()
    assert holder["alias"] == "default"
    assert holder["backend_pid"] == 1001


@pytest.mark.parametrize(("number", "more"), [(5, ""), (6, " and 1 more")])
def test_a_timeout_names_five_holders_and_counts_the_others(number, more):
    pool, _, _ = make_pool(max_conns=number, timeout=0.001)
    for name in range(number):
        pool.checkout(Holder(str(name)))
    with pytest.raises(PoolTimeout) as caught:
        pool.checkout(Holder())
    named = str(caught.value).partition("held by ")[2]
    assert named.count(", GET") == 4
    assert named.endswith("for 0.0 s" + more)


def test_a_timeout_names_the_longest_holders():
    pool, _, clock = make_pool(max_conns=7)
    for number in range(7):
        pool.checkout(Holder(f"h{number}"))
        clock.advance(1)
    with pytest.raises(PoolTimeout, match=r"/h0/ .* /h4/ .* and 2 more"):
        pool.checkout(ANYBODY)


def test_every_error_has_the_alias():
    pool, driver, _ = make_pool(max_conns=1, max_waiting=1, timeout=0.001)
    entry = pool.checkout(Holder())
    with pytest.raises(PoolTimeout) as timeout:
        pool.checkout(Holder())
    pool.checkin(entry)
    with pytest.raises(PoolError) as twice:
        pool.checkin(entry)
    pool.recycle()
    driver.on_connect = pool.close
    with pytest.raises(PoolClosed) as meanwhile:
        pool.checkout(Holder())
    with pytest.raises(PoolClosed) as closed:
        pool.checkout(Holder())
    for caught in (timeout, twice, meanwhile, closed):
        assert caught.value.alias == "default"
        assert "pool 'default'" in str(caught.value)
