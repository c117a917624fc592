"""What only shows on a close look: counts of more than one, moments in between."""

from __future__ import annotations

import random

import pytest

from dbpool_mw.core.errors import ConnectFailed, PoolClosed, PoolError, PoolTimeout
from dbpool_mw.core.waiter import Waiter
from tests.core.fakes import Clock, Holder, InThread, check, make_pool, until


def use(pool, **state):
    """Check a connection out, leave it in a state, and check it in."""
    holder = Holder()
    entry = pool.checkout(holder)
    for name, value in state.items():
        setattr(entry.connection, name, value)
    pool.checkin(entry)
    return holder


def test_each_time_counts():
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


def test_a_connection_handed_over_is_not_asked_whether_it_lives():
    pool, driver, _ = make_pool(max_conns=1, timeout=20)
    entry = pool.checkout(Holder())
    waiting = InThread(pool.checkout, Holder())
    until(lambda: pool.stats()["waiting"] == 1)
    pool.checkin(entry)
    pool.checkin(waiting.result())
    assert pool.stats()["checks"] == driver.round_trips == 0


def test_a_reset_is_on_behalf_of_who_gave_the_connection_back():
    pool, driver, _ = make_pool()
    holders = [use(pool, dirty=True) for _ in range(3)]
    assert driver.reset_for == holders


def test_one_that_is_being_closed_is_the_pools_and_no_ones_else():
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


def test_maintenance_leaves_what_is_well_where_it_is():
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


def test_a_look_for_long_holds_looks_at_all_of_them():
    pool, driver, clock = make_pool(max_conns=4, max_hold=60, leak_after=60)
    entries = [pool.checkout(Holder(str(number))) for number in range(4)]
    pool.checkin(entries[1])
    clock.advance(60)
    pool.maintain()
    assert pool.stats()["overdue"] == pool.stats()["leaked"] == 3
    held = [entries[0], entries[2], entries[3]]
    assert {c.number for c in driver.aborted} == {e.connection.number for e in held}
    clock.advance(10)
    pool.maintain()
    assert {c.number for c in driver.shut_downs} == {c.number for c in driver.aborted}


def test_stuck_round_trips_and_deaf_holders_are_cut_off_in_one_round():
    pool, driver, clock = make_pool(max_conns=2, max_hold=60, check_after_idle=0)
    pool.checkin(pool.checkout(Holder()))
    held = pool.checkout(Holder())
    second = pool.checkout(Holder())
    pool.checkin(second)
    clock.advance(60)
    pool.maintain()
    shut_down_meanwhile = []

    def asks_long(connection):
        pool.maintain()
        clock.advance(10)
        pool.maintain()
        shut_down_meanwhile.extend(driver.shut_downs)
        return True

    driver.ping = asks_long
    pool.checkin(pool.checkout(Holder()))
    assert set(shut_down_meanwhile) == {held.connection, second.connection}


def test_jitter_never_ends_a_pause_before_its_half(monkeypatch):
    monkeypatch.setattr(random, "random", lambda: 1.0)
    pool, driver, clock = make_pool(timeout=0.001)
    driver.connect_error = ConnectFailed("default", "can't connect", "down")
    with pytest.raises(ConnectFailed):
        pool.checkout(Holder())
    clock.advance(0.049)
    with pytest.raises(PoolTimeout):
        pool.checkout(Holder())
    assert pool.stats()["connect_errors"] == 1


def test_the_text_of_a_time_out_tells_counts_state_failures_and_holders():
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


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ("drain", "drained"),
        ("pause", "paused"),
        ("recycle", "recycled"),
        ("close", "pool closed"),
    ],
)
def test_each_turn_gives_its_reason_and_says_so(turn, reason, caplog):
    caplog.set_level("INFO")
    pool, driver, _ = make_pool()
    use(pool)
    caplog.clear()
    getattr(pool, turn)()
    assert pool.stats()["discarded"] == {reason: 1}
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        f"default: {reason}",
        f"default: closed a connection: {reason} (0 of 2)",
    ]
    check(pool, driver)


def test_a_resume_says_so(caplog):
    caplog.set_level("INFO")
    pool, _, _ = make_pool()
    pool.pause()
    caplog.clear()
    pool.resume()
    assert [record.getMessage() for record in caplog.records] == ["default: resumed"]


def test_one_that_died_is_told_of(caplog):
    caplog.set_level("INFO")
    pool, driver, _ = make_pool()
    use(pool)
    driver.connections[0].alive = False
    caplog.clear()
    use(pool)
    assert [record.getMessage() for record in caplog.records] == [
        "default: a connection died while idle; replacing it",
        "default: opened a connection (1 of 2)",
    ]


def test_a_refill_that_fails_is_told_of_and_goes_on_later(caplog):
    pool, driver, _ = make_pool(min_conns=1)
    driver.connect_error = ValueError(" on purpose ")
    pool.maintain()
    assert [record.getMessage() for record in caplog.records] == [
        "default: can't refill: on purpose"
    ]
    driver.connect_error = None
    pool.maintain()
    assert pool.stats()["idle"] == 1
    check(pool, driver)


