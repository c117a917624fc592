"""What a pool says of each hold, of those who wait, and of its settings."""

from __future__ import annotations

import json
import os

import pytest

from dbpool_mw.core.config import PoolConfig, build
from dbpool_mw.core.entry import hold_id
from tests.core.fakes import Holder, InThread, make_pool, until
from tests.core.test_pool_cancelled_holds import World, within


def test_a_holder_has_its_id_its_state_and_what_it_runs():
    pool, _, clock = make_pool(max_conns=3)
    busy, idle = pool.checkout(Holder("busy")), pool.checkout(Holder("idle"))
    busy.connection.transaction = "busy"
    busy.connection.statement = "SELECT 1"
    clock.advance(2)
    first, second = sorted(pool.holders(), key=lambda row: row["path"])
    assert first == {
        "id": hold_id(busy, 1000.0),
        "alias": "default",
        "address": "",
        "backend_pid": 1001,
        "state": "in use",
        "seconds": 2.0,
        "stale": False,
        "leaked": False,
        "stack": [],
        "in_transaction": True,
        "statement": "shown: SELECT 1",
        "thread": "busy",
        "method": "GET",
        "path": "/busy/",
        "route": "busy/",
    }
    assert (second["in_transaction"], second["statement"]) == (False, None)
    idle.connection.transaction = "open"
    (row,) = (h for h in pool.holders() if h["path"] == "/idle/")
    assert row["in_transaction"] is True


def test_an_id_is_of_this_process_and_of_one_hold():
    pool, _, _ = make_pool()
    entry = pool.checkout(Holder())
    (row,) = pool.holders()
    pid, serial, began = row["id"].split("-")
    assert (int(pid), int(serial)) == (os.getpid(), entry.serial)
    assert int(began, 16) == 1000 * 10**9
    (again,) = pool.holders()
    assert again["id"] == row["id"]


def test_entries_of_all_pools_have_serials_of_their_own():
    pools = [make_pool(max_conns=3)[0] for _ in range(3)]
    serials = [pool.checkout(Holder()).serial for pool in pools for _ in range(3)]
    assert len(set(serials)) == 9


def test_what_is_shown_of_a_hold_is_never_the_next_holders():
    """Another thread checks in, and another one out, at any line of a report."""
    for number in range(1, 1000):
        world = World()
        world.connection.statement = "of shown"
        rows = []

        def next_one(world=world):
            world.check_in_and_out()
            world.connection.statement = "of next"

        def report(world=world, rows=rows):
            rows.extend(world.pool.holders())

        reached = within(world, report, next_one, number, locked=True)
        for row in rows:
            if row["id"] == world.name:
                assert (row["path"], row["statement"]) == ("/shown/", "shown: of shown")
            else:
                assert (row["path"], row["statement"]) == ("/next/", "shown: of next")
        if not reached:
            break
    assert 5 < number < 999


def test_an_error_shows_no_statement_and_reads_none():
    pool, driver, _ = make_pool(max_conns=1)
    pool.checkout(Holder()).connection.statement = "SELECT 's3cr3t'"

    def shown(statement):
        raise AssertionError("a time-out is no time to read statements")

    driver.shown = shown
    with pytest.raises(Exception, match="no connection within") as caught:
        pool.checkout(Holder())
    assert "s3cr3t" not in str(caught.value)


def test_who_waits_is_listed_in_the_order_of_the_queue():
    pool, _, clock = make_pool(max_conns=1, timeout=20)
    assert pool.waiters() == []
    entry = pool.checkout(Holder("holds"))
    waiting = []
    for number in range(3):
        waiting.append(InThread(pool.checkout, Holder(f"waits{number}")))
        until(lambda number=number: pool.stats()["waiting"] == number + 1)
        clock.advance(1)
    rows = pool.waiters()
    assert [(row["path"], row["seconds"]) for row in rows] == [
        ("/waits0/", 3.0),
        ("/waits1/", 2.0),
        ("/waits2/", 1.0),
    ]
    assert rows[0] == {
        "alias": "default",
        "address": "",
        "seconds": 3.0,
        "thread": "waits0",
        "method": "GET",
        "path": "/waits0/",
        "route": "waits0/",
    }
    pool.checkin(entry)
    for each in waiting:
        pool.checkin(each.result())
    assert pool.waiters() == []


def forget_user(connection, dirty):
    pass


class Reset:
    def __call__(self, connection, dirty):
        pass


def test_the_settings_in_force_are_plain_data_under_their_names():
    pool, _, _ = make_pool(**vars_of(build({"MAX_CONNS": 7, "MAX_HOLD": 30})))
    found = pool.settings()
    assert json.loads(json.dumps(found)) == found
    assert found == {
        "alias": "default",
        "address": "",
        "MIN_CONNS": 0,
        "MAX_CONNS": 7,
        "TIMEOUT": 5.0,
        "MAX_WAITING": 0,
        "MAX_IDLE": 600.0,
        "MAX_LIFETIME": 3600.0,
        "CHECK_AFTER_IDLE": 30.0,
        "RESET": "auto",
        "LEAK_AFTER": None,
        "MAX_HOLD": 30.0,
        "ROUTES": 0,
        "STUCK_AFTER": 10.0,
    }


@pytest.mark.parametrize(
    ("reset", "name"),
    [
        (forget_user, f"{__name__}.forget_user"),
        (Reset(), f"{__name__}.Reset"),
        ("never", "never"),
    ],
)
def test_a_reset_of_the_project_is_shown_by_its_name(reset, name):
    pool, _, _ = make_pool(reset=reset)
    assert pool.settings()["RESET"] == name


def vars_of(config: PoolConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in PoolConfig.__dataclass_fields__}
