"""What libpq is told about a network that may go deaf."""

from __future__ import annotations

import pytest
from django.db import connection
from django.http import HttpResponse

from dbpool_mw.core import driver
from tests.postgres.conftest import forget_wrappers

pytestmark = pytest.mark.usefixtures("fresh_wrappers")


@pytest.fixture
def dsn(requests, monkeypatch):
    """Give what libpq was told when a request opened a connection."""

    def open_with(**options):
        monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
        forget_wrappers()
        found = {}

        def view(request):
            found.update(connection.connection.get_dsn_parameters())
            return HttpResponse()

        requests(view)
        return found

    return open_with


def test_limits_are_set_where_the_project_says_nothing(dsn):
    found = dsn()
    assert {key: int(found[key]) for key in driver.NETWORK_LIMITS} == (
        driver.NETWORK_LIMITS
    )


def test_what_the_project_says_holds(dsn):
    found = dsn(connect_timeout=17, keepalives=0)
    assert (found["connect_timeout"], found["keepalives"]) == ("17", "0")
    assert found["keepalives_idle"] == "30"