def test_what_a_checkin_has_to_do_is_told_with_the_pools_name_and_the_holder(caplog):
    pool, driver, _ = make_pool()
    use(pool, transaction="open")
    pool.reclaim(pool.checkout(Holder("gone")))
    driver.reset_error = ValueError("on purpose")
    use(pool, dirty=True)
    assert [record.getMessage() for record in caplog.records] == [
        "default: rolled back a transaction left open (GET /someone/ in thread "
        "someone)",
        "default: reclaimed a connection from a holder that is gone (GET /gone/ in "
        "thread gone)",
        "default: could not clean a connection; closing it",
    ]
    assert caplog.records[-1].exc_info[1] is driver.reset_error


def test_a_cancel_is_told_with_the_pools_name_and_the_holder(caplog):
    pool, _, clock = make_pool(max_hold=60)
    pool.checkout(Holder("slow"))
    clock.advance(61)
    pool.maintain()
    assert [record.getMessage() for record in caplog.records] == [
        "pool 'default': held longer than MAX_HOLD, 60 s; cancelling (GET /slow/ in "
        "thread slow)"
    ]


def test_what_is_broken_off_is_the_pools_until_it_is_closed_and_has_its_reason():
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
    # A refill that a drain overtakes: what it opened isn't wanted any more.
    driver.on_connect = pool.drain
    pool.maintain()
    assert pool.stats()["discarded"] == {"interrupted": 2, "drained": 1}
    assert seen == [1, 1, 1]
    check(pool, driver)


@pytest.mark.parametrize(("number", "more"), [(5, ""), (6, " and 1 more")])
def test_the_text_of_a_time_out_names_five_holders(number, more):
    pool, _, _ = make_pool(max_conns=number, timeout=0.001)
    for each in range(number):
        pool.checkout(Holder(str(each)))
    with pytest.raises(PoolTimeout) as caught:
        pool.checkout(Holder())
    named = str(caught.value).partition("held by ")[2]
    assert named.count(", GET") == 4
    assert named.endswith("for 0.0 s" + more)


def test_those_who_wait_as_a_pool_is_closed_learn_which_one():
    pool, _, _ = make_pool(max_conns=1, timeout=20)
    pool.checkout(Holder())
    waiting = InThread(pool.checkout, Holder())
    until(lambda: pool.stats()["waiting"] == 1)
    pool.close()
    with pytest.raises(PoolClosed, match="'default'") as caught:
        waiting.result()
    assert caught.value.alias == "default"


class Ticking(Clock):
    """A clock that every look at it takes on by a second."""

    def __call__(self):
        self.now += 1
        return self.now


def test_one_at_hand_is_not_waited_for_and_one_that_must_be_opened_is():
    pool, _, _ = make_pool(check_after_idle=600)
    pool._clock = Ticking()
    use(pool)
    use(pool)
    use(pool)
    waits = pool.stats()["wait_seconds"]
    assert waits["count"] == 3
    assert waits["sum"] == waits["max"] > 0
    # Two took no time; the first one did.
    assert waits["buckets"][0] == 2
    assert sum(waits["buckets"]) == 3


def test_waits_of_no_time_are_counted_beside_those_of_little():
    pool, _, _ = make_pool(max_conns=1, timeout=20)
    use(pool)
    entry = pool.checkout(Holder())
    waiting = InThread(pool.checkout, Holder())
    until(lambda: pool.stats()["waiting"] == 1)
    # On this clock no time passes, and yet it had to wait.
    pool._clock.advance(1e-6)
    pool.checkin(entry)
    pool.checkin(waiting.result())
    assert pool.stats()["wait_seconds"]["buckets"][0] == 3


def test_a_connection_is_opened_on_behalf_of_who_asks():
    pool, driver, _ = make_pool()
    holders = []

    def connect(entry, holder):
        holders.append(holder)
        driver.connect(entry, holder)

    pool._connect = connect
    holder = Holder()
    pool.checkin(pool.checkout(holder))
    assert holders == [holder]


def test_a_connection_expires_at_the_very_end_of_its_life(monkeypatch):
    monkeypatch.setattr(random, "random", lambda: 0.0)
    pool, _, clock = make_pool(max_lifetime=100)
    entry = pool.checkout(Holder())
    clock.advance(100)
    pool.checkin(entry)
    assert pool.stats()["discarded"] == {"expired": 1}


def test_waking_up_in_between_does_not_make_a_wait_longer():
    pool, _, clock = make_pool(max_conns=1, timeout=10)
    pool.checkout(Holder())
    naps = []

    class Restless(Waiter):
        def wait(self, seconds):
            naps.append(seconds)
            clock.advance(4)
            return True

    pool._slots.make_waiter = Restless
    with pytest.raises(PoolTimeout):
        pool.checkout(Holder())
    assert naps == [10, 6, 2]


def test_every_error_names_its_pool():
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


@pytest.mark.parametrize("reset", ["auto", "never"])
def test_one_that_comes_back_clean_is_looked_at_once(reset):
    pool, driver, _ = make_pool(reset=reset)
    for name in ("why_unusable", "roll_back", "is_dirty", "accept"):
        setattr(driver, name, None)
    use(pool)
    use(pool)
    assert pool.stats()["idle"] == 1
