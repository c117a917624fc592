"""What only psycopg has: prepared statements, blocks, adapters and iterators.

What a request leaves of them is in ``states``, and what the next one finds in
``test_sessions``.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from contextlib import contextmanager, suppress
from functools import partial

import pytest
from django.db import DatabaseError, connection, connections, transaction
from django.db.backends.signals import connection_created
from django.http import HttpResponse
from django.test import override_settings
from django.utils.version import get_version_tuple

from tests.core.fakes import InThread, until
from tests.library import PYTHONPATH, only_psycopg
from tests.postgres.conftest import ask, forget_wrappers, stats
from tests.vocabulary import (
    close_all,
    connect,
    driver,
    execute,
    library,
    since_psycopg_32,
    tracked,
)

pytestmark = only_psycopg

PREPARED = "SELECT count(*) FROM pg_prepared_statements"


def run(requests, work):
    """Have a request do some work, and return what that returns."""
    found = []

    def view(request):
        connection.ensure_connection()
        found.append(work())
        return HttpResponse()

    assert requests(view).status_code == 200
    return found[0]


# --- Prepared statements --------------------------------------------------------------


@pytest.fixture
def prepares(requests, wire, monkeypatch):
    """Have Django's cursors bind on the server, and prepare what comes twice."""
    options = {"sslmode": "disable", "server_side_binding": True}
    settings = connections.settings["default"]
    monkeypatch.setitem(settings, "OPTIONS", {**options, "prepare_threshold": 1})
    forget_wrappers()
    yield
    forget_wrappers()


def select(number=1):
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::int AS number", [number])
        assert cursor.fetchone() == (number,)


def parsed(wire):
    """Return how many statements the server was told to parse."""
    return wire.messages.count(b"P")


@pytest.mark.usefixtures("prepares")
def test_a_thousand_requests_use_one_prepared_statement(requests, wire):
    for number in range(3):
        run(requests, partial(select, number))
    wire.messages.clear()
    for number in range(1000):
        run(requests, partial(select, number))
    assert parsed(wire) == 0
    assert wire.messages.count(b"B") == 1000
    assert run(requests, lambda: ask(PREPARED)) == 1
    assert (stats()["opened"], stats()["resets"]) == (1, 0)


def dirty():
    select()
    ask("SET app.user_id = '42'")


def leave_transaction():
    ask("BEGIN")
    select()


def roll_back():
    with suppress(ZeroDivisionError), transaction.atomic():
        select()
        raise ZeroDivisionError


def discard():
    select()
    ask("DISCARD ALL")


def deallocate():
    select()
    ask("DEALLOCATE ALL")


@pytest.mark.usefixtures("prepares")
@pytest.mark.parametrize("mode", ["auto", "always"])
@pytest.mark.parametrize(
    "work", [dirty, leave_transaction, roll_back, discard, deallocate]
)
def test_statements_that_a_reset_or_a_rollback_dropped_are_prepared_again(
    work, mode, requests, wire
):
    with override_settings(DBPOOL_MW_RESET=mode):
        for _ in range(5):
            run(requests, select)
            run(requests, work)
            run(requests, select)
        assert stats()["opened"] == 1


@pytest.mark.usefixtures("prepares")
def test_a_reset_drops_prepared_statements_and_psycopgs_memory_of_them(requests, wire):
    for _ in range(3):
        run(requests, select)
    assert run(requests, lambda: ask(PREPARED)) == 1
    run(requests, dirty)
    assert run(requests, lambda: list(connection.connection._prepared._names)) == []
    assert run(requests, lambda: ask(PREPARED)) == 0
    wire.messages.clear()
    for _ in range(10):
        run(requests, select)
    # Once to execute it, once to prepare it.
    assert parsed(wire) == 2
    assert stats()["resets"] == 1


@pytest.mark.usefixtures("prepares")
@pytest.mark.parametrize("name", ["prepare_threshold", "prepared_max"])
def test_a_limit_of_the_options_holds_after_a_reset(name, requests):
    before = run(requests, lambda: getattr(connection.connection, name))

    def work():
        setattr(connection.connection, name, 77)
        ask("SET app.user_id = '42'")

    run(requests, work)
    assert stats()["resets"] == 1
    assert run(requests, lambda: getattr(connection.connection, name)) == before


@pytest.mark.usefixtures("prepares")
@pytest.mark.parametrize("mode", ["auto", "never", lambda connection, dirty: None])
@pytest.mark.parametrize("change", ["another type", "no longer prepared"])
def test_a_prepared_statement_that_the_server_refuses_fails_one_request(
    change, mode, requests, databases
):
    """The table was migrated elsewhere, or a function has dropped the statement."""
    ask("DROP TABLE IF EXISTS migrated")
    ask("CREATE TABLE migrated AS VALUES ('a'::varchar(50))")
    ask(
        "CREATE OR REPLACE FUNCTION drop_statements() RETURNS int LANGUAGE plpgsql"
        " AS $$ BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN 1; END $$"
    )
    connection.close()

    def read():
        return ask("SELECT column1 FROM migrated")

    with override_settings(DBPOOL_MW_RESET=mode):
        for _ in range(3):
            run(requests, read)
        if change == "another type":
            migration = "ALTER TABLE migrated ALTER column1 TYPE varchar(70)"
            with connect(databases.server.dsn(databases.default)) as other:
                execute(other, migration)
        else:
            run(requests, lambda: ask("SELECT drop_statements()"))

        def fails():
            with pytest.raises(DatabaseError):
                read()
            return read()

        assert run(requests, fails) == "a"
        for _ in range(3):
            assert run(requests, read) == "a"
        assert stats()["opened"] == 1


