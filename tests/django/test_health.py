"""The pages of probes, and what they look at, without a server."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager

import pytest
from asgiref.sync import async_to_sync
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.test import AsyncRequestFactory, RequestFactory, override_settings
from django.urls import include, path, reverse

from dbpool_mw import decorators
from dbpool_mw.binding import registry
from dbpool_mw.binding.binding import Binding
from dbpool_mw.control import protocol
from dbpool_mw.core.rate import RateLimit
from dbpool_mw.views import health
from tests.core.fakes import Holder, make_pool
from tests.documents import code_block, sections

HEALTH = "docs/health.rst"
PAGES = ["livez", "readyz"]

documented: dict = {}
exec(code_block(HEALTH, "include("), documented)
urlpatterns = documented["urlpatterns"]
assert isinstance(urlpatterns[0], type(path("", include("dbpool_mw.urls"))))


@pytest.fixture(autouse=True)
def on_urls(monkeypatch):
    monkeypatch.setattr(health, "_warnings", RateLimit(60))
    decorators.forget_urls()
    with override_settings(ROOT_URLCONF=__name__):
        yield
    decorators.forget_urls()


@pytest.fixture
def connects(monkeypatch):
    """Refuse to connect, by the pool or without it; give the aliases that tried."""
    tried = []

    def checkout(self, *_, **__):
        tried.append(self.alias)
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(Binding, "checkout", checkout)
    return tried


def ask(page, method="GET", asgi=False, **options):
    """Return the answer of a page, through Django's handler."""
    url = reverse(f"dbpool_mw:{page}")
    if asgi:
        request = getattr(AsyncRequestFactory(), method.lower())(url, **options)
        return async_to_sync(ASGIHandler().get_response_async)(request)
    request = getattr(RequestFactory(), method.lower())(url, **options)
    return WSGIHandler().get_response(request)


@contextmanager
def pools(monkeypatch, *chosen):
    with monkeypatch.context() as patched:
        patched.setattr(registry, "pools", lambda: list(chosen))
        yield


@pytest.fixture
def stuck():
    """Give a pool that is stuck, and the one entry of it."""
    pool, _, clock = make_pool(max_conns=1, stuck_after=10, timeout=2.5)
    entry = pool.checkout(Holder("secret"))
    clock.advance(10)
    return pool, entry


@contextmanager
def under(verb, alias="default"):
    """Bring this process an order for an alias, as a command does."""

    def order(verb):
        request = protocol.request(verb, aliases=[alias])
        registry._state.worker.handle(request)

    order(verb)
    try:
        yield
    finally:
        order("resume")


# --- What is answered -----------------------------------------------------------------


@pytest.mark.parametrize("asgi", [False, True])
@pytest.mark.parametrize(("page", "word"), [("livez", "ok"), ("readyz", "ready")])
def test_a_process_that_has_no_pool_yet_is_live_and_ready(page, word, asgi, connects):
    answer = ask(page, asgi=asgi)
    assert answer.status_code == 200
    assert json.loads(answer.content) == {"status": word}
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Retry-After" not in answer.headers
    assert connects == []


@pytest.mark.parametrize("page", PAGES)
def test_head_is_answered_and_other_methods_are_not(page):
    assert ask(page, "HEAD").status_code == 200
    csrf = "django.middleware.csrf.CsrfViewMiddleware"
    for middleware in ([], [csrf]):
        with override_settings(MIDDLEWARE=middleware):
            for method in ("POST", "PUT", "DELETE"):
                refused = ask(page, method)
                assert refused.status_code == 405
                assert refused.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("asgi", [False, True])
def test_a_stuck_pool_makes_a_process_unready_and_stays_live(
    monkeypatch, stuck, connects, caplog, asgi
):
    pool, entry = stuck
    with pools(monkeypatch, pool):
        answer = ask("readyz", asgi=asgi)
        assert answer.status_code == 503
        assert json.loads(answer.content) == {
            "status": "unavailable",
            "reasons": ["stuck"],
        }
        assert answer.headers["Retry-After"] == "3"  # TIMEOUT, rounded up
        assert answer.headers["Cache-Control"] == "no-store"
        assert ask("livez").status_code == 200
        pool.checkin(entry)
        assert ask("readyz").status_code == 200
    assert connects == []
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        "readyz answers 503: default is stuck"
    ]


