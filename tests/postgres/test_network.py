"""The limits with which libpq notices a network that has stopped answering."""

from __future__ import annotations

import re

import pytest
from django.db import connection
from django.http import HttpResponse

from dbpool_mw.dashboard import access
from dbpool_mw.drivers.postgresql.libpq import NETWORK_LIMITS
from tests.documents import ROOT
from tests.postgres.conftest import forget_wrappers
from tests.vocabulary import parameters

pytestmark = pytest.mark.usefixtures("fresh_wrappers")


@pytest.fixture(params=["pooled", "the page's"])
def dsn(request, requests, monkeypatch):
    """Return a function that gives the parameters of a request's connection.

    That of a pool, and the one that the page of the pools opens outside of them.
    """

    def open_with(**options):
        monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
        forget_wrappers()
        found = {}

        def view(_):
            connection.ensure_connection()
            found.update(parameters(connection.connection))
            return HttpResponse()

        requests(view if request.param == "pooled" else access.outside(view))
        return found

    return open_with


def test_without_options_of_the_project_the_documented_limits_are_set(dsn):
    text = (ROOT / "docs" / "settings.rst").read_text(encoding="utf-8")
    section = text.partition("\nThe network\n")[2].partition("\n\n")[2]
    limits = dict(re.findall(r"``(\w+)``\s+(\d+)\b", section.partition("because")[0]))
    assert limits.keys() == NETWORK_LIMITS.keys()
    found = dsn()
    assert {name: found[name] for name in limits} == limits


def test_options_of_the_project_override_the_limits(dsn):
    found = dsn(connect_timeout=17, keepalives=0)
    assert (found["connect_timeout"], found["keepalives"]) == ("17", "0")
    assert found["keepalives_idle"] == "30"
