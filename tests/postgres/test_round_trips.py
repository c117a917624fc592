"""In the steady state only the view's queries cross the wire."""

from __future__ import annotations

import pytest
from django.db import connection
from django.http import HttpResponse
from django.test import override_settings

from tests.documents import code_block
from tests.postgres.conftest import ask, on_engine, stats

TENANTS = "django_tenants.postgresql_backend"


def queries(number):
    def view(request):
        for _ in range(number):
            ask("SELECT 1")
        return HttpResponse()

    return view


@pytest.mark.parametrize("lazy", [False, True])
def test_a_request_sends_its_queries_and_nothing_else(lazy, requests, wire):
    with override_settings(DBPOOL_MW_EAGER=() if lazy else ("default",)):
        requests(queries(1))
        assert wire.messages
        for number in (0, 1, 3, 0):
            wire.messages.clear()
            assert requests(queries(number)).status_code == 200
            assert wire.messages == [b"Q"] * number
        assert stats()["opened"] == 1


def test_closing_in_mid_request_sends_nothing(requests, wire):
    def view(request):
        ask("SELECT 1")
        connection.close()
        ask("SELECT 1")
        return HttpResponse()

    requests(view)
    wire.messages.clear()
    requests(view)
    assert wire.messages == [b"Q"] * 2


def test_a_dirty_session_costs_its_reset(requests, wire):
    def view(request):
        ask("SET a.b = 'c'")
        return HttpResponse()

    requests(view)
    wire.messages.clear()
    requests(view)
    # The view's query, and the reset, which sets Django's time zone again.
    assert wire.messages == [b"Q"] * 2


@pytest.mark.parametrize("limit", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("documented", [False, True])
def test_a_tenants_search_path_costs_its_reset(lazy, limit, documented, requests, wire):
    def view(request):
        connection.set_schema("public")
        return queries(3)(request)

    settings = {
        "DBPOOL_MW_EAGER": () if lazy else ("default",),
        "TENANT_LIMIT_SET_CALLS": limit,
    }
    if documented:
        exec(code_block("docs/engines.rst", "def forget_tenant"), settings)
    with on_engine(TENANTS), override_settings(**settings):
        requests(view)
        requests(view)
        wire.messages.clear()
        assert requests(view).status_code == 200
        # The view's three queries, and django-tenants' SET before the first or before
        # each. Then the reset; with the reset function of docs/engines.rst, one RESET.
        sets = 1 if limit else 3
        assert wire.messages == [b"Q"] * (3 + sets + 1)
        assert stats()["opened"] == 1
