"""Session settings made when a connection was opened hold for every holder."""

from __future__ import annotations

import pytest
from django.db import connection, connections
from django.db.backends.signals import connection_created
from django.http import HttpResponse
from django.test import override_settings

from tests.library import IS_PSYCOPG
from tests.postgres.conftest import ask, stats
from tests.vocabulary import Cursor, choose_dicts

if IS_PSYCOPG:
    from psycopg.types.numeric import IntLoader

    def register(raw):
        """Have integers read as "mine" on a connection."""

        class Mine(IntLoader):
            def load(self, data):
                return "mine"

        raw.adapters.register_loader("int4", Mine)

    def set_encoding(raw):
        raw.execute("SET client_encoding TO 'LATIN1'")

else:
    from psycopg2 import extensions

    def register(raw):
        """Have integers read as "mine" on a connection."""
        caster = extensions.new_type((23,), "NUMBER", lambda value, cursor: "mine")
        extensions.register_type(caster, raw)

    def set_encoding(raw):
        raw.set_client_encoding("LATIN1")


@pytest.fixture
def receiver():
    def created(connection, **signal):
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 4321")

    connection_created.connect(created, dispatch_uid="test")
    yield
    connection_created.disconnect(dispatch_uid="test")


@pytest.mark.usefixtures("receiver")
@pytest.mark.parametrize("autocommit", [True, False])
def test_a_setting_made_by_a_receiver_holds_for_every_request(autocommit, requests):
    settings = connections.settings["default"]
    settings["AUTOCOMMIT"] = autocommit
    seen = []

    def view(request):
        seen.append(ask("SELECT current_setting('statement_timeout')"))
        return HttpResponse()

    try:
        for _ in range(3):
            requests(view)
        assert seen == ["4321ms"] * 3
        assert stats()["opened"] == 1
        assert stats()["resets"] == 0
    finally:
        connections["default"].close()
        settings["AUTOCOMMIT"] = True


def test_a_cursor_class_that_a_request_chose_does_not_reach_the_next(requests):
    kinds = []

    def view(request):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            kinds.append(type(cursor.fetchone()))
        choose_dicts(connection.connection)
        return HttpResponse()

    for _ in range(2):
        requests(view)
    assert kinds == [tuple, tuple]
    assert stats()["opened"] == 1


@pytest.fixture
def receive():
    """Return a function that has a function receive each new connection's wrapper."""
    connected = []

    def connect(function):
        connected.append(lambda connection, **signal: function(connection.connection))
        connection_created.connect(connected[-1])

    yield connect
    for receiver in connected:
        connection_created.disconnect(receiver)


def resets(request):
    """Dirty the session, and return what it reads."""
    ask("SET app.user_id = '42'")
    return HttpResponse(ask("SELECT chr(233)"))


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_an_encoding_chosen_by_a_receiver_holds_after_a_reset(mode, receive, requests):
    receive(set_encoding)
    with override_settings(DBPOOL_MW_RESET=mode):
        for _ in range(3):
            assert requests(resets).content == "é".encode()
        assert stats()["opened"] == 1
        assert stats()["resets"] == 3


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_a_type_caster_of_a_receivers_costs_no_connection(mode, receive, requests):
    def view(request):
        ask("SET app.user_id = '42'")
        return HttpResponse(ask("SELECT 1"))

    receive(register)
    with override_settings(DBPOOL_MW_RESET=mode):
        for _ in range(3):
            assert requests(view).content == b"mine"
        assert stats()["opened"] == 1
        assert stats()["resets"] == 3


class Tenant(Cursor):
    """A cursor class that sets the user of row-level security."""

    user = ""

    def execute(self, query, vars=None, **options):
        if self.user:
            super().execute("SET app.user_id = %s", [self.user])
        return super().execute(query, vars, **options)


def test_what_a_cursor_class_of_the_options_sets_does_not_reach_the_next(requests):
    def view(request):
        return HttpResponse(ask("SELECT current_setting('app.user_id', true)") or "")

    options = connections.settings["default"]["OPTIONS"]
    options["cursor_factory"] = Tenant
    try:
        Tenant.user = "alice"
        assert requests(view).content == b"alice"
        Tenant.user = ""
        assert requests(view).content == b""
    finally:
        Tenant.user = ""
        connections["default"].close()
        del options["cursor_factory"]
