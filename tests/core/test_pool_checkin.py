"""Checkins: what a pool does, and does not do, with a connection that comes back."""

from __future__ import annotations

import gc
import random
import threading
import weakref

import pytest

from dbpool_mw.core.config import PoolConfig
from dbpool_mw.core.errors import PoolError
from dbpool_mw.core.pool import ConnectionPool
from tests.core.fakes import (
    DriverError,
    FakeDriver,
    Holder,
    InThread,
    check,
    make_pool,
    until,
    use,
)

ANYBODY = Holder()


def test_an_open_transaction_is_rolled_back_and_logged_with_its_holder(caplog):
    pool, driver, _ = make_pool()
    entry = pool.checkout(Holder("forgetful"))
    entry.connection.transaction = "open"
    pool.checkin(entry)
    assert driver.connections[0].transaction == "idle"
    assert pool.stats()["rollbacks"] == 1
    assert pool.stats()["idle"] == 1
    assert "rolled back" in caplog.text
    assert "/forgetful/" in caplog.text


def test_a_dirty_session_is_reset():
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    entry.connection.dirty = True
    pool.checkin(entry)
    assert driver.resets == [driver.connections[0]]
    assert pool.stats()["resets"] == 1
    assert pool.stats()["idle"] == 1


def test_during_a_reset_the_entry_has_the_holder_that_checks_in():
    pool, driver, _ = make_pool()
    holders = [Holder() for _ in range(3)]
    for holder in holders:
        use(pool, holder, dirty=True)
    assert driver.reset_for == holders


@pytest.mark.parametrize("reset", ["auto", "never"])
def test_a_clean_connection_is_examined_by_is_clean_alone(reset):
    pool, driver, _ = make_pool(reset=reset)
    for name in ("why_unusable", "roll_back", "is_dirty", "accept"):
        setattr(driver, name, None)
    use(pool)
    use(pool)
    assert pool.stats()["idle"] == 1


@pytest.mark.parametrize(
    ("state", "reason"), [("busy", "busy"), ("unknown", "dead"), ("closed", "closed")]
)
def test_a_connection_that_cannot_be_cleaned_is_closed_with_a_reason(state, reason):
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    if state == "closed":
        entry.connection.closed = True
        entry.connection.transaction = "unknown"
    else:
        entry.connection.transaction = state
    pool.checkin(entry)
    check(pool, driver)
    assert pool.stats()["discarded"] == {reason: 1}


def test_a_connection_whose_reset_fails_is_closed():
    pool, driver, _ = make_pool()
    driver.reset_error = DriverError("gone")
    entry = pool.checkout(ANYBODY)
    entry.connection.dirty = True
    pool.checkin(entry)
    check(pool, driver)
    assert pool.stats()["discarded"] == {"not clean": 1}


