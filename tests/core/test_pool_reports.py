"""What a pool tells of itself."""

from __future__ import annotations

import pytest

from dbpool_mw.core.errors import PoolTimeout
from tests.core.fakes import Holder, check, make_pool

ANYBODY = Holder()


class Described(Holder):
    def __init__(self, **words):
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


def test_a_holder_that_says_nothing_is_unknown():
    pool, _, _ = make_pool(max_conns=1)
    pool.checkout(Described())
    assert why(pool).endswith("; held by unknown for 0.0 s")


def test_exactly_as_many_holders_as_are_named_leave_no_more():
    pool, _, _ = make_pool(max_conns=5)
    for number in range(5):
        pool.checkout(Holder(f"h{number}"))
    text = why(pool)
    assert text.count(" in thread ") == 5
    assert " more" not in text


def test_a_reclaimed_entry_without_a_known_owner_is_logged_too(caplog):
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    entry.holder = None
    pool.reclaim(entry)
    assert "from a holder that is gone (unknown)" in caplog.text
    check(pool, driver)


def test_a_rollback_for_an_owner_that_is_not_known_is_logged_too(caplog):
    pool, driver, _ = make_pool()
    entry = pool.checkout(ANYBODY)
    entry.holder = None
    entry.connection.transaction = "open"
    pool.checkin(entry)
    assert "left open (unknown)" in caplog.text
    check(pool, driver)


def test_what_was_handed_over_and_not_picked_up_yet_has_no_holder():
    pool, _, _ = make_pool(max_conns=1)
    entry = pool.checkout(ANYBODY)
    seen = []

    class Waiter:
        gift = error = None

        def hand_over(self, entry):
            self.entry = entry

        def wait(self, seconds):
            pool.checkin(entry)
            stats = pool.stats()
            seen.append((stats["in_use"], stats["checkouts"], pool.holders()))

    pool._slots.make_waiter = Waiter
    pool.checkout(ANYBODY)
    assert seen == [(1, 1, [])]
    assert pool.stats()["checkouts"] == 2


def test_while_a_connection_is_opened_its_place_is_connecting():
    pool, driver, _ = make_pool(max_conns=3)
    seen = []

    def on_connect():
        stats = pool.stats()
        seen.append((stats["size"], stats["connecting"], stats["in_use"]))

    driver.on_connect = on_connect
    pool.checkout(ANYBODY)
    pool.checkout(ANYBODY)
    assert seen == [(1, 1, 0), (2, 1, 1)]


def test_a_report_is_a_copy():
    pool, _, _ = make_pool()
    pool.discard(pool.checkout(ANYBODY), "test")
    stats = pool.stats()
    stats["discarded"]["test"] = 99
    stats["hold_seconds"]["buckets"][0] = 99
    assert pool.stats()["discarded"] == {"test": 1}
    assert pool.stats()["hold_seconds"]["count"] == 1


def test_a_failed_checkout_is_not_counted_as_one():
    pool, _, _ = make_pool(max_conns=1)
    entry = pool.checkout(ANYBODY)
    why(pool)
    pool.checkin(entry)
    assert pool.stats()["checkouts"] == 1
    assert pool.stats()["wait_seconds"]["count"] == 1
    assert pool.stats()["waits"] == 1
