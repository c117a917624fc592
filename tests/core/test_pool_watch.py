"""Connections that are held too long, and round trips that get no answer."""

from __future__ import annotations

import threading

import pytest

from dbpool_mw.core.errors import HoldTooLong
from tests.core.fakes import Holder, InThread, check, make_pool, until


def leaky_view(pool):
    return pool.checkout(Holder("leaky"))


# --- LEAK_AFTER ----------------------------------------------------------------------


def test_a_leak_is_logged_once_with_its_holder_and_the_stack_of_its_checkout(caplog):
    pool, driver, clock = make_pool(leak_after=30)
    entry = leaky_view(pool)
    clock.advance(29)
    pool.maintain()
    assert caplog.text == ""
    assert pool.stats()["leaked"] == 0
    clock.advance(2)
    for _ in range(3):
        pool.maintain()
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith(
        "default: a connection is held for 31.0 s (GET /leaky/ in thread leaky), "
        "checked out here:"
    )
    assert "in leaky_view\n    return pool.checkout" in text
    assert pool.stats()["leaked"] == 1
    pool.checkin(entry)
    check(pool, driver)


def test_the_report_of_holders_has_the_stacks_of_leaks_only():
    pool, _, clock = make_pool(leak_after=30)
    leaky_view(pool)
    clock.advance(20)
    pool.checkout(Holder("quick"))
    clock.advance(20)
    pool.maintain()
    first, second = pool.holders()
    assert (first["path"], first["leaked"]) == ("/leaky/", True)
    assert any("in leaky_view" in line for line in first["stack"])
    assert (second["path"], second["leaked"], second["stack"]) == (
        "/quick/",
        False,
        [],
    )


def test_each_long_hold_of_a_connection_is_a_leak_of_its_own():
    pool, driver, clock = make_pool(leak_after=30)
    for number in range(1, 4):
        entry = leaky_view(pool)
        clock.advance(31)
        pool.maintain()
        assert pool.stats()["leaked"] == number
        pool.checkin(entry)
    assert pool.stats()["opened"] == 1
    check(pool, driver)


def test_without_leak_after_no_stack_is_captured(caplog):
    pool, _, clock = make_pool()
    entry = leaky_view(pool)
    clock.advance(1e9)
    pool.maintain()
    assert entry.stack == ()
    assert pool.stats()["leaked"] == pool.stats()["overdue"] == 0
    assert caplog.text == ""


# --- MAX_HOLD ------------------------------------------------------------------------


def test_a_holder_beyond_max_hold_is_aborted_once_with_the_reason(caplog):
    pool, driver, clock = make_pool(max_hold=60)
    entry = pool.checkout(Holder("slow"))
    clock.advance(59)
    pool.maintain()
    assert driver.aborted == []
    clock.advance(2)
    for _ in range(3):
        pool.maintain()
    assert driver.aborted == [entry.connection]
    assert isinstance(entry.connection.aborted, HoldTooLong)
    text = "pool 'default': held longer than MAX_HOLD, 60 s"
    assert str(entry.connection.aborted) == text
    assert f"{text}; cancelling (GET /slow/ in thread slow)" in caplog.text
    assert pool.stats()["overdue"] == 1
    pool.checkin(entry)
    check(pool, driver)


def test_an_aborted_connection_gets_no_other_holder():
    pool, driver, clock = make_pool(max_conns=1, max_hold=60, timeout=20)
    entry = pool.checkout(Holder())
    clock.advance(61)
    pool.maintain()
    waiting = InThread(pool.checkout, Holder())
    until(lambda: pool.stats()["waiting"] == 1)
    pool.checkin(entry)
    other = waiting.result()
    assert other.connection is not entry.connection
    assert other.connection.aborted is None
    assert pool.stats()["discarded"] == {"held too long": 1}
    pool.checkin(other)
    check(pool, driver)


def test_an_abort_is_logged_once_with_the_holder(caplog):
    pool, _, clock = make_pool(max_hold=60)
    pool.checkout(Holder("slow"))
    clock.advance(61)
    pool.maintain()
    assert [record.getMessage() for record in caplog.records] == [
        "pool 'default': held longer than MAX_HOLD, 60 s; cancelling (GET /slow/ in "
        "thread slow)"
    ]


def test_the_socket_of_a_holder_that_an_abort_does_not_end_is_shut_down():
    pool, driver, clock = make_pool(max_hold=60)
    entry = pool.checkout(Holder())
    clock.advance(61)
    pool.maintain()
    clock.advance(5)
    pool.maintain()
    assert driver.shut_downs == []
    clock.advance(5)
    pool.maintain()
    assert driver.shut_downs == [entry.connection]


def test_one_round_finds_every_hold_that_is_too_long():
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


def test_one_round_shuts_down_stuck_pings_and_unresponsive_holders():
    pool, driver, clock = make_pool(max_conns=2, max_hold=60, check_after_idle=0)
    pool.checkin(pool.checkout(Holder()))
    held = pool.checkout(Holder())
    second = pool.checkout(Holder())
    pool.checkin(second)
    clock.advance(60)
    pool.maintain()
    shut_down_meanwhile = []

    def slow_ping(connection):
        pool.maintain()
        clock.advance(10)
        pool.maintain()
        shut_down_meanwhile.extend(driver.shut_downs)
        return True

    driver.ping = slow_ping
    pool.checkin(pool.checkout(Holder()))
    assert set(shut_down_meanwhile) == {held.connection, second.connection}


# --- The pool's own round trips ------------------------------------------------------


@pytest.mark.parametrize("verb", ["ping", "reset", "roll_back"])
def test_the_socket_of_a_stuck_round_trip_of_the_pool_is_shut_down(verb):
    pool, driver, clock = make_pool(check_after_idle=10, timeout=20)
    pool.checkin(pool.checkout(Holder()))
    begun, is_shut_down = threading.Event(), threading.Event()
    original = getattr(driver, verb)

    def stuck(*arguments):
        begun.set()
        assert is_shut_down.wait(20)
        return original(*arguments)

    if verb == "reset":
        pool._cleaner._reset = stuck
    else:
        setattr(driver, verb, stuck)
    shut_down = driver.shut_down
    driver.shut_down = lambda *arguments: (shut_down(*arguments), is_shut_down.set())

    if verb == "ping":
        clock.advance(11)
        caller = InThread(pool.checkout, Holder())
    else:
        entry = pool.checkout(Holder())
        entry.connection.dirty = True
        entry.connection.transaction = "open" if verb == "roll_back" else "idle"
        caller = InThread(pool.checkin, entry)
    assert begun.wait(20)
    pool.maintain()
    clock.advance(9)
    pool.maintain()
    assert driver.shut_downs == []
    clock.advance(1)
    pool.maintain()
    assert driver.shut_downs == driver.connections
    entry = caller.result()
    if verb == "ping":
        pool.checkin(entry)
    check(pool, driver)


def test_without_max_hold_a_long_query_is_never_interrupted():
    pool, driver, clock = make_pool()
    pool.checkout(Holder())
    for _ in range(10):
        clock.advance(1000)
        pool.maintain()
    assert driver.shut_downs == driver.aborted == []
