"""What a checkin does to a session, without a pool."""

from __future__ import annotations

import logging

import pytest

from dbpool_mw.core.cleaning import (
    CLOSED,
    CUSTOM,
    KEPT,
    RESET,
    Cleaned,
    Cleaner,
)
from dbpool_mw.core.entry import BUSY, PoolEntry
from dbpool_mw.core.errors import ResetFailed
from tests.core.fakes import DriverError, FakeDriver, Holder

USABLE = Cleaned(None, False, False)


@pytest.fixture
def driver():
    return FakeDriver()


@pytest.fixture
def entry(driver):
    made = PoolEntry(0)
    driver.connect(made, None)
    made.initial = driver.session_attributes(made.connection)
    made.holder = Holder()
    made.state = BUSY
    return made


def cleaner(driver, mode="auto"):
    return Cleaner("default", driver, mode, driver.reset)


def test_a_clean_session_is_left_as_it_is(driver, entry):
    assert cleaner(driver).clean(entry) == USABLE
    assert driver.round_trips == 0


def test_an_open_transaction_is_rolled_back(driver, entry):
    entry.connection.transaction = "open"
    assert cleaner(driver).clean(entry) == Cleaned(None, rolled_back=True)
    assert entry.connection.transaction == "idle"


@pytest.mark.parametrize(
    ("mode", "dirty", "was_reset"),
    [
        ("auto", False, False),
        ("auto", True, True),
        ("always", False, True),
        ("always", True, True),
        ("never", True, False),
    ],
)
def test_each_mode_resets_the_sessions_it_is_for(driver, entry, mode, dirty, was_reset):
    entry.connection.dirty = dirty
    assert cleaner(driver, mode).clean(entry) == Cleaned(None, was_reset=was_reset)
    assert driver.resets == [entry.connection] * was_reset
    assert not entry.connection.dirty


@pytest.mark.parametrize("dirty", [False, True])
def test_a_reset_function_is_called_for_every_session(driver, entry, dirty):
    calls = []

    def reset(connection, is_dirty):
        calls.append((connection, is_dirty))
        connection.dirty = True  # by its own statements

    entry.connection.dirty = dirty
    assert cleaner(driver, reset).clean(entry) == Cleaned(None, was_reset=True)
    assert calls == [(entry.connection, dirty)]
    assert not entry.connection.dirty
    assert driver.resets == []


@pytest.mark.parametrize(
    ("transaction", "reason"), [("busy", "busy"), ("unknown", "dead")]
)
def test_an_unusable_session_costs_no_round_trip(driver, entry, transaction, reason):
    entry.connection.transaction = transaction
    entry.connection.dirty = True
    assert cleaner(driver).clean(entry) == Cleaned(reason)
    assert driver.round_trips == 0


def test_a_session_that_stays_dirty_has_to_be_closed(driver, entry):
    entry.connection.transaction = "open"
    entry.connection.stays_dirty = True
    assert cleaner(driver).clean(entry) == Cleaned("not clean", rolled_back=True)


def test_an_error_is_logged_and_the_connection_has_to_be_closed(driver, entry, caplog):
    entry.connection.dirty = True
    driver.reset_error = DriverError("gone")
    assert cleaner(driver).clean(entry) == Cleaned("not clean")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "default: could not clean a connection; closing it"
    assert record.exc_info[1] is driver.reset_error


class TimeLimit(Exception):
    """As a task's soft time limit: an Exception, and no error of the driver's."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeLimit])
def test_what_is_no_error_of_the_driver_is_raised(driver, entry, error):
    entry.connection.dirty = True
    driver.reset_error = error()
    with pytest.raises(error):
        cleaner(driver).clean(entry)


def test_a_session_that_can_not_be_reset_has_to_be_closed(driver, entry):
    entry.connection.dirty = True
    driver.reset_error = ResetFailed("no")
    assert cleaner(driver).clean(entry) == Cleaned("not clean")


def test_any_exception_of_a_reset_function_is_its_own(driver, entry, caplog):
    def reset(connection, dirty):
        raise TimeLimit

    assert cleaner(driver, reset).clean(entry) == Cleaned("not clean")
    assert isinstance(caplog.records[0].exc_info[1].__cause__, TimeLimit)


# --- What is foreseen -----------------------------------------------------------------


def set_only(connection, dirty):
    """Be a function in RESET that leaves the session as it is."""


@pytest.mark.parametrize("mode", ["auto", "always", "never", set_only])
@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("transaction", ["idle", "busy"])
def test_what_is_foreseen_comes_true(driver, entry, mode, dirty, transaction):
    entry.connection.dirty = dirty
    entry.connection.dirtied_by = "SET a = 1"
    entry.connection.transaction = transaction
    chosen = cleaner(driver, mode)
    outcome, reason = chosen.foresee(entry)
    assert driver.round_trips == 0
    cleaned = chosen.clean(entry)
    assert (outcome == CLOSED) == (cleaned.reason is not None)
    assert (outcome in (RESET, CUSTOM)) == cleaned.was_reset
    assert (outcome == CUSTOM) == (cleaned.was_reset and driver.resets == [])
    assert bool(reason) == (outcome != KEPT)
    if dirty and cleaned.was_reset:
        assert reason == "SET a = 1"


def test_a_change_of_which_nothing_is_known_is_foreseen_too(driver, entry):
    entry.connection.dirty = True
    assert cleaner(driver).foresee(entry) == (RESET, "not known")


def test_what_no_reset_undoes_is_foreseen_as_a_close(driver, entry):
    entry.connection.dirty = True
    entry.connection.not_resettable = "LOAD (in: LOAD 'x')"
    assert cleaner(driver).foresee(entry) == (
        CLOSED,
        "no reset undoes LOAD (in: LOAD 'x')",
    )