def test_a_connection_that_stays_dirty_is_closed():
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    entry.connection.transaction = "open"
    entry.connection.stays_dirty = True
    pool.checkin(entry)
    check(pool, driver)
    assert pool.stats()["discarded"] == {"not clean": 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_reset_frees_the_slot_and_is_raised(error):
    pool, driver, _ = make_pool()
    driver.reset_error = error()
    entry = pool.checkout(ANYBODY)
    entry.connection.dirty = True
    with pytest.raises(error):
        pool.checkin(entry)
    check(pool, driver)
    assert pool.stats()["size"] == 0


def test_ending_a_hold_twice_raises_and_changes_nothing():
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    pool.checkin(entry)
    for end_hold in (pool.checkin, lambda entry: pool.discard(entry, "x")):
        with pytest.raises(PoolError, match=r"bug: .* that is idle"):
            end_hold(entry)
    check(pool, driver)
    assert pool.stats()["idle"] == 1


def test_discard_closes_the_connection_and_counts_its_reason():
    pool, driver, _ = make_pool()
    pool.discard(pool.checkout(ANYBODY), "closed in atomic()")
    check(pool, driver)
    assert pool.stats()["discarded"] == {"closed in atomic()": 1}


def test_a_connection_past_its_lifetime_is_closed_at_checkin():
    pool, driver, clock = make_pool(max_lifetime=100)
    entry = pool.checkout(ANYBODY)
    clock.advance(101)
    pool.checkin(entry)
    check(pool, driver)
    assert pool.stats()["discarded"] == {"expired": 1}


def test_a_connection_expires_exactly_at_the_end_of_its_lifetime(monkeypatch):
    monkeypatch.setattr(random, "random", lambda: 0.0)
    pool, _, clock = make_pool(max_lifetime=100)
    entry = pool.checkout(Holder())
    clock.advance(100)
    pool.checkin(entry)
    assert pool.stats()["discarded"] == {"expired": 1}


def test_a_reclaimed_connection_is_counted_logged_and_usable_again(caplog):
    pool, driver, _ = make_pool(max_conns=1)
    pool.reclaim(pool.checkout(Holder("gone")))
    assert pool.stats()["reclaimed"] == 1
    assert "/gone/" in caplog.text
    pool.checkin(pool.checkout(ANYBODY))
    check(pool, driver)


def test_every_message_of_a_checkin_begins_with_the_alias(caplog):
    pool, driver, _ = make_pool()
    use(pool, transaction="open")
    pool.reclaim(pool.checkout(Holder("gone")))
    driver.reset_error = DriverError("on purpose")
    use(pool, dirty=True)
    assert [record.getMessage() for record in caplog.records] == [
        "default: rolled back a transaction left open (GET /someone/ in thread "
        "someone)",
        "default: reclaimed a connection from a holder that is gone (GET /gone/ in "
        "thread gone)",
        "default: could not clean a connection; closing it",
    ]
    assert caplog.records[-1].exc_info[1] is driver.reset_error


class AutocommitDriver(FakeDriver):
    """A driver whose connections may come back with autocommit switched."""

    restored = 0

    def is_clean(self, connection, initial):
        switched = getattr(connection, "switched", False)
        return super().is_clean(connection, initial) and not switched

    def accept(self, connection, initial):
        connection.switched = False
        self.restored += 1


def test_switched_autocommit_is_restored_without_a_reset():
    driver = AutocommitDriver()
    pool = ConnectionPool(
        "default",
        PoolConfig(max_conns=1),
        connect=driver.connect,
        reset=driver.reset,
        driver=driver,
    )
    entry = pool.checkout(ANYBODY)
    entry.connection.switched = True
    pool.checkin(entry)
    assert driver.restored == 1
    assert driver.round_trips == 0
    assert pool.stats()["idle"] == 1
    assert pool.stats()["resets"] == 0
    check(pool, driver)


@pytest.mark.parametrize("verb", ["drain", "pause", "recycle", "close"])
def test_a_dirty_connection_that_has_to_be_closed_is_not_cleaned_first(verb):
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    entry.connection.transaction = "open"
    entry.connection.dirty = True
    getattr(pool, verb)()
    pool.checkin(entry)
    assert driver.round_trips == 0
    assert driver.open == []
    check(pool, driver)


def test_a_connection_that_expires_while_it_is_cleaned_is_closed():
    pool, driver, clock = make_pool(max_lifetime=100)
    entry = pool.checkout(ANYBODY)
    entry.connection.dirty = True
    reset = driver.reset

    def slow_reset(*arguments):
        clock.advance(200)
        reset(*arguments)

    pool._cleaner._reset = slow_reset
    pool.checkin(entry)
    assert pool.stats()["discarded"] == {"expired": 1}
    check(pool, driver)


def test_a_connection_drained_while_it_is_cleaned_is_closed():
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    entry.connection.dirty = True
    reset = driver.reset

    def reset_and_drain(*arguments):
        pool.drain()
        reset(*arguments)

    pool._cleaner._reset = reset_and_drain
    pool.checkin(entry)
    assert pool.stats()["discarded"] == {"drained": 1}
    check(pool, driver)


def test_a_connection_being_cleaned_is_neither_checked_in_nor_out():
    pool, driver, _ = make_pool(max_conns=1)
    entry = pool.checkout(ANYBODY)
    entry.connection.dirty = True
    seen = []

    def reset(entry):
        with pytest.raises(PoolError, match="that is busy"):
            pool.checkin(entry)
        with pytest.raises(PoolError, match="no connection within"):
            pool.checkout(ANYBODY, timeout=0)
        stats = pool.stats()
        seen.append((stats["in_use"], stats["idle"], stats["checkouts"]))
        seen.append(pool.holders())
        entry.connection.dirty = False

    pool._cleaner._reset = reset
    pool.checkin(entry)
    # The hold has ended and is counted; its slot is still taken.
    assert seen == [(1, 0, 1), []]
    assert pool.stats()["checkouts"] == 1
    check(pool, driver)


@pytest.mark.parametrize("verb", ["discard", "checkin"])
def test_a_connection_being_closed_keeps_its_slot_until_it_is_closed(verb):
    pool, driver, _ = make_pool(max_conns=1)
    entry = pool.checkout(ANYBODY)
    seen = []

    def on_close(connection):
        with pytest.raises(PoolError, match="that is busy"):
            pool.checkin(entry)
        with pytest.raises(PoolError, match="no connection within"):
            pool.checkout(ANYBODY, timeout=0)
        seen.append(pool.stats()["in_use"])

    driver.on_close = on_close
    if verb == "discard":
        pool.discard(entry, "test")
    else:
        entry.connection.transaction = "unknown"
        pool.checkin(entry)
    assert seen == [1]
    with pytest.raises(PoolError, match="that is closed"):
        pool.checkin(entry)
    check(pool, driver)


def test_a_close_that_hangs_delays_no_other_caller():
    pool, driver, _ = make_pool(max_conns=2)
    stuck, other = pool.checkout(ANYBODY), pool.checkout(ANYBODY)
    reached, release = [], threading.Event()

    def on_close(connection):
        reached.append(connection)
        assert release.wait(20)

    driver.on_close = on_close
    closing = InThread(pool.discard, stuck, "test")
    until(lambda: reached)
    pool.checkin(other)
    assert pool.checkout(ANYBODY) is other
    assert pool.stats()["in_use"] == 2
    release.set()
    closing.result()
    check(pool, driver)


@pytest.mark.parametrize("verb", ["checkin", "discard"])
def test_after_a_hold_the_pool_has_no_reference_to_the_holder(verb):
    pool, _, _ = make_pool()
    holder = Holder()
    gone = weakref.ref(holder)
    entry = pool.checkout(holder)
    if verb == "checkin":
        pool.checkin(entry)
    else:
        pool.discard(entry, "test")
    del holder
    gc.collect()
    assert gone() is None


def test_check_after_idle_counts_from_the_checkin():
    pool, driver, clock = make_pool(check_after_idle=30)
    entry = pool.checkout(ANYBODY)
    clock.advance(100)
    pool.checkin(entry)
    clock.advance(29)
    pool.checkout(ANYBODY)
    assert driver.round_trips == 0


def test_with_check_after_idle_0_a_connection_handed_to_a_waiter_is_pinged():
    pool, driver, clock = make_pool(max_conns=1, check_after_idle=0, timeout=60)
    entry = pool.checkout(ANYBODY)
    waiting = InThread(pool.checkout, ANYBODY)
    until(lambda: pool.stats()["waiting"] == 1)
    clock.advance(1)
    entry.connection.answers = False
    pool.checkin(entry)
    assert waiting.result().connection is driver.connections[1]
    assert pool.stats()["checks"] == 1
    check(pool, driver)


# --- RESET ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "dirty", "resets"),
    [
        ("auto", False, 0),
        ("auto", True, 1),
        ("always", False, 1),
        ("always", True, 1),
        ("never", False, 0),
        ("never", True, 0),
    ],
)
def test_each_mode_resets_the_sessions_it_is_for(mode, dirty, resets):
    pool, driver, _ = make_pool(reset=mode)
    for number in range(1, 4):
        connection = use(pool, dirty=dirty)
        assert driver.round_trips == len(driver.resets) == resets * number
        assert not connection.dirty
    assert pool.stats()["resets"] == resets * 3
    assert pool.stats()["opened"] == 1
    check(pool, driver)


