"""What is shown of a hold on a real server, and what the cancelling of one does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw import HoldCancelled, pooled
from dbpool_mw.binding import registry
from dbpool_mw.core.errors import HoldEnded
from tests.core.fakes import InThread, until
from tests.library import only_psycopg, only_psycopg2
from tests.postgres.conftest import Requests, ask, stats
from tests.soak import soaked
from tests.vocabulary import driver, library, tracked

pytestmark = pytest.mark.usefixtures("fresh_wrappers", "requests")

sql: Any = library.sql


def holders() -> list[dict[str, Any]]:
    return [holder for pool in registry.pools() for holder in pool.holders()]


def running(text: str) -> list[dict[str, Any]]:
    """Return the holders that run a statement which begins so."""
    return [h for h in holders() if (h["statement"] or "").startswith(text)]


def cancel(*ids: str) -> list[str]:
    (pool,) = registry.pools()
    return pool.cancel(ids)


# --- Cancelling -----------------------------------------------------------------------


def test_of_two_requests_the_one_that_is_cancelled_ends_and_the_other_goes_on(
    requests: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    caught: dict[str, Any] = {}
    go_on = threading.Event()

    def sleeps(name: str, seconds: int) -> Callable[[Any], HttpResponse]:
        def view(request: Any) -> HttpResponse:
            try:
                ask(f"SELECT '{name}', pg_sleep({seconds})")
            except OperationalError as error:
                caught[name] = error, time.monotonic()
            go_on.wait(20)
            return HttpResponse(name)

        return view

    # Each thread has an urlconf of its own only one after the other.
    first = InThread(requests, sleeps("first", 60))
    until(lambda: len(running("SELECT")) == 1)
    (shown,) = running("SELECT")
    second = InThread(requests, sleeps("second", 60))
    until(lambda: len(running("SELECT")) == 2)
    (other,) = [h for h in running("SELECT") if h["id"] != shown["id"]]
    assert shown["statement"] == "SELECT ?, pg_sleep(?)"
    assert (shown["state"], shown["in_transaction"]) == ("in use", True)

    began = time.monotonic()
    assert cancel(shown["id"]) == [shown["id"]]
    until(lambda: "first" in caught)
    error, at = caught["first"]
    assert at - began < 1
    assert isinstance(error.__cause__, HoldCancelled)
    assert str(error) == f"pool 'default': an operator cancelled hold {shown['id']}"
    assert f"{error}; cancelling (GET / in thread" in caplog.text

    # The other one is where it was, on the server too.
    (left,) = running("SELECT")
    assert left["id"] == other["id"]
    assert ask_server(other["backend_pid"]) == "active"
    assert "second" not in caught

    assert cancel(other["id"]) == [other["id"]]
    until(lambda: "second" in caught)
    go_on.set()
    assert first.result().status_code == second.result().status_code == 200
    assert stats()["discarded"] == {"cancelled": 2}
    # That of this test is left.
    assert stats()["size"] == stats()["idle"] == 1
    assert cancel(shown["id"], other["id"]) == []


def ask_server(pid: int) -> Any:
    with pooled():
        return ask(f"SELECT state FROM pg_stat_activity WHERE pid = {pid}")


@contextmanager
def a_holder(work: Callable[[], None]) -> Iterator[tuple[InThread, Callable[[], None]]]:
    """Give a thread that holds a connection, and what lets it do its work."""
    ready, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with pooled():
            ask("SELECT 1")
            ready.set()
            assert go_on.wait(20)
            work()

    thread = InThread(hold)
    assert ready.wait(20)
    yield thread, go_on.set
    go_on.set()


def test_the_next_statement_of_a_holder_that_runs_nothing_raises() -> None:
    def work() -> None:
        ask("SELECT 2")

    with a_holder(work) as (thread, go_on):
        (shown,) = holders()
        assert (shown["statement"], shown["in_transaction"]) == (None, False)
        assert cancel(shown["id"]) == [shown["id"]]
        go_on()
        with pytest.raises(OperationalError) as caught:
            thread.result()
    assert isinstance(caught.value.__cause__, HoldCancelled)
    assert isinstance(caught.value.__cause__, HoldEnded)
    assert stats()["discarded"] == {"cancelled": 1}


def test_a_holder_that_is_cancelled_in_its_transaction_commits_nothing() -> None:
    with pooled():
        ask("CREATE TABLE IF NOT EXISTS cancelled_holds (a int)")

    ready, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with pooled(), transaction.atomic():
            ask("INSERT INTO cancelled_holds VALUES (1)")
            ready.set()
            assert go_on.wait(20)

    thread = InThread(hold)
    assert ready.wait(20)
    (shown,) = holders()
    assert (shown["statement"], shown["in_transaction"]) == (None, True)
    cancel(shown["id"])
    go_on.set()
    with pytest.raises(OperationalError, match="an operator cancelled hold"):
        thread.result()
    with pooled():
        assert ask("SELECT count(*) FROM cancelled_holds") == 0


@override_settings(DBPOOL_MW_MAX_CONNS=1)
@pytest.mark.parametrize("seed", range(soaked(20)))
def test_the_next_holder_of_the_connection_is_never_cancelled(seed: int) -> None:
    """The hold ends at about the time of the cancel, sooner or later with the seed."""
    start = threading.Barrier(2)
    ready = threading.Event()

    def hold() -> None:
        with pooled():
            ask("SELECT 1")
            ready.set()
            start.wait(20)
            spin(20 - seed)

    first = InThread(hold)
    assert ready.wait(20)
    (shown,) = holders()

    def work() -> int:
        with pooled():
            # It waits for the place of the first.
            return sum(ask("SELECT 1") for _ in range(20))

    second = InThread(work)
    until(lambda: stats()["waiting"] == 1)
    start.wait(20)
    spin(seed)
    cancelled = cancel(shown["id"])
    first.result()
    assert second.result() == 20
    assert cancel(shown["id"]) == []
    with pooled():
        assert ask("SELECT 1") == 1
    closed = stats()["discarded"]
    assert closed == {"cancelled": 1} if cancelled else set(closed) <= {"expired"}


def spin(number: int) -> None:
    for _ in range(number * 50):
        pass


# --- What is shown --------------------------------------------------------------------


def while_running(execute: Callable[[Any], object]) -> dict[str, Any]:
    """Return the holder while ``execute``, which is given a cursor, sleeps."""

    def hold() -> None:
        with pooled(), connection.cursor() as cursor:
            execute(cursor)

    thread = InThread(hold)
    found: list[dict[str, Any]] = []

    def sleeps() -> bool:
        found[:] = [h for h in holders() if "pg_sleep" in (h["statement"] or "")]
        return bool(found) or not thread.is_alive()

    until(sleeps)
    if found:
        cancel(found[0]["id"])
    with pytest.raises((OperationalError, library.OperationalError)):
        thread.result()
    return found[0]


def many(cursor: Any) -> None:
    cursor.execute("CREATE TEMP TABLE many (a text, b text)")
    cursor.executemany("INSERT INTO many SELECT %s, pg_sleep(60)", [(SECRET,)])


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("execute", "text"),
    [
        (lambda c: c.execute("SELECT pg_sleep(60)"), "SELECT pg_sleep(?)"),
        (
            lambda c: c.execute("SELECT %s, pg_sleep(%s)", [SECRET, 60]),
            "SELECT %s, pg_sleep(%s)",
        ),
        (
            lambda c: c.execute(
                "SELECT %(a)s,\n pg_sleep(%(b)s)", {"a": SECRET, "b": 60}
            ),
            "SELECT %(a)s, pg_sleep(%(b)s)",
        ),
        (
            lambda c: c.execute(
                f"SELECT '{SECRET}' AS \"A name\", pg_sleep(60) -- {SECRET}"
            ),
            'SELECT ? AS "A name", pg_sleep(?)',
        ),
        (
            lambda c: c.cursor.execute(b"SELECT pg_sleep(60), 'x'"),
            "SELECT pg_sleep(?), ?",
        ),
        (
            lambda c: c.cursor.execute(
                sql.SQL("SELECT {}, pg_sleep({})").format(
                    sql.Literal(SECRET), sql.Literal(60)
                )
            ),
            "SELECT ?, pg_sleep(?)",
        ),
        # Not harmless, so judged each time.
        (
            lambda c: c.execute(
                "SET LOCAL work_mem = '64kB'; SELECT %s, pg_sleep(60)", [SECRET]
            ),
            "SET LOCAL work_mem = ?; SELECT %s, pg_sleep(?)",
        ),
        (many, "INSERT INTO many SELECT %s, pg_sleep(?)"),
        pytest.param(
            lambda c: c.callproc("pg_sleep", [60]),
            "SELECT * FROM pg_sleep(...)",
            marks=only_psycopg2,
        ),
        pytest.param(
            lambda c: next(c.cursor.stream("SELECT %s, pg_sleep(60)", [SECRET])),
            "SELECT %s, pg_sleep(?)",
            marks=only_psycopg,
        ),
        pytest.param(
            lambda c: connection.connection.execute("SELECT %s, pg_sleep(60)", ["x"]),
            "SELECT %s, pg_sleep(?)",
            marks=only_psycopg,
        ),
    ],
)
def test_the_statement_that_runs_is_shown_without_any_value(
    execute: Callable[[Any], object], text: str
) -> None:
    found = while_running(execute)
    assert found["statement"] == text
    assert SECRET not in str(found)
    assert found["in_transaction"] is True


def test_no_statement_is_kept_when_it_has_ended_or_failed() -> None:
    with pooled(), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        raw: Any = connection.connection
        assert raw.statement is None
        with pytest.raises(Exception, match="division by zero"):
            cursor.execute("SELECT 1 / 0")
        assert raw.statement is None
        cursor.executemany("SELECT %s", [(1,), (2,)])
        assert raw.statement is None
        assert holders()[0]["statement"] is None


def test_what_is_in_a_transaction_is_told_without_asking_the_server() -> None:
    with pooled():
        ask("SELECT 1")
        assert holders()[0]["in_transaction"] is False
        with transaction.atomic():
            # Django begins when it is needed.
            ask("SELECT 1")
            assert holders()[0]["in_transaction"] is True
        assert holders()[0]["in_transaction"] is False
        raw: Any = connection.connection
        raw.close()
        assert holders()[0]["in_transaction"] is False
        assert holders()[0]["statement"] is None


@only_psycopg2
@pytest.mark.parametrize("slots", [(), ("own",)])
def test_a_connection_class_of_the_project_may_have_slots(
    postgres: Any, database: str, slots: tuple[str, ...]
) -> None:
    kind = type("Own", (library.extensions.connection,), {"__slots__": slots})
    made = tracked(postgres.dsn(database), kind)
    try:
        assert isinstance(made, kind)
        assert driver.statement(made) is None
        with made.cursor() as cursor:
            cursor.execute("SELECT 1")
        assert made.statement is None
    finally:
        made.close()
