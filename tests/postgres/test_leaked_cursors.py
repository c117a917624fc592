"""A cursor that outlives its request can't be used in the next holder's session."""

from __future__ import annotations

import pytest
from django.db import InterfaceError, connection
from django.http import HttpResponse

from tests.library import IS_PSYCOPG, only_psycopg, only_psycopg2
from tests.postgres.conftest import ask, stats
from tests.vocabulary import (
    Cursor,
    choose_dicts,
    close_all,
    connect,
    copy_in,
    copy_out,
    cursor_of,
    library,
    parameters,
    since_psycopg_32,
)
from tests.vocabulary import InterfaceError as LibrarysError

if IS_PSYCOPG:
    import psycopg

    def made_by_function(raw, **options):
        raw.cursor_factory = lambda conn, **options: Cursor(conn, **options)
        return raw.cursor(**options)

else:
    import io

    def made_by_function(raw, **options):
        return raw.cursor(cursor_factory=lambda *args: Cursor(*args), **options)


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
    "COPY TO": lambda cursor: copy_out(cursor, "COPY (SELECT 1) TO STDOUT"),
    "COPY FROM": lambda cursor: copy_in(cursor, "COPY pg_am FROM STDIN"),
}
if IS_PSYCOPG:
    USES["stream"] = lambda cursor: next(cursor.stream("SELECT 1"))
    # It is Django's cursor that has it.
    ONLY_DJANGOS = {"callproc": USES.pop("callproc")}
else:
    ONLY_DJANGOS = {}
    USES["copy_to"] = lambda cursor: cursor.copy_to(io.StringIO(), "pg_am")
    USES["copy_from"] = lambda cursor: cursor.copy_from(io.StringIO(), "pg_am")


@pytest.mark.parametrize("name", [*USES, *ONLY_DJANGOS])
def test_no_method_of_a_leaked_cursor_runs_on_an_idle_connection(name, leaked):
    cursor, raw = leaked[0].cursor, leaked[1]
    with pytest.raises(LibrarysError, match=GIVEN_BACK):
        {**USES, **ONLY_DJANGOS}[name](cursor)
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
    with pytest.raises(LibrarysError, match=GIVEN_BACK):
        kept[0].cursor.execute("SELECT 1")
    kept[0].close()
    assert stats()["discarded"] == {}


def test_a_cursor_does_not_run_after_its_connection_was_replaced(requests):
    def view(request):
        cursor, raw = connection.cursor(), connection.connection
        password = raw.info.password
        connection.connection = connect("", **parameters(raw), password=password)
        connection.close()
        with pytest.raises(InterfaceError, match=GIVEN_BACK):
            cursor.execute("SELECT 1")
        return HttpResponse()

    assert requests(view).status_code == 200
    assert stats()["opened"] == 1


class Kept(Cursor):
    """A cursor class of the project."""


MAKE = {
    "a class": Cursor,
    "a class of the project": Kept,
    "a function": made_by_function,
    "a class given to cursor()": lambda raw: cursor_of(raw, Kept),
}
if IS_PSYCOPG:
    MAKE["a class that binds on the server"] = psycopg.Cursor
    MAKE["Connection.execute()"] = lambda raw: raw.execute("SELECT 1")


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
            with pytest.raises(LibrarysError, match=GIVEN_BACK):
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
    with pytest.raises(LibrarysError, match=GIVEN_BACK):
        kept[0].execute("SELECT 1")


@pytest.mark.parametrize("dicts", [False, True])
def test_a_kept_named_cursor_reads_nothing_of_the_next_holders(dicts, requests):
    kept = []

    def cursor():
        connection.ensure_connection()
        if dicts:
            choose_dicts(connection.connection)
        return connection.connection.cursor("same", withhold=True)

    def view(request):
        kept.append(cursor())
        return HttpResponse()

    def later(request):
        with cursor() as mine:
            mine.execute("SELECT generate_series(1, 4)")
            uses = [
                lambda: kept[0].fetchone(),
                lambda: kept[0].fetchmany(2),
                lambda: kept[0].fetchall(),
                lambda: kept[0].scroll(1),
                lambda: next(iter(kept[0])),
            ]
            if hasattr(kept[0], "__next__"):  # psycopg 3.1 has none
                uses.append(lambda: next(kept[0]))
            for use in uses:
                with pytest.raises(LibrarysError, match=GIVEN_BACK):
                    use()
            kept[0].close()
            found = [row["generate_series"] if dicts else row[0] for row in mine]
            assert found == [1, 2, 3, 4]
        return HttpResponse()

    requests(view)
    assert requests(later).status_code == 200
    assert stats()["opened"] == 1


@only_psycopg2
def test_a_named_cursor_made_by_a_function_and_kept_costs_the_connection(requests):
    kept = []

    def view(request):
        connection.ensure_connection()
        kept.append(made_by_function(connection.connection, name="same"))
        return HttpResponse()

    requests(view)
    assert stats()["discarded"] == {"cursor left open": 1}


@only_psycopg
@pytest.mark.parametrize(
    "kind",
    ["ServerCursor", pytest.param("RawServerCursor", marks=since_psycopg_32)],
)
def test_a_named_cursor_made_by_its_class_and_kept_costs_the_connection(kind, requests):
    kept = []

    def view(request):
        connection.ensure_connection()
        kept.append(getattr(library, kind)(connection.connection, "same"))
        connection.connection.autocommit = False
        kept[0].execute("SELECT generate_series(1, 9)")
        return HttpResponse()

    requests(view)
    assert stats()["discarded"] == {"cursor left open": 1}
    close_all(kept)


@only_psycopg
def test_a_stream_begun_after_its_request_does_not_run(requests):
    kept = []

    def view(request):
        with connection.cursor() as cursor:
            kept.append(cursor.stream("SET app.user_id = '42'"))
        return HttpResponse()

    requests(view)
    with pytest.raises(LibrarysError, match=GIVEN_BACK):
        next(kept[0])


@only_psycopg
@pytest.mark.parametrize("close", [True, False])
def test_a_kept_stream_costs_the_connection_and_says_nothing_more(close, requests):
    kept = []

    def view(request):
        cursor = library.Cursor(connection.cursor().connection)
        kept.append(cursor.stream("SELECT generate_series(1, 100000)"))
        assert next(kept[0]) == (1,)
        return HttpResponse()

    requests(view)
    assert stats()["discarded"] == {"busy": 1}
    assert requests(lambda request: HttpResponse(ask("SELECT 1"))).content == b"1"
    if close:
        kept[0].close()
    else:
        with pytest.raises(library.OperationalError):
            list(kept[0])
    assert stats()["opened"] == 2
