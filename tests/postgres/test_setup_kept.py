"""Session settings made when a connection was opened hold for every holder."""

from __future__ import annotations

import psycopg2.extras
import pytest
from django.db import connection, connections
from django.db.backends.signals import connection_created
from django.http import HttpResponse

from tests.postgres.conftest import ask, stats


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
            kinds.append(isinstance(cursor.cursor, psycopg2.extras.DictCursor))
        connection.connection.cursor_factory = psycopg2.extras.DictCursor
        return HttpResponse()

    for _ in range(2):
        requests(view)
    assert kinds == [False, False]
    assert stats()["opened"] == 1
