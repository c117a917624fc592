"""A cursor that outlives its request can't be used in the next holder's session."""

from __future__ import annotations

import io

import psycopg2
import psycopg2.extras
import pytest
from django.db import InterfaceError, connection
from django.http import HttpResponse

from tests.postgres.conftest import ask, stats

GIVEN_BACK = "given back to the pool"


@pytest.fixture
def leaked(requests):
    """Return a cursor of a request that has ended, and its connection."""
    kept = []

    def view(request):
        cursor = connection.cursor()
        cursor.execute("SELECT generate_series(1, 3)")
        kept.extend([cursor, connection.connection])
        return HttpResponse()

    requests(view)
    return kept


def test_a_leaked_cursor_does_not_run_in_the_next_holders_session(leaked, requests):
    cursor, raw = leaked

    def view(request):
        assert connection.connection is raw
        with pytest.raises(InterfaceError, match=GIVEN_BACK):
            cursor.execute("SET app.user_id = '42'")
        assert not raw.dirty
        return HttpResponse(ask("SELECT current_setting('app.user_id', true)") or "")

    assert requests(view).content == b""
    assert stats()["opened"] == 1


USES = {
    "execute": lambda cursor: cursor.execute("SELECT 1"),
    "executemany": lambda cursor: cursor.executemany("SELECT %s", [(1,)]),
    "callproc": lambda cursor: cursor.callproc("version"),
    "copy_expert": lambda cursor: cursor.copy_expert(
        "COPY (SELECT 1) TO STDOUT", io.StringIO()
    ),
    "copy_to": lambda cursor: cursor.copy_to(io.StringIO(), "pg_am"),
    "copy_from": lambda cursor: cursor.copy_from(io.StringIO(), "pg_am"),
}


@pytest.mark.parametrize("name", USES)
def test_no_method_of_a_leaked_cursor_runs_on_an_idle_connection(name, leaked):
    cursor, raw = leaked[0].cursor, leaked[1]
    with pytest.raises(psycopg2.InterfaceError, match=GIVEN_BACK):
        USES[name](cursor)
    assert not raw.maybe_dirty


def test_a_leaked_cursor_can_fetch_its_result_and_be_closed(leaked):
    cursor, _ = leaked
    assert cursor.fetchall() == [(1,), (2,), (3,)]
    cursor.close()


def test_a_cursor_does_not_run_after_a_close_within_its_request(requests):
    def view(request):
        cursor = connection.cursor()
        connection.close()
        ask("SELECT 1")
        with pytest.raises(InterfaceError, match=GIVEN_BACK):
            cursor.execute("SELECT 1")
        return HttpResponse()

    assert requests(view).status_code == 200


def test_a_named_cursor_first_used_after_its_request_does_not_run(requests):
    kept = []

    def view(request):
        kept.append(connection.chunked_cursor())
        return HttpResponse()

    requests(view)
    with pytest.raises(psycopg2.InterfaceError, match=GIVEN_BACK):
        kept[0].cursor.execute("SELECT 1")
    kept[0].close()
    assert stats()["discarded"] == {}


def test_a_cursor_does_not_run_after_its_connection_was_replaced(requests):
    def view(request):
        cursor, raw = connection.cursor(), connection.connection
        connection.connection = psycopg2.connect(raw.dsn, password=raw.info.password)
        connection.close()
        with pytest.raises(InterfaceError, match=GIVEN_BACK):
            cursor.execute("SELECT 1")
        return HttpResponse()

    assert requests(view).status_code == 200
    assert stats()["opened"] == 1


class Kept(psycopg2.extensions.cursor):
    """A cursor class of the project."""


MAKE = {
    "a class": psycopg2.extensions.cursor,
    "a class of the project": Kept,
    "a function": lambda raw: raw.cursor(
        cursor_factory=lambda *args: psycopg2.extensions.cursor(*args)
    ),
    "a class given to cursor()": lambda raw: raw.cursor(cursor_factory=Kept),
}


@pytest.mark.parametrize("how", MAKE)
def test_a_cursor_made_in_another_way_does_not_run_after_its_request(how, requests):
    kept = []

    def view(request):
        connection.ensure_connection()
        kept.append(MAKE[how](connection.connection))
        kept[0].execute("SELECT 1")
        return HttpResponse()

    def later(request):
        connection.ensure_connection()
        for use in USES.values():
            with pytest.raises(psycopg2.InterfaceError, match=GIVEN_BACK):
                use(kept[0])
        return HttpResponse()

    requests(view)
    assert requests(later).status_code == 200
    assert stats()["opened"] == 1


def test_a_cursor_made_by_a_function_does_not_run_though_it_never_did(requests):
    kept = []

    def view(request):
        connection.ensure_connection()
        kept.append(MAKE["a function"](connection.connection))
        return HttpResponse()

    requests(view)
    with pytest.raises(psycopg2.InterfaceError, match=GIVEN_BACK):
        kept[0].execute("SELECT 1")


@pytest.mark.parametrize("factory", [None, psycopg2.extras.DictCursor])
def test_a_kept_named_cursor_reads_nothing_of_the_next_holders(factory, requests):
    kept = []

    def cursor():
        connection.ensure_connection()
        return connection.connection.cursor(
            "same", withhold=True, cursor_factory=factory
        )

    def view(request):
        kept.append(cursor())
        return HttpResponse()

    def later(request):
        with cursor() as mine:
            mine.execute("SELECT generate_series(1, 4)")
            for use in (
                lambda: kept[0].fetchone(),
                lambda: kept[0].fetchmany(2),
                lambda: kept[0].fetchall(),
                lambda: kept[0].scroll(1),
                lambda: next(kept[0]),
                lambda: next(iter(kept[0])),
            ):
                with pytest.raises(psycopg2.InterfaceError, match=GIVEN_BACK):
                    use()
            kept[0].close()
            assert [row[0] for row in mine] == [1, 2, 3, 4]
        return HttpResponse()

    requests(view)
    assert requests(later).status_code == 200
    assert stats()["opened"] == 1


def test_a_named_cursor_made_by_a_function_and_kept_costs_the_connection(requests):
    kept = []

    def view(request):
        connection.ensure_connection()
        kept.append(
            connection.connection.cursor(
                "same", cursor_factory=lambda *a: psycopg2.extensions.cursor(*a)
            )
        )
        return HttpResponse()

    requests(view)
    assert stats()["discarded"] == {"cursor left open": 1}
