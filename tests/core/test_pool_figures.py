"""What a pool measures besides its counters: ages, peaks, transactions, refusals."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbpool_mw.core.entry import PoolEntry
from dbpool_mw.core.errors import (
    ConnectFailed,
    PoolClosed,
    PoolTimeout,
    TooManyRequests,
)
from dbpool_mw.core.waiter import Waiter
from tests.core.fakes import Holder, check, make_pool, use

ANYBODY = Holder()


def next_second(pool, clock, seconds=1.0):
    """Have the pool's maintenance do its round of the next second."""
    clock.advance(seconds)
    pool.maintain()


def seen_while_waiting(pool, look, before=lambda: None):
    """Check out in vain, and return what ``look`` sees from inside of the queue."""
    seen = []

    class Looking(Waiter):
        def wait(self, seconds):
            before()
            seen.append(look())
            return super().wait(0)

    pool._slots.make_waiter = Looking
    with pytest.raises(PoolTimeout):
        pool.checkout(ANYBODY)
    return seen[0]


# --- Ages ----------------------------------------------------------------------------


def test_the_oldest_wait_grows_while_somebody_waits():
    pool, _, clock = make_pool(max_conns=1, timeout=60)
    pool.checkout(ANYBODY)
    seen = seen_while_waiting(
        pool,
        lambda: pool.stats()["oldest_wait_seconds"],
        before=lambda: clock.advance(61),
    )
    assert seen == 61
    assert pool.stats()["oldest_wait_seconds"] == 0.0


def test_the_oldest_wait_is_that_of_the_first_who_came():
    pool, _, clock = make_pool(max_conns=1, timeout=60)
    pool.checkout(ANYBODY)

    def second():
        clock.advance(5)
        return seen_while_waiting(
            pool,
            lambda: pool.stats()["oldest_wait_seconds"],
            before=lambda: clock.advance(60),
        )

    assert seen_while_waiting(pool, second) == 65


def test_the_oldest_hold_is_the_longest_that_goes_on():
    pool, _, clock = make_pool()
    assert pool.stats()["oldest_hold_seconds"] == 0.0
    older = pool.checkout(ANYBODY)
    clock.advance(3)
    younger = pool.checkout(ANYBODY)
    clock.advance(4)
    assert pool.stats()["oldest_hold_seconds"] == 7
    pool.checkin(older)
    assert pool.stats()["oldest_hold_seconds"] == 4
    pool.checkin(younger)
    assert pool.stats()["oldest_hold_seconds"] == 0.0


# --- Transactions --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transaction", "number"), [("idle", 0), ("open", 1), ("busy", 1), ("unknown", 0)]
)
def test_held_connections_in_a_transaction_are_counted(transaction, number):
    pool, _, _ = make_pool(max_conns=3)
    use(pool)
    pool.checkout(ANYBODY).connection.transaction = transaction
    pool.checkout(ANYBODY)
    assert pool.stats()["in_transaction"] == number


# --- Peaks ---------------------------------------------------------------------------


def use_at_once(pool, number):
    """Have so many connections in use at once, for no time."""
    for entry in [pool.checkout(ANYBODY) for _ in range(number)]:
        pool.checkin(entry)


def test_a_burst_between_two_rounds_is_in_the_peak_for_a_minute():
    pool, _, clock = make_pool(max_conns=5)
    use_at_once(pool, 4)
    next_second(pool, clock)
    clock.advance(0.5)
    use_at_once(pool, 3)
    clock.advance(0.25)
    use_at_once(pool, 1)
    assert pool.stats()["in_use"] == 0
    for _ in range(60):
        assert pool.stats()["in_use_peak"] == 4
        next_second(pool, clock)
    assert pool.stats()["in_use_peak"] == 3
    next_second(pool, clock)
    assert pool.stats()["in_use_peak"] == 0


def test_looking_at_the_peak_does_not_end_it():
    pool, _, _ = make_pool(max_conns=5)
    use_at_once(pool, 4)
    assert [pool.stats()["in_use_peak"] for _ in range(3)] == [4, 4, 4]


def test_connections_that_were_closed_meanwhile_count_in_the_peak():
    pool, _, clock = make_pool(max_conns=5)
    for entry in [pool.checkout(ANYBODY) for _ in range(4)]:
        pool.discard(entry, "test")
    use_at_once(pool, 1)
    assert pool.stats()["in_use_peak"] == 4
    next_second(pool, clock)
    assert pool.stats()["in_use_peak"] == 4


def test_connections_used_and_closed_one_after_the_other_are_a_peak_of_one():
    pool, driver, _ = make_pool(max_conns=5)
    for _ in range(4):
        pool.discard(pool.checkout(ANYBODY), "test")
    assert (pool.stats()["in_use_peak"], len(driver.connections)) == (1, 4)


def test_dead_connections_that_were_replaced_count_as_they_were_used():
    pool, driver, clock = make_pool(max_conns=3)
    use_at_once(pool, 3)
    for connection in driver.connections:
        connection.alive = False
    clock.advance(0.1)
    pool.checkin(pool.checkout(ANYBODY))
    assert pool.stats()["in_use_peak"] == 3


def test_connections_that_nobody_used_are_no_peak():
    pool, driver, clock = make_pool(min_conns=3, max_conns=5)
    next_second(pool, clock)
    assert (pool.stats()["idle"], pool.stats()["in_use_peak"]) == (3, 0)
    next_second(pool, clock, 100)
    seen = []
    driver.on_close = lambda connection: seen.append(pool.stats()["in_use_peak"])
    pool.drain()
    assert seen == [0, 0, 0]


