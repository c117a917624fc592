"""What renders the 503 of an exhausted pool waits for no connection, and leaks none."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager

import pytest
from django.db import OperationalError, transaction
from django.http import HttpResponse
from django.template import Library
from django.test import Client, override_settings

from dbpool_mw import pooled
from dbpool_mw.binding.binding import thread_state
from tests.core.fakes import InThread
from tests.postgres.conftest import ask, stats

pytestmark = pytest.mark.usefixtures("fresh_wrappers", "databases")

register = Library()


@register.simple_tag
def query():
    return ask("SELECT 1")


#: What the functions below did, in order.
did: list[object] = []


@pytest.fixture(autouse=True)
def one_connection():
    did.clear()
    with override_settings(
        DBPOOL_MW_MAX_CONNS=1,
        DBPOOL_MW_TIMEOUT=0.05,
        DBPOOL_MW_UNAVAILABLE_VIEW=f"{__name__}.queries",
    ):
        yield


@contextmanager
def held(*aliases):
    """Hold the one connection of each alias in another thread."""
    begun, done = threading.Event(), threading.Event()

    def hold():
        with pooled(*aliases):
            for alias in aliases:
                ask("SELECT 1", alias)
            begun.set()
            assert done.wait(30)

    thread = InThread(hold)
    assert begun.wait(30)
    try:
        yield
    finally:
        done.set()
        thread.result()


def queries(request, error):
    """Ask both aliases, in the ways that code may, and note what came of it."""
    for alias in ("default", "replica"):
        for way in (ask, ask_in_atomic, ask_in_scope):
            try:
                did.append(way("SELECT 1", alias))
            except OperationalError as caught:
                did.append(str(caught))
    return HttpResponse("mine", status=503)


def ask_in_atomic(sql, alias):
    with transaction.atomic(using=alias):
        return ask(sql, alias)


def ask_in_scope(sql, alias):
    with pooled(alias):
        return ask(sql, alias)


def fails_in_a_query(request, error):
    return HttpResponse(ask("SELECT 1"))


def exits(request, error):
    raise SystemExit


def notes_request(request, error):
    did.append(request)
    return HttpResponse("mine", status=503)


def view(request):
    return HttpResponse(ask("SELECT 1"))


def refusal(alias):
    return f"pool '{alias}': no query can be made while a 503 is rendered"


def queries_too(request, exception):
    return HttpResponse(ask("SELECT 1"), status=404)


@override_settings(DBPOOL_MW_EAGER=(), DBPOOL_MW_UNAVAILABLE_VIEW=None)
def test_a_page_for_errors_that_gets_no_connection_is_djangos_500(requests):
    requests.urls.handler404 = queries_too
    client = Client(raise_request_exception=False)
    with held("default"):
        assert client.get("/nowhere").status_code == 500
    assert client.get("/nowhere").status_code == 404
    assert stats()["in_use"] == 0


@pytest.mark.parametrize("lazy", [False, True])
def test_a_query_of_the_projects_view_fails_at_once(requests, lazy):
    with override_settings(
        DBPOOL_MW_EAGER=() if lazy else ("default",), DBPOOL_MW_POOLS={}
    ):
        with held("default"):
            assert requests(view).status_code == 503
        assert did == 3 * [refusal("default")] + 3 * [refusal("replica")]
        # The one time-out is that of the request itself.
        assert stats()["timeouts"] == 1
        assert requests(view).status_code == 200
        assert stats()["in_use"] == 0


@override_settings(DBPOOL_MW_EAGER=())
def test_a_connection_that_the_request_holds_already_can_be_queried(requests):
    def both(request):
        ask("SELECT 1")
        ask("SELECT 1", "replica")

    with override_settings(DBPOOL_MW_POOLS={}), held("replica"):
        assert requests(both).status_code == 503
    assert did == [1, 1, 1] + 3 * [refusal("replica")]


@pytest.mark.parametrize("lazy", [False, True])
@override_settings(DBPOOL_MW_UNAVAILABLE_VIEW=f"{__name__}.fails_in_a_query")
def test_a_view_that_fails_by_its_query_is_replaced_by_a_503(requests, lazy, caplog):
    with override_settings(DBPOOL_MW_EAGER=() if lazy else ("default",)):
        with held("default"):
            response = requests(view)
        assert stats()["timeouts"] == 1
    assert response.status_code == 503
    assert response["Retry-After"] == "1"
    assert [r.levelname for r in caplog.records if r.name == "dbpool_mw.pool"] == [
        "WARNING",
        "ERROR",
    ]


@override_settings(DBPOOL_MW_UNAVAILABLE_VIEW=f"{__name__}.exits")
def test_a_view_that_exits_leaves_a_thread_that_serves_the_next_request(requests):
    with held("default"), pytest.raises(SystemExit):
        requests(view)
    assert requests(view).status_code == 200


@override_settings(
    DBPOOL_MW_UNAVAILABLE_VIEW=f"{__name__}.notes_request", DBPOOL_MW_EAGER=()
)
def test_a_refusal_that_an_exception_kept_from_ending_ends_with_its_request(requests):
    with held("default"):
        assert requests(view).status_code == 503
    thread_state.refused = did.pop()
    try:
        assert requests(view).status_code == 200
    finally:
        thread_state.refused = None


@override_settings(DBPOOL_MW_UNAVAILABLE_VIEW=None)
def test_a_log_handler_may_query_without_the_pool(requests):
    class Stores(logging.Handler):
        def emit(self, record):
            did.append(ask("SELECT 1"))

    handler = Stores(logging.WARNING)
    logger = logging.getLogger("dbpool_mw.pool")
    logger.addHandler(handler)
    try:
        with held("default"):
            response = requests(view)
    finally:
        logger.removeHandler(handler)
    assert response.status_code == 503
    assert did == [1]
    assert stats()["timeouts"] == 1


@override_settings(DBPOOL_MW_UNAVAILABLE_VIEW=None)
def test_a_template_that_queries_is_replaced_by_a_plain_page(requests, tmp_path):
    (tmp_path / "503.html").write_text("{% load queries %}{% query %}")
    with (
        override_settings(
            TEMPLATES=[
                {
                    "BACKEND": "django.template.backends.django.DjangoTemplates",
                    "DIRS": [str(tmp_path)],
                    "OPTIONS": {"libraries": {"queries": __name__}},
                }
            ]
        ),
        held("default"),
    ):
        response = requests(view)
        assert stats()["timeouts"] == 1
    assert b"Service Unavailable" in response.content
