"""Servers that speak PostgreSQL's protocol and aren't PostgreSQL.

The server is a PostgreSQL from which something was taken away.
"""

from __future__ import annotations

import pytest
from django.db import connection
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw.binding import registry
from dbpool_mw.checks.capacity import check_capacity
from sandbox.postgres import Server
from tests.conftest import Databases, aliases_at, fresh_database
from tests.postgres.conftest import ask, forget_wrappers, stats
from tests.vocabulary import connect, execute


@pytest.fixture
def relative(requests, postgres):
    """Point Django at a database in which a user may not do all that a reset does."""
    forget_wrappers()
    with fresh_database(postgres) as name:
        session = connect(postgres.dsn(name), autocommit=True)
        execute(
            session,
            "CREATE ROLE relative LOGIN PASSWORD 'relative'",
            "REVOKE ALL ON FUNCTION pg_advisory_unlock_all FROM PUBLIC",
        )
        server = Server(postgres.host, postgres.port, "relative", "relative", name)
        try:
            with aliases_at(Databases(server, name, name)):
                yield
                forget_wrappers()
                registry.close()
        finally:
            execute(session, "DROP ROLE relative")
            session.close()


def changes(request):
    before = ask("SHOW search_path")
    ask("SET search_path = pg_temp")
    return HttpResponse(before)


def test_a_server_that_refuses_resets_leaks_nothing_and_is_warned_of_once(
    requests, relative, caplog
):
    answers = {requests(changes).content for _ in range(10)}
    assert answers == {b'"$user", public'}
    assert stats()["discarded"] == {"reset refused": 10}
    (warning,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "default: the server refuses to reset a session" in warning.getMessage()
    assert "Set RESET to a function" in warning.getMessage()
    assert "permission denied for function pg_advisory_unlock_all" in warning.exc_text


def test_there_a_function_in_reset_keeps_the_connections(requests, relative):
    def forget_path(connection, dirty):
        with connection.cursor() as cursor:
            cursor.execute("RESET search_path")

    with override_settings(DBPOOL_MW_RESET=forget_path):
        assert {requests(changes).content for _ in range(3)} == {b'"$user", public'}
        assert stats()["opened"] == 1


@pytest.mark.parametrize("columns", ["'x', '1'", "'max_connections', 'unlimited'"])
def test_the_check_of_the_capacity_skips_a_server_without_a_limit(
    requests, monkeypatch, columns
):
    ask("CREATE SCHEMA IF NOT EXISTS odd")
    ask("DROP VIEW IF EXISTS odd.pg_settings")
    ask(f"CREATE VIEW odd.pg_settings (name, setting) AS VALUES ({columns})")
    connection.close()
    options = {"options": "-c search_path=odd,pg_catalog"}
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    try:
        assert check_capacity(["default"]) == []
    finally:
        monkeypatch.undo()
        forget_wrappers()
        ask("DROP SCHEMA odd CASCADE")
        connection.close()
