"""What a request did to its session is gone; one that did nothing pays nothing."""

from __future__ import annotations

import psycopg2.extensions
import pytest
from django.db import OperationalError, connection, connections
from django.http import HttpResponse

from tests.postgres.conftest import ask, stats


def execute(sql):
    return lambda: ask(sql)


def on_raw(function):
    return lambda: function(connection.connection)


def abandon_cursor(raw):
    raw.cursor("abandoned", withhold=True).execute("SELECT generate_series(1, 9)")


def abandon_iterator():
    """Leave a server-side cursor open that Django's ``.iterator()`` uses."""
    cursor = connection.chunked_cursor()
    cursor.execute("SELECT generate_series(1, 100)")
    cursor.fetchone()
    left_open.append(cursor)


#: What a view would keep in a global.
left_open = []


def cancel_query():
    with pytest.raises(OperationalError, match="canceling statement"):
        ask("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(20)")


def break_copy_off():
    with (
        connection.connection.cursor() as cursor,
        pytest.raises(ZeroDivisionError),
    ):
        cursor.copy_expert("COPY pg_class TO STDOUT", Broken())


class Broken:
    def write(self, data):
        raise ZeroDivisionError


def set_attribute(name, value):
    return on_raw(lambda raw: setattr(raw, name, value))


CHARACTERISTICS = "SET SESSION CHARACTERISTICS AS TRANSACTION"
SERIALIZABLE = psycopg2.extensions.ISOLATION_LEVEL_SERIALIZABLE

#: What a request may do to its session, by the name it has in docs/sessions.rst.
CHANGES = {
    "nothing": execute("SELECT 1"),
    "``SET statement_timeout``": execute("SET statement_timeout = 54321"),
    "``SET`` after a comment": execute("/* trace */ SET statement_timeout = 54321"),
    "``SET search_path``": execute("SET search_path = pg_catalog"),
    "``SET TimeZone``": execute("SET TimeZone = 'Asia/Tokyo'"),
    "``SET app.user_id``": execute("SET app.user_id = '42'"),
    "``SET ROLE``": execute("SET ROLE pg_monitor"),
    "``SET SESSION AUTHORIZATION``": execute("SET SESSION AUTHORIZATION pg_monitor"),
    "``set_config(…, false)``": execute(
        "SELECT set_config('app.user_id', '42', false)"
    ),
    "read only, by SQL": execute(f"{CHARACTERISTICS} READ ONLY"),
    "isolation level, by SQL": execute(
        f"{CHARACTERISTICS} ISOLATION LEVEL SERIALIZABLE"
    ),
    "deferrable, by SQL": execute(f"{CHARACTERISTICS} DEFERRABLE"),
    "read only, by psycopg2": on_raw(lambda raw: raw.set_session(readonly=True)),
    "isolation level, by psycopg2": set_attribute("isolation_level", SERIALIZABLE),
    "deferrable, by psycopg2": set_attribute("deferrable", True),
    "client encoding, by psycopg2": on_raw(
        lambda raw: raw.set_client_encoding("LATIN1")
    ),
    "autocommit off": set_attribute("autocommit", False),
    "``BEGIN`` left open": execute("BEGIN"),
    "a failed transaction left open": lambda: (ask("BEGIN"), fail()),
    "``CREATE TEMP TABLE``": execute("CREATE TEMP TABLE left_behind (a int)"),
    "``pg_advisory_lock()``": execute("SELECT pg_advisory_lock(4711)"),
    "``LISTEN``": execute("LISTEN somebody"),
    "``PREPARE``": execute("PREPARE plan AS SELECT 1"),
    "a held cursor, by SQL": execute("DECLARE held CURSOR WITH HOLD FOR SELECT 1"),
    "a named cursor left open": on_raw(abandon_cursor),
    "an abandoned ``.iterator()``": abandon_iterator,
    "``COPY`` broken off": break_copy_off,
    "a query cancelled": cancel_query,
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
