"""What a pool does, and does not do, with a connection that comes back."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from dbpool_mw.core.config import PoolConfig
from dbpool_mw.core.errors import PoolError
from dbpool_mw.core.pool import ConnectionPool
from tests.core.fakes import FakeDriver, Holder, InThread, check, make_pool, until

ANYBODY = Holder()


class AutocommitDriver(FakeDriver):
    """A driver whose connections may come back with autocommit switched."""

    restored = 0

    def is_clean(self, connection, initial):
        switched = getattr(connection, "switched", False)
        return super().is_clean(connection, initial) and not switched

    def accept(self, connection, initial):
        connection.switched = False
        self.restored += 1


def test_switched_autocommit_is_put_back_without_a_reset():
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


@pytest.mark.parametrize("turn", ["drain", "pause", "recycle", "close"])
def test_a_dirty_connection_that_must_go_is_not_cleaned_first(turn):
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    entry.connection.transaction = "open"
    entry.connection.dirty = True
    getattr(pool, turn)()
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


def test_while_it_is_cleaned_nobody_can_give_it_back_or_get_it():
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
    # Its hold has ended and is booked; the place is taken all the same.
    assert seen == [(1, 0, 1), []]
    assert pool.stats()["checkouts"] == 1
    check(pool, driver)


@pytest.mark.parametrize("way", ["discard", "checkin"])
def test_while_it_is_closed_it_takes_its_place_and_afterwards_it_is_gone(way):
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
    if way == "discard":
        pool.discard(entry, "test")
    else:
        entry.connection.transaction = "unknown"
        pool.checkin(entry)
    assert seen == [1]
    with pytest.raises(PoolError, match="that is closed"):
        pool.checkin(entry)
    check(pool, driver)


def test_a_close_that_hangs_holds_up_nobody_else():
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


@pytest.mark.parametrize("way", ["checkin", "discard"])
def test_the_pool_keeps_no_holder_alive(way):
    pool, _, _ = make_pool()
    holder = Holder()
    gone = weakref.ref(holder)
    entry = pool.checkout(holder)
    if way == "checkin":
        pool.checkin(entry)
    else:
        pool.discard(entry, "test")
    del holder
    gc.collect()
    assert gone() is None


def test_sleep_counts_from_the_checkin_not_from_the_checkout():
    pool, driver, clock = make_pool(check_after_idle=30)
    entry = pool.checkout(ANYBODY)
    clock.advance(100)
    pool.checkin(entry)
    clock.advance(29)
    pool.checkout(ANYBODY)
    assert driver.round_trips == 0


def test_with_check_after_idle_0_a_connection_handed_over_is_asked_too():
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


def give_back(pool, *, dirty):
    entry = pool.checkout(ANYBODY)
    entry.connection.dirty = dirty
    pool.checkin(entry)
    return entry.connection


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
def test_each_mode_resets_what_it_says(mode, dirty, resets):
    pool, driver, _ = make_pool(reset=mode)
    for number in range(1, 4):
        connection = give_back(pool, dirty=dirty)
        assert driver.round_trips == len(driver.resets) == resets * number
        assert not connection.dirty
    assert pool.stats()["resets"] == resets * 3
    assert pool.stats()["opened"] == 1
    check(pool, driver)


def test_a_function_cleans_every_session_and_is_told_which_were_dirty():
    calls = []

    def clean(connection, dirty):
        calls.append((connection.number, dirty))
        connection.dirty = True  # by its own statements

    pool, driver, _ = make_pool(reset=clean)
    assert not give_back(pool, dirty=True).dirty
    assert not give_back(pool, dirty=False).dirty
    assert calls == [(1, True), (1, False)]
    assert pool.stats()["resets"] == 2
    assert driver.resets == []
    check(pool, driver)


def test_a_function_that_raises_costs_the_connection_and_nothing_else(caplog):
    def clean(connection, dirty):
        raise ValueError("on purpose")

    pool, driver, _ = make_pool(reset=clean)
    for _ in range(3):
        give_back(pool, dirty=False)
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
