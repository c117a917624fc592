"""What a request did to its session is gone; one that did nothing pays nothing."""

from __future__ import annotations

import psycopg2.extensions
import pytest
from django.db import connection, connections
from django.http import HttpResponse

from tests.postgres.conftest import ask, stats


def execute(sql):
    return lambda: ask(sql)


def on_raw(function):
    return lambda: function(connection.connection)


def abandon_cursor(raw):
    raw.cursor("abandoned", withhold=True).execute("SELECT generate_series(1, 9)")


CHANGES = {
    "SET": execute("SET statement_timeout = 54321"),
    "SET in a comment's shade": execute("/* trace */ SET statement_timeout = 54321"),
    "search_path": execute("SET search_path = pg_catalog"),
    "TimeZone": execute("SET TimeZone = 'Asia/Tokyo'"),
    "custom": execute("SET app.user_id = '42'"),
    "role": execute("SET ROLE pg_monitor"),
    "session authorization": execute("SET SESSION AUTHORIZATION pg_monitor"),
    "set_config": execute("SELECT set_config('app.user_id', '42', false)"),
    "read only": execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"),
    "readonly of psycopg2": on_raw(lambda raw: raw.set_session(readonly=True)),
    "isolation of psycopg2": on_raw(
        lambda raw: setattr(
            raw,
            "isolation_level",
            psycopg2.extensions.ISOLATION_LEVEL_SERIALIZABLE,
        )
    ),
    "deferrable of psycopg2": on_raw(lambda raw: setattr(raw, "deferrable", True)),
    "autocommit off": on_raw(lambda raw: setattr(raw, "autocommit", False)),
    "temporary table": execute("CREATE TEMP TABLE left_behind (a int)"),
    "advisory lock": execute("SELECT pg_advisory_lock(4711)"),
    "LISTEN": execute("LISTEN somebody"),
    "PREPARE": execute("PREPARE plan AS SELECT 1"),
    "held cursor by SQL": execute("DECLARE held CURSOR WITH HOLD FOR SELECT 1"),
    "abandoned cursor": on_raw(abandon_cursor),
    "BEGIN": execute("BEGIN"),
    "failed transaction": lambda: (ask("BEGIN"), fail()),
    "encoding": on_raw(lambda raw: raw.set_client_encoding("LATIN1")),
}


def fail():
    with pytest.raises(Exception, match="division by zero"):
        ask("SELECT 1/0")


def picture():
    """Give all of a session that a test can see."""
    names = [
        *("statement_timeout", "search_path", "TimeZone", "role", "client_encoding"),
        *("default_transaction_read_only", "default_transaction_isolation"),
        "default_transaction_deferrable",
    ]
    found = {name: ask(f"SELECT current_setting('{name}')") for name in names}
    found["app.user_id"] = ask("SELECT current_setting('app.user_id', true)") or None
    found["users"] = ask("SELECT session_user || ' ' || current_user")
    found["locks"] = ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    found["channels"] = ask("SELECT count(*) FROM pg_listening_channels()")
    found["plans"] = ask("SELECT count(*) FROM pg_prepared_statements")
    found["cursors"] = ask("SELECT count(*) FROM pg_cursors WHERE name <> ''")
    found["tables"] = ask("SELECT count(*) FROM pg_class WHERE relname = 'left_behind'")
    raw = connection.connection
    found["raw"] = (raw.autocommit, raw.isolation_level, raw.readonly, raw.deferrable)
    found["transaction"] = raw.get_transaction_status()
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_the_next_request_sees_nothing_of_it(name, requests):
    pictures = []

    def look(request):
        pictures.append(picture())
        return HttpResponse()

    def change(request):
        CHANGES[name]()
        return HttpResponse()

    for view in (look, change, look):
        assert requests(view).status_code == 200
    assert pictures[0] == pictures[1]
    assert stats()["in_use"] == 0
    # The clean-up shows: nothing of this is for free.
    counted = stats()
    assert (
        counted["resets"]
        or counted["rollbacks"]
        or counted["discarded"]
        or name == "autocommit off"
    )


def test_a_session_that_changed_nothing_is_not_reset(requests):
    def view(request):
        from django.db import transaction

        with transaction.atomic():
            ask("SELECT 1")
            ask("SET LOCAL statement_timeout = 5")
            with transaction.atomic():
                ask("SELECT count(*) FROM pg_class")
        with connection.cursor() as cursor:
            cursor.executemany("SELECT %s", [(1,), (2,)])
        connection.check_constraints()
        return HttpResponse()

    for _ in range(3):
        requests(view)
    assert stats()["resets"] == stats()["rollbacks"] == 0
    assert stats()["discarded"] == {}
    assert stats()["opened"] == 1


def test_a_cursor_read_to_its_end_costs_nothing(requests):
    def view(request):
        cursor = connections["default"].chunked_cursor()
        cursor.execute("SELECT generate_series(1, 5)")
        assert len(cursor.fetchall()) == 5
        cursor.close()
        return HttpResponse()

    for _ in range(2):
        requests(view)
    assert stats()["opened"] == 1
    assert stats()["resets"] == 0
    assert stats()["discarded"] == {}


def test_a_query_still_running_costs_the_connection(requests):
    requests(lambda request: HttpResponse())

    def view(request):
        raw = connection.connection
        # COPY, broken off in the middle.
        with raw.cursor() as cursor, pytest.raises(ZeroDivisionError):
            cursor.copy_expert("COPY pg_class TO STDOUT", Broken())
        return HttpResponse()

    requests(view)
    assert requests(lambda request: HttpResponse(str(ask("SELECT 1")))).content == b"1"
    assert stats()["in_use"] == 0


class Broken:
    def write(self, data):
        raise ZeroDivisionError