def test_who_holds_the_connections_is_not_told(monkeypatch, stuck):
    with pools(monkeypatch, stuck[0]), override_settings(DEBUG=True):
        answer = ask("readyz")
    text = answer.content.decode() + str(answer.headers)
    assert "secret" not in text
    assert "default" not in text


@pytest.mark.parametrize(("verb", "word"), [("pause", "paused"), ("drain", "draining")])
def test_an_order_makes_a_process_unready_before_it_has_a_pool(verb, word, connects):
    with under(verb):
        assert registry.pools() == []
        answer = ask("readyz")
        assert answer.status_code == 503
        assert json.loads(answer.content)["reasons"] == [word]
        assert answer.headers["Retry-After"] == "5"
        assert ask("livez").status_code == 200
    assert ask("readyz").status_code == 200


def test_a_recycle_keeps_a_process_ready():
    with under("recycle"):
        assert ask("readyz").status_code == 200


def test_each_reason_is_told_once(monkeypatch, stuck, caplog):
    other, _, clock = make_pool(max_conns=1, stuck_after=10)
    other.name = "replica"
    other.checkout(Holder())
    clock.advance(10)
    with pools(monkeypatch, stuck[0], stuck[0], other), under("pause"):
        answer = ask("readyz")
    assert json.loads(answer.content)["reasons"] == ["paused", "stuck"]
    (said,) = [r.getMessage() for r in caplog.records if "readyz" in r.getMessage()]
    assert said == (
        "readyz answers 503: default is paused, default is stuck, replica is stuck"
    )


def test_the_warning_comes_once_a_minute(monkeypatch, stuck, caplog):
    with pools(monkeypatch, stuck[0]):
        assert [ask("readyz").status_code for _ in range(5)] == [503] * 5
    assert caplog.text.count("readyz answers 503") == 1
    # Django's own line would be mailed to ADMINS.
    assert "Service Unavailable" not in caplog.text


def test_a_log_handler_that_fails_spoils_no_answer(monkeypatch, stuck):
    def fail(*_):
        raise ValueError("on purpose")

    monkeypatch.setattr(health.logger, "warning", fail)
    with pools(monkeypatch, stuck[0]):
        assert ask("readyz").status_code == 503


# --- What the project's settings may not change ---------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_atomic_requests_begin_no_transaction(monkeypatch, page, connects):
    for alias in ("default", "replica"):
        monkeypatch.setitem(connections.settings[alias], "ATOMIC_REQUESTS", True)
    assert ask(page).status_code == 200
    assert connects == []


@pytest.mark.parametrize("page", PAGES)
def test_the_documented_setting_exempts_the_pages_from_the_redirect(page):
    exempt: dict = {}
    exec(code_block(HEALTH, "SECURE_REDIRECT_EXEMPT"), exempt)
    middleware = [
        "django.middleware.security.SecurityMiddleware",
        "dbpool_mw.middleware.ConnectionPoolMiddleware",
    ]
    with override_settings(SECURE_SSL_REDIRECT=True, MIDDLEWARE=middleware):
        assert ask(page).status_code == 301
        with override_settings(SECURE_REDIRECT_EXEMPT=exempt["SECURE_REDIRECT_EXEMPT"]):
            assert ask(page).status_code == 200


# --- The document ---------------------------------------------------------------------


def test_the_documented_figures_keep_a_thread_free():
    names: dict = {}
    exec(code_block(HEALTH, "DBPOOL_MW_MAX_WAITING"), names)
    busy = names["DBPOOL_MW_MAX_CONNS"] + names["DBPOOL_MW_MAX_WAITING"]
    assert names["threads"] == busy + 1


def test_the_document_has_every_reason():
    head = sections(HEALTH)["readyz"]
    for word in ("stuck", "paused", "draining"):
        assert f"\n``{word}``" in head