def test_a_connection_being_opened_is_no_peak():
    pool, driver, _ = make_pool()
    seen = []
    driver.on_connect = lambda: seen.append(pool.stats()["in_use_peak"])
    pool.checkout(ANYBODY)
    assert seen == [0]
    assert pool.stats()["in_use_peak"] == 1


STEPS = st.lists(
    st.one_of(
        st.just(("checkout", 0)),
        st.tuples(st.sampled_from(["checkin", "discard"]), st.integers(0, 5)),
        st.just(("sample", 0)),
        st.just(("dies", 0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_the_peak_of_each_second_is_that_of_a_count_at_every_checkout(steps):
    pool, driver, clock = make_pool(max_conns=5)
    held: list[PoolEntry] = []
    most, expected = 0, []
    for step, index in steps:
        clock.advance(0.001)
        if step == "checkout":
            if len(held) < 5:
                held.append(pool.checkout(ANYBODY))
        elif step == "sample":
            next_second(pool, clock)
            expected.append(most)
            most = len(held)
        elif step == "dies":
            idle = [c for c in driver.open if c not in {e.connection for e in held}]
            for connection in idle[:1]:
                connection.alive = False
        elif held:
            getattr(pool, step)(
                held.pop(index % len(held)), *["test"] * (step == "discard")
            )
        most = max(most, len(held))
        clock.advance(0.001)
    next_second(pool, clock)
    expected.append(most)
    history = pool.history()
    column = history["columns"].index("in_use_peak")
    assert [row[column] for row in history["rows"]] == expected
    check(pool, driver)


def test_the_peak_of_waiters_is_kept_for_the_round():
    pool, _, clock = make_pool(max_conns=1)
    pool.checkout(ANYBODY)
    for _ in range(2):
        seen_while_waiting(
            pool, lambda: seen_while_waiting(pool, lambda: pool.stats()["waiting"])
        )
    next_second(pool, clock)
    assert pool.stats()["recent"]["60"]["waiting_peak"] == 2
    next_second(pool, clock, 61)
    assert pool.stats()["recent"]["60"]["waiting_peak"] == 0


# --- Refusals ------------------------------------------------------------------------


def refusals(pool):
    stats = pool.stats()
    reasons = stats["refused_by_reason"]
    assert stats["refused"] == sum(reasons.values())
    assert stats["timeouts"] == reasons["timeout"]
    return +Counter(reasons)


def test_no_refusal_is_counted_where_none_was_but_every_reason_is_there():
    pool, _, _ = make_pool()
    use(pool)
    reasons = {"timeout": 0, "max_waiting": 0, "closed": 0, "connect": 0}
    assert pool.stats()["refused_by_reason"] == reasons


def test_a_checkout_that_timed_out_is_refused_for_that():
    pool, _, _ = make_pool(max_conns=1)
    pool.checkout(ANYBODY)
    with pytest.raises(PoolTimeout):
        pool.checkout(ANYBODY)
    assert refusals(pool) == {"timeout": 1}


def test_a_checkout_that_found_a_full_queue_is_refused_for_that():
    pool, _, _ = make_pool(max_conns=1, max_waiting=1)
    pool.checkout(ANYBODY)

    def refused():
        with pytest.raises(TooManyRequests):
            pool.checkout(ANYBODY)

    seen_while_waiting(pool, refused)
    assert refusals(pool) == {"timeout": 1, "max_waiting": 1}


def test_a_checkout_of_a_closed_pool_is_refused_for_that():
    pool, _, _ = make_pool()
    pool.close()
    with pytest.raises(PoolClosed):
        pool.checkout(ANYBODY)
    assert refusals(pool) == {"closed": 1}


def test_a_checkout_that_waits_while_the_pool_is_closed_is_refused_for_that():
    pool, _, _ = make_pool(max_conns=1)
    pool.checkout(ANYBODY)

    class Closing(Waiter):
        def wait(self, seconds):
            pool.close()
            return super().wait(0)

    pool._slots.make_waiter = Closing
    with pytest.raises(PoolClosed):
        pool.checkout(ANYBODY)
    assert refusals(pool) == {"closed": 1}


def test_a_checkout_that_connects_while_the_pool_is_closed_is_refused_for_that():
    pool, driver, _ = make_pool()
    driver.on_connect = pool.close
    with pytest.raises(PoolClosed):
        pool.checkout(ANYBODY)
    assert refusals(pool) == {"closed": 1}


def test_a_refill_of_a_pool_that_is_closed_meanwhile_refuses_nobody():
    pool, driver, clock = make_pool(min_conns=1)
    driver.on_connect = pool.close
    next_second(pool, clock)
    assert refusals(pool) == {}


@pytest.mark.parametrize(("eager", "expected"), [(False, {"connect": 1}), (True, {})])
def test_a_checkout_that_can_not_connect_is_refused_unless_it_needs_none(
    eager, expected
):
    pool, driver, _ = make_pool()
    driver.connect_error = ConnectFailed("default", "no server")
    with pytest.raises(ConnectFailed):
        pool.checkout(ANYBODY, eager=eager)
    assert refusals(pool) == expected


def test_a_checkout_that_was_cancelled_is_not_refused():
    pool, _, _ = make_pool(max_conns=1)
    pool.checkout(ANYBODY)
    holder = Holder()
    holder.cancelled = True
    with pytest.raises(Exception, match="cancelled"):
        pool.checkout(holder)
    assert refusals(pool) == {}
    assert pool.stats()["cancelled"] == 1