def test_a_reset_function_is_called_for_every_session_and_told_if_it_is_dirty():
    calls = []

    def clean(connection, dirty):
        calls.append((connection.number, dirty))
        connection.dirty = True  # by its own statements

    pool, driver, _ = make_pool(reset=clean)
    assert not use(pool, dirty=True).dirty
    assert not use(pool, dirty=False).dirty
    assert calls == [(1, True), (1, False)]
    assert pool.stats()["resets"] == 2
    assert driver.resets == []
    check(pool, driver)


def test_a_reset_function_that_raises_has_the_connection_closed(caplog):
    def clean(connection, dirty):
        raise ValueError("on purpose")

    pool, driver, _ = make_pool(reset=clean)
    for _ in range(3):
        use(pool, dirty=False)
    assert pool.stats()["discarded"] == {"not clean": 3}
    assert "on purpose" in caplog.text
    check(pool, driver)


@pytest.mark.parametrize("mode", ["auto", "always", "never"])
def test_in_every_mode_an_open_transaction_is_rolled_back(mode):
    pool, driver, _ = make_pool(reset=mode)
    entry = pool.checkout(ANYBODY)
    entry.connection.transaction = "open"
    pool.checkin(entry)
    assert pool.stats()["rollbacks"] == 1
    check(pool, driver)
