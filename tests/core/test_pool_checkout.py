"""Checkouts: which connection a caller gets, with a fake driver and a manual clock."""

from __future__ import annotations

import logging

import pytest

from tests.core.fakes import DriverError, Holder, check, make_pool, use

ANYBODY = Holder()


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


def test_the_connection_checked_in_last_is_checked_out_first():
    pool, _, _ = make_pool()
    one, two = pool.checkout(ANYBODY), pool.checkout(ANYBODY)
    pool.checkin(one)
    pool.checkin(two)
    assert pool.checkout(ANYBODY) is two


def test_two_holders_never_share_a_connection():
    pool, _, _ = make_pool()
    one, two = pool.checkout(ANYBODY), pool.checkout(ANYBODY)
    assert one.connection is not two.connection


def test_connect_is_called_with_the_holder_that_checks_out():
    pool, driver, _ = make_pool()
    holders = []

    def connect(entry, holder):
        holders.append(holder)
        driver.connect(entry, holder)

    pool._connect = connect
    holder = Holder()
    pool.checkin(pool.checkout(holder))
    assert holders == [holder]


def test_checkout_and_checkin_of_a_clean_connection_make_no_round_trip():
    pool, driver, _ = make_pool()
    for _ in range(5):
        pool.checkin(pool.checkout(ANYBODY))
    assert driver.round_trips == 0


@pytest.mark.parametrize("error", [DriverError("no"), KeyboardInterrupt()])
def test_a_failed_connect_raises_and_frees_the_slot(error):
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


def test_lifetimes_are_random_and_at_most_a_tenth_shorter_than_max_lifetime():
    pool, _, clock = make_pool(max_conns=50, max_lifetime=100)
    ends = {pool.checkout(ANYBODY).expires_at - clock.now for _ in range(50)}
    assert len(ends) > 40
    assert min(ends) >= 90
    assert max(ends) <= 100


def test_opening_and_closing_are_logged_with_alias_and_size(caplog):
    caplog.set_level(logging.INFO, logger="dbpool_mw.pool")
    pool, _, _ = make_pool()
    pool.discard(pool.checkout(ANYBODY), "test")
    assert caplog.messages == [
        "default: opened a connection (1 of 2)",
        "default: closed a connection: test (0 of 2)",
    ]


# --- Idle connections ----------------------------------------------------------------


def test_a_connection_that_died_while_idle_is_replaced_without_an_error():
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    pool.checkin(entry)
    driver.connections[0].alive = False
    entry = pool.checkout(ANYBODY)
    assert entry.connection is driver.connections[1]
    check(pool, driver)
    assert pool.stats()["discarded"] == {"dead": 1}


def test_the_replacement_of_a_dead_connection_is_logged(caplog):
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


def test_a_checkout_closes_every_dead_connection_it_finds_and_opens_one():
    pool, driver, _ = make_pool(max_conns=3)
    entries = [pool.checkout(ANYBODY) for _ in range(3)]
    for entry in entries:
        pool.checkin(entry)
    for connection in driver.connections:
        connection.alive = False
    pool.checkout(ANYBODY)
    check(pool, driver)
    assert pool.stats()["discarded"] == {"dead": 3}


def test_a_connection_is_pinged_only_if_it_was_idle_for_check_after_idle():
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


def test_a_connection_that_does_not_answer_a_ping_is_replaced():
    pool, driver, clock = make_pool()
    pool.checkin(pool.checkout(ANYBODY))
    driver.connections[0].answers = False
    clock.advance(60)
    assert pool.checkout(ANYBODY).connection is driver.connections[1]
    check(pool, driver)


def test_an_interrupted_ping_frees_the_slot():
    pool, driver, clock = make_pool()
    pool.checkin(pool.checkout(ANYBODY))
    driver.ping_error = KeyboardInterrupt()
    clock.advance(60)
    with pytest.raises(KeyboardInterrupt):
        pool.checkout(ANYBODY)
    check(pool, driver)
    assert pool.stats()["discarded"] == {"interrupted": 1}
