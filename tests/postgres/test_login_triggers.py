"""Databases with an event trigger that sets up each session at its login."""

from __future__ import annotations

import psycopg2
import pytest
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw.binding import registry
from dbpool_mw.binding.usage import Usage
from dbpool_mw.drivers.postgresql.reset import opening_statement
from tests.conftest import Databases, aliases_at, fresh_database
from tests.postgres.conftest import ask, forget_wrappers, stats

SET_UP = """
    CREATE SCHEMA tenant;
    CREATE FUNCTION set_up() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM set_config('search_path', 'tenant, public', false);
        PERFORM set_config('statement_timeout', '30s', false);
        PERFORM set_config('app.tenant', 'shop', false);
    END $$;
    CREATE EVENT TRIGGER enter_tenant ON login EXECUTE FUNCTION set_up();
"""
#: What a session has after the trigger.
SHOP = b"tenant, public 30s shop"
SETTINGS = (
    "SELECT concat_ws(' ', current_setting('search_path'),"
    " current_setting('statement_timeout'), current_setting('app.tenant', true))"
)


@pytest.fixture
def administrator(requests, postgres):
    """Point Django at a database with a login trigger; give a session in it."""
    forget_wrappers()
    with fresh_database(postgres) as name:
        session = psycopg2.connect(postgres.dsn(name))
        session.autocommit = True
        if session.info.server_version < 170000:
            session.close()
            pytest.skip("login triggers came with PostgreSQL 17")
        with session.cursor() as cursor:
            cursor.execute(SET_UP)
            with aliases_at(Databases(postgres, name, name)):
                yield cursor
                forget_wrappers()
                registry.close()
        session.close()


def looks(request):
    return HttpResponse(ask(SETTINGS))


def changes(request):
    found = ask(SETTINGS)
    ask("SET search_path = pg_temp; SET work_mem = '8MB'")
    return HttpResponse(found)


def test_every_request_finds_what_the_trigger_set(requests, administrator, caplog):
    assert {requests(changes).content for _ in range(3)} == {SHOP}
    assert stats()["discarded"] == {"reset refused": 3}
    (warning,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "login trigger does (enter_tenant)" in warning.getMessage()
    assert "Set RESET to a function" in warning.getMessage()


def test_that_a_changed_session_will_be_closed_is_foreseen(requests, administrator):
    found = []

    def view(request):
        usage = Usage()
        response = changes(request)
        usage.stop()
        found.extend(usage.as_list())
        return response

    requests(view)
    (only,) = found
    assert only["outcome"] == "closed"
    assert only["reason"] == "no reset undoes a login trigger (enter_tenant)"
    assert stats()["discarded"] == {"reset refused": 1}


def test_sessions_without_changes_keep_their_connection(requests, administrator):
    assert {requests(looks).content for _ in range(3)} == {SHOP}
    assert (stats()["opened"], stats()["discarded"]) == (1, {})


def test_where_each_session_is_reset_each_request_costs_a_connection(
    requests, administrator, caplog
):
    with override_settings(DBPOOL_MW_RESET="always"):
        assert {requests(looks).content for _ in range(3)} == {SHOP}
        assert stats()["discarded"] == {"reset refused": 3}
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1


def test_a_function_in_reset_keeps_the_connections(requests, administrator):
    def enter_tenant(connection, dirty):
        if dirty:
            with connection.cursor() as cursor:
                cursor.execute("SET search_path = tenant, public; RESET work_mem")

    with override_settings(DBPOOL_MW_RESET=enter_tenant):
        assert {requests(changes).content for _ in range(3)} == {SHOP}
        assert stats()["opened"] == 1


@pytest.mark.parametrize(
    "change",
    [
        "ALTER EVENT TRIGGER enter_tenant DISABLE",
        "DROP EVENT TRIGGER enter_tenant;"
        "CREATE EVENT TRIGGER other ON ddl_command_start EXECUTE FUNCTION set_up()",
    ],
)
def test_a_trigger_that_runs_at_no_login_hinders_no_reset(
    requests, administrator, change
):
    administrator.execute(change)
    assert {requests(changes).content for _ in range(3)} == {b'"$user", public 0'}
    assert (stats()["opened"], stats()["resets"]) == (1, 3)


def test_only_a_server_that_has_login_triggers_is_asked_for_them():
    timezone = [("TimeZone", "UTC")]
    pinned = "SET TimeZone TO 'UTC'"
    assert opening_statement(timezone, 169999) == pinned
    assert opening_statement([], 169999) == ""
    statement = opening_statement(timezone, 170000)
    assert statement.startswith(f"{pinned}; SELECT ")
    assert "pg_event_trigger" in statement
