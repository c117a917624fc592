"""Waits and holds are counted by what the work is called, for a number of names."""

from __future__ import annotations

import gc

import pytest

from dbpool_mw.core.metrics import OTHER
from dbpool_mw.core.pool import ConnectionPool
from dbpool_mw.core.routes import NAMELESS, Routes
from dbpool_mw.core.text import REQUEST
from tests.core.fakes import (
    HOSTILE,
    Holder,
    InThread,
    check,
    end_hold,
    make_pool,
    until,
)


def holder(route):
    made = Holder()
    made.route = route
    return made


def found(pool):
    return {row["name"]: row for row in pool.routes()}


def hold(pool, clock, route, seconds):
    entry = pool.checkout(holder(route))
    clock.advance(seconds)
    pool.checkin(entry)


def test_each_hold_counts_under_the_name_of_its_work():
    pool, driver, clock = make_pool(routes=10)
    for route, seconds in [("a/", 1), ("b/", 2), ("a/", 3)]:
        hold(pool, clock, route, seconds)
    rows = found(pool)
    assert rows.keys() == {"a/", "b/"}
    assert {row["alias"] for row in rows.values()} == {"default"}
    holds, waits = rows["a/"]["holds"], rows["a/"]["waits"]
    assert (holds["count"], holds["sum"], holds["max"]) == (2, 4, 3)
    assert (waits["count"], waits["sum"], waits["max"]) == (2, 0, 0)
    assert rows["b/"]["holds"]["sum"] == 2
    # The pool's own figures are as without it.
    assert pool.stats()["hold_seconds"]["sum"] == 6
    check(pool, driver)


def test_the_name_is_the_one_at_the_end_of_the_hold():
    pool, _, _ = make_pool(routes=10)
    work = holder(None)
    entry = pool.checkout(work)
    work.route = "found/later/"
    pool.checkin(entry)
    assert found(pool).keys() == {"found/later/"}


def test_the_wait_counts_under_the_name_too():
    pool, _, clock = make_pool(routes=10, max_conns=1, timeout=20)
    entry = pool.checkout(holder("first/"))
    waiting = InThread(pool.checkout, holder("second/"))
    until(lambda: pool.stats()["waiting"] == 1)
    clock.advance(4)
    pool.checkin(entry)
    second = waiting.result()
    clock.advance(1)
    pool.checkin(second)
    rows = found(pool)
    assert rows["first/"]["waits"]["sum"] == 0
    assert rows["second/"]["waits"]["sum"] == 4
    assert rows["second/"]["holds"]["sum"] == 1


@pytest.mark.parametrize("verb", ["checkin", "discard", "reclaim", "reclaim_soon"])
def test_a_hold_counts_however_it_ends(verb):
    pool, _, _ = make_pool(routes=10)
    end_hold(pool, pool.checkout(holder("a/")), verb)
    assert found(pool)["a/"]["holds"]["count"] == 1


def test_over_the_number_of_names_the_rest_is_other():
    pool, _, clock = make_pool(routes=3)
    for number in range(100):
        hold(pool, clock, f"{number}/", 1)
    hold(pool, clock, "1/", 1)
    rows = found(pool)
    assert rows.keys() == {"0/", "1/", "2/", OTHER}
    assert rows["1/"]["holds"]["count"] == 2
    assert rows[OTHER]["holds"]["count"] == 97


def test_work_without_a_name_has_one():
    pool, _, clock = make_pool(routes=3)
    hold(pool, clock, None, 1)
    hold(pool, clock, "", 1)
    assert found(pool)[NAMELESS]["holds"]["count"] == 2


@pytest.mark.parametrize("text", HOSTILE)
def test_a_name_is_printable_and_short(text):
    pool, _, clock = make_pool(routes=3)
    hold(pool, clock, text, 1)
    (name,) = found(pool)
    assert name.isprintable()
    assert len(name) <= REQUEST


def test_without_routes_nothing_is_counted_and_a_checkin_is_as_before():
    pool, _, clock = make_pool()
    hold(pool, clock, "a/", 1)
    assert pool.routes() == []
    assert pool._end_hold.__func__ is ConnectionPool._end_hold
    assert "_end_hold" not in vars(pool)


def test_what_is_not_counted_yet_is_bounded_without_a_report():
    pool, _, clock = make_pool(routes=1)
    for _ in range(2000):
        hold(pool, clock, "a/", 0.001)
    assert len(pool._routes._ended) <= 300
    assert found(pool)["a/"]["holds"]["count"] == 2000


def test_maintenance_counts_what_is_left():
    pool, _, clock = make_pool(routes=1)
    hold(pool, clock, "a/", 1)
    assert len(pool._routes._ended) == 1
    pool.maintain()
    assert len(pool._routes._ended) == 0


def test_threads_count_every_hold_once():
    pool, _, _ = make_pool(routes=10, max_conns=4, timeout=20)

    def work(number):
        for _ in range(200):
            pool.checkin(pool.checkout(holder(f"{number}/")))

    workers = [InThread(work, number) for number in range(4)]
    while any(worker.is_alive() for worker in workers):
        pool.routes()
    for worker in workers:
        worker.result()
    assert {name: row["holds"]["count"] for name, row in found(pool).items()} == {
        f"{number}/": 200 for number in range(4)
    }


def test_a_pool_that_counts_is_freed_like_any_other():
    pool, _, _ = make_pool(routes=1)
    pool.close()
    marks = []

    class Mark:
        def __del__(self):
            marks.append(1)

    pool.mark = Mark()
    del pool
    gc.collect()
    assert marks == [1]


def test_a_finaliser_may_fold_in_the_middle_of_a_fold():
    routes = Routes(5)

    class Name(str):
        def __hash__(self):
            if not folded:
                folded.append(routes.rows())
            return str.__hash__(self)

    folded = []
    for name in (Name("a/"), Name("b/"), Name("c/")):
        routes.note(holder(name), 0.0, 1.0)
    routes.fold()
    counted = {row["name"]: row["holds"]["count"] for row in routes.rows()}
    assert counted == {"a/": 1, "b/": 1, "c/": 1}


def test_a_finaliser_may_note_in_the_middle_of_a_fold():
    routes = Routes(5)
    for number in range(3):
        routes.note(holder(f"{number}/"), 0.0, 1.0)
    counted = routes._counted_as

    def interrupted(name):
        if name == "1/":
            routes.note(holder("late/"), 0.0, 1.0)
        return counted(name)

    routes._counted_as = interrupted
    routes.fold()
    assert {row["name"] for row in routes.rows()} == {"0/", "1/", "2/", "late/"}
