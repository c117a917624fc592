"""The watch over long holds and stuck round trips, without a pool."""

from __future__ import annotations

import math

import pytest

from dbpool_mw.core.config import PoolConfig
from dbpool_mw.core.entry import BUSY, CONNECTING, IDLE, IN_USE, PoolEntry
from dbpool_mw.core.errors import HoldTooLong
from dbpool_mw.core.stack import capture
from dbpool_mw.core.watch import Watch
from tests.core.fakes import FakeDriver, Holder

NOTHING = ([], [], [])


@pytest.fixture
def driver():
    return FakeDriver()


@pytest.fixture
def held(driver):
    """Return an entry that has been in use since the time 0."""
    return entry_in(driver, IN_USE, Holder("slow"))


def entry_in(driver, state, holder=None):
    entry = PoolEntry(0)
    driver.connect(entry, holder)
    entry.socket_number = driver.socket_number(entry.connection)
    entry.state, entry.holder = state, holder
    entry.stack = capture()
    return entry


def watch(driver, **config):
    return Watch("default", PoolConfig(**config), driver)


def test_without_leak_after_and_max_hold_no_hold_is_too_long(driver, held):
    assert watch(driver).look([held], now=1e9) == NOTHING


def test_a_leak_is_found_once_per_hold(driver, held):
    watching = watch(driver, leak_after=30)
    assert watching.look([held], now=29) == NOTHING
    ((leak,), overdue, unresponsive) = watching.look([held], now=30)
    assert (leak.holder, leak.stack, leak.seconds) == (held.holder, held.stack, 30)
    assert overdue == unresponsive == []
    assert watching.look([held], now=31) == NOTHING
    held.leaked = False
    assert len(watching.look([held], now=31).leaks) == 1


def test_a_leak_is_logged_with_its_holder_and_its_stack(driver, held, caplog):
    watching = watch(driver, leak_after=30)
    watching.act(watching.look([held], now=31))
    (record,) = caplog.records
    first, *stack = record.getMessage().split("\n")
    assert first == (
        "default: a connection is held for 31.0 s (GET /slow/ in thread slow), "
        "checked out here:"
    )
    assert any("in entry_in" in line for line in stack)


def test_an_overdue_hold_is_aborted_once_and_its_connection_expires(driver, held):
    watching = watch(driver, max_hold=60)
    assert watching.look([held], now=59) == NOTHING
    sighting = watching.look([held], now=60)
    assert sighting == ([], [(held, held.holder)], [])
    assert held.cancelled == "held too long"
    assert held.expires_at == -math.inf
    watching.act(sighting)
    assert driver.aborted == [held.connection]
    assert isinstance(held.connection.aborted, HoldTooLong)
    assert watching.look([held], now=69) == NOTHING


def test_ten_seconds_after_an_abort_the_socket_of_the_holder_is_shut_down(driver, held):
    watching = watch(driver, max_hold=60)
    watching.look([held], now=60)
    sighting = watching.look([held], now=70)
    assert sighting == ([], [], [held])
    watching.act(sighting)
    assert driver.shut_downs == [held.connection]


@pytest.mark.parametrize("state", [BUSY, CONNECTING])
def test_what_the_pool_waits_for_is_unresponsive_after_its_deadline(driver, state):
    entry = entry_in(driver, state)
    entry.deadline = 10
    watching = watch(driver)
    assert watching.look([entry], now=9.9) == NOTHING
    sighting = watching.look([entry], now=10)
    assert sighting == ([], [], [entry])
    watching.act(sighting)
    assert driver.shut_downs == [entry.connection]


def test_an_attempt_to_connect_without_a_connection_is_left_to_the_library(driver):
    entry = PoolEntry(0)
    entry.deadline = 10
    assert entry.socket_number is None
    assert watch(driver).look([entry], now=100) == NOTHING


@pytest.mark.parametrize("state", [IDLE, CONNECTING])
def test_idle_and_connecting_entries_are_not_watched(driver, state):
    entry = entry_in(driver, state)
    watching = watch(driver, leak_after=1, max_hold=1)
    for now in (0, 10, 1e9):
        assert watching.look([entry], now=now) == NOTHING
