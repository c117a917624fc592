"""A cursor that outlives its request can't be used in the next holder's session."""

from __future__ import annotations

import io

import psycopg2
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
