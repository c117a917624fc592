"""Sessions that the server ends for being idle fail no later request."""

from __future__ import annotations

import pytest
from django.db import connection, transaction
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw.binding import registry
from tests.postgres.conftest import ask, forget_wrappers, stats
from tests.process.servers import wait_until
from tests.vocabulary import connect


@pytest.fixture
def ended(databases):
    """Return a function that waits until the server has ended a backend."""
    witness = connect(databases.server.dsn(databases.default))
    witness.autocommit = True

    def is_gone(pid):
        with witness.cursor() as cursor:
            cursor.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid])
            return cursor.fetchone() is None

    yield lambda pid: wait_until(lambda: is_gone(pid), "the server ended the session")
    witness.close()


@pytest.fixture
def session_with(requests, monkeypatch):
    """Return a function that has new sessions begin with a setting of the server's."""

    def begin(setting):
        forget_wrappers()
        options = {"options": f"-c {setting}"}
        monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)

    yield begin
    forget_wrappers()
    registry.close()


def test_sessions_ended_while_they_were_idle_fail_no_request(
    requests, session_with, ended, caplog
):
    session_with("idle_session_timeout=100")
    for _ in range(5):
        response = requests(
            lambda request: HttpResponse(ask("SELECT pg_backend_pid()"))
        )
        assert response.status_code == 200
        ended(int(response.content))
    assert stats()["opened"] == 5
    assert stats()["discarded"] == {"dead": 4}
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


@override_settings(DBPOOL_MW_MIN_CONNS=2, DBPOOL_MW_MAX_CONNS=2)
def test_those_that_are_to_stay_open_are_opened_anew_without_a_warning(
    requests, session_with, caplog
):
    session_with("idle_session_timeout=100")
    assert requests(lambda request: HttpResponse(ask("SELECT 1"))).status_code == 200
    (pool,) = registry.pools()
    wait_until(
        lambda: pool.maintain() or stats()["opened"] > 4, "they are opened anew, twice"
    )
    assert stats()["discarded"].keys() == {"dead"}
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_a_session_ended_in_a_transaction_fails_that_request_alone(
    requests, session_with, ended
):
    session_with("idle_in_transaction_session_timeout=100")

    def waits(request):
        with transaction.atomic():
            ended(ask("SELECT pg_backend_pid()"))
            ask("SELECT 1")

    assert requests(waits).status_code == 500
    for _ in range(2):
        assert (
            requests(lambda request: HttpResponse(ask("SELECT 1"))).status_code == 200
        )
    assert stats()["discarded"] == {"closed": 1}
    assert stats()["opened"] == 2
