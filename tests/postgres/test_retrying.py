"""A package that replaces ``ensure_connection``, to connect anew, is not a test."""

from __future__ import annotations

from collections.abc import Iterator

import django_dbconn_retry
import pytest
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw import pooled
from tests.core.fakes import InThread
from tests.postgres.conftest import Requests, ask, stats

pytestmark = pytest.mark.usefixtures("fresh_wrappers", "retrying")


@pytest.fixture
def retrying(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have django-dbconn-retry replace ``ensure_connection``, as its app does."""
    original = BaseDatabaseWrapper.ensure_connection
    monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", original)
    django_dbconn_retry.monkeypatch_django()
    assert BaseDatabaseWrapper.ensure_connection is not original


def view(request: object) -> HttpResponse:
    return HttpResponse(ask("SELECT 'well'"))


def test_requests_are_served_by_the_pool(requests: Requests) -> None:
    for _ in range(3):
        assert requests(view).content == b"well"
    assert (stats()["opened"], stats()["in_use"]) == (1, 0)


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=0.2)
def test_an_exhausted_pool_refuses_a_request_after_one_wait(requests: Requests) -> None:
    def refused() -> int:
        return requests(view).status_code

    with pooled():
        ask("SELECT 1")
        assert InThread(refused).result() == 503
        assert stats()["timeouts"] == 1


def test_what_a_receiver_raises_is_not_swallowed(requests: Requests) -> None:
    raised = []

    def receiver(**signal: object) -> None:
        if not raised:
            raised.append(True)
            raise RuntimeError("on purpose")

    connection_created.connect(receiver)
    try:
        assert requests(view).status_code == 500
    finally:
        connection_created.disconnect(receiver)
    assert raised
    assert requests(view).content == b"well"