# --- Notifications --------------------------------------------------------------------


@contextmanager
def receiving(function):
    """Have a function called with each new connection of psycopg's."""

    def receiver(connection, **signal):
        function(connection.connection)

    connection_created.connect(receiver)
    try:
        yield
    finally:
        connection_created.disconnect(receiver)


def notifications():
    raw = connection.connection
    return [each.payload for each in raw.notifies(timeout=0.2, stop_after=1)]


@since_psycopg_32
@pytest.mark.usefixtures("fresh_wrappers")
def test_a_holder_gets_no_notification_of_an_earlier_one(requests):
    with receiving(lambda raw: raw.execute("LISTEN everybody")):
        run(requests, lambda: ask("NOTIFY everybody, 'first'"))
        assert run(requests, notifications) == []
        run(requests, lambda: ask("NOTIFY everybody, 'second'"))

        def hears():
            ask("NOTIFY everybody, 'third'")
            return notifications()

        assert run(requests, hears) == ["third"]
        assert (stats()["opened"], stats()["resets"]) == (1, 0)


@since_psycopg_32
@pytest.mark.usefixtures("fresh_wrappers")
@pytest.mark.parametrize("reset", ["auto", "always", "never"])
def test_an_iterator_of_notifications_that_is_kept_costs_the_connection(
    requests, reset
):
    kept = []

    def work():
        ask("NOTIFY everybody")
        kept.append(connection.connection.notifies())
        next(kept[0])

    with (
        receiving(lambda raw: raw.execute("LISTEN everybody")),
        override_settings(DBPOOL_MW_RESET=reset),
    ):
        run(requests, work)
        # It has the connection's lock, and would keep the next holder waiting.
        assert stats()["discarded"] == {"busy": 1}
        assert run(requests, lambda: ask("SELECT 1")) == 1
        close_all(kept)
        assert run(requests, lambda: ask("SELECT 1")) == 1
        assert stats()["opened"] == 2


# --- Blocks ---------------------------------------------------------------------------


def test_the_end_of_a_block_left_open_is_not_that_of_the_next_holders(requests):
    kept = []

    def leave():
        kept.append(connection.connection.transaction())
        kept[0].__enter__()

    def work():
        with connection.connection.transaction():
            ask("CREATE TEMP TABLE mine (a int)")
            close_all(kept)
        return ask("SELECT count(*) FROM mine")

    run(requests, leave)
    assert stats()["discarded"] == {"block left open": 1}
    assert run(requests, work) == 0


def test_blocks_that_are_left_cost_nothing(requests, wire):
    def work():
        raw = connection.connection
        with raw.transaction(), raw.transaction():
            raw.execute("SELECT 1")
        with raw.pipeline():
            raw.execute("SELECT 1")
        with raw.cursor().copy("COPY (SELECT 1) TO STDOUT") as copy:
            list(copy)
        list(raw.cursor().stream("SELECT generate_series(1, 9)"))

    run(requests, work)
    run(requests, work)
    assert stats()["opened"] == 1
    assert stats()["resets"] == stats()["rollbacks"] == 0


# --- Adapters -------------------------------------------------------------------------


@pytest.fixture
def types(requests):
    """Make types that psycopg knows nothing of."""
    ask("CREATE EXTENSION IF NOT EXISTS hstore")
    ask("CREATE EXTENSION IF NOT EXISTS citext")
    ask("DROP TYPE IF EXISTS a_pair; CREATE TYPE a_pair AS (a int, b text)")
    ask("DROP TYPE IF EXISTS a_mood; CREATE TYPE a_mood AS ENUM ('sad', 'ok')")
    connection.close()
    forget_wrappers()
    yield
    forget_wrappers()


def register_all(raw):
    from psycopg.types import TypeInfo, composite, enum, hstore

    hstore.register_hstore(TypeInfo.fetch(raw, "hstore"), raw)
    TypeInfo.fetch(raw, "citext").register(raw)
    composite.register_composite(composite.CompositeInfo.fetch(raw, "a_pair"), raw)
    enum.register_enum(enum.EnumInfo.fetch(raw, "a_mood"), raw)


def read():
    """Return the types of what is read of each of the project's."""
    statement = (
        "SELECT hstore('a', 'b'), ARRAY['x'::citext], ROW(1, 'z')::a_pair, 'ok'::a_mood"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return [type(value).__name__ for value in cursor.fetchone()]


UNKNOWN = ["str", "str", "str", "str"]
KNOWN = ["dict", "list", "a_pair", "A_Mood"]


@pytest.mark.usefixtures("types")
def test_what_a_request_registers_is_undone_without_a_round_trip(requests, wire):
    assert run(requests, read) == UNKNOWN

    def work():
        register_all(connection.connection)
        found = read()
        wire.messages.clear()
        return found

    assert run(requests, work) == KNOWN
    assert wire.messages == []
    assert run(requests, read) == UNKNOWN
    assert (stats()["opened"], stats()["resets"]) == (1, 0)


@pytest.mark.usefixtures("types")
@pytest.mark.parametrize("mode", ["auto", "always"])
def test_what_a_receiver_registers_is_every_holders(mode, requests):
    def dirties():
        ask("SET app.user_id = '42'")
        return read()

    def registers():
        from psycopg.types.string import TextLoader

        connection.connection.adapters.register_loader("hstore", TextLoader)
        return read()

    with receiving(register_all), override_settings(DBPOOL_MW_RESET=mode):
        for work in (read, dirties, read, registers, dirties, registers, read):
            found = run(requests, work)
            assert found == (["str", *KNOWN[1:]] if work is registers else KNOWN)
        assert stats()["opened"] == 1


# --- Threads --------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 20])
def test_a_connection_that_is_busy_is_not_closed_under_its_runner(
    postgres, database, times
):
    """The runners get errors of psycopg's; the process would crash otherwise."""
    dsn = postgres.dsn(database)
    with connect(dsn, autocommit=True) as observer:
        for _ in range(times):
            made = tracked(dsn, autocommit=True)
            pid = made.info.backend_pid
            runner = InThread(execute, made, "SELECT pg_sleep(60)")
            sleeps = (
                f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"
                " AND wait_event = 'PgSleep'"
            )
            until(lambda query=sleeps: execute(observer, query))
            driver.close(made)
            with pytest.raises(library.OperationalError):
                runner.result()
            # Where the cancel came first, psycopg doesn't know of the end yet.
            with pytest.raises(library.OperationalError):
                execute(made, "SELECT 1")
            assert made.closed
            is_there = f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"
            until(lambda query=is_there: not execute(observer, query))
            # psycopg warns of a connection that nobody closed.
            del made, runner
            gc.collect()


def test_a_connection_that_is_closed_between_two_statements_is_not_used_anew(
    postgres, database
):
    """Another thread goes on with statements until the close stops it."""
    made = tracked(postgres.dsn(database), autocommit=True)
    ran = []

    def run_on():
        while True:
            execute(made, "SELECT 1")
            ran.append(1)

    runner = InThread(run_on)
    until(lambda: len(ran) > 10)
    driver.close(made)
    with pytest.raises(library.OperationalError):
        runner.result()
    assert made.closed


# --- Greenlets ------------------------------------------------------------------------

_GREENLETS = """
from gevent import monkey
monkey.patch_all()
import os, sys
import gevent
import psycopg
from dbpool_mw.drivers.psycopg import driver

def open_one():
    made = psycopg.connect(os.environ["A_DSN"], autocommit=True)
    assert driver.track(made)
    return made

def running(made):
    query = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    return observer.execute(query, [made.info.backend_pid]).fetchone()

def is_there(made, pid):
    return observer.execute(
        "SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]
    ).fetchone()

def until(condition):
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.01)

observer = open_one()
# They wait at the same time.
made = [open_one() for _ in range(5)]
sleeping = [gevent.spawn(each.execute, "SELECT pg_sleep(60)") for each in made]
until(lambda: all(running(each) for each in made))
# A cancel lets the others run.
made[0].canceller.start()
try:
    sleeping[0].get(timeout=20)
except psycopg.errors.QueryCanceled:
    assert made[0].execute("SELECT 1").fetchone() == (1,)
# A killed greenlet leaves its connection busy; the close ends the statement.
pid = made[1].info.backend_pid
sleeping[1].kill()
assert driver.why_unusable(made[1]) == "busy"
driver.close(made[1])
until(lambda: not is_there(made[1], pid))
# One that runs gets an error of a close.
pid = made[2].info.backend_pid
driver.close(made[2])
try:
    sleeping[2].get(timeout=20)
except psycopg.OperationalError:
    until(lambda: not is_there(made[2], pid))
    print("done")
os._exit(0 if sys.stdout.flush() is None else 1)
"""


@pytest.mark.skipif(
    get_version_tuple(library.__version__) < (3, 1, 14),
    reason="psycopg lets other greenlets run since 3.1.14",
)
def test_greenlets_wait_together_and_are_cancelled_and_killed(postgres, database):
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", _GREENLETS],
        env={
            "A_DSN": postgres.dsn(database),
            "PYTHONPATH": PYTHONPATH,
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "done\n", done.stderr
    assert done.returncode == 0
