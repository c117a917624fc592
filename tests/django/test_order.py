"""The middleware that may stand before the pool's makes no query, in real packages."""

from __future__ import annotations

import django
import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpResponse
from django.test import RequestFactory, override_settings
from django.urls import path
from django.utils.functional import SimpleLazyObject
from django.utils.module_loading import import_string

from dbpool_mw.checks.order import MAKES_NO_QUERY

urlpatterns = [path("page/", lambda request: HttpResponse())]

SETTINGS = {
    "ROOT_URLCONF": __name__,
    "MIDDLEWARE": [],
    "USE_I18N": True,
    "CORS_ALLOW_ALL_ORIGINS": True,
    "CONTENT_SECURITY_POLICY": {"DIRECTIVES": {"default-src": ["'self'"]}},
    "SECURE_CSP": {"default-src": ["'self'"]},
    "STATIC_URL": "/static/",
}


#: The packages that the tests require.
PACKAGES = ("django.", "corsheaders.", "django_prometheus.", "whitenoise.")


class Queries(Exception):
    """A query needs a connection."""


@pytest.fixture
def no_database(monkeypatch):
    """Have each attempt to connect raise, and note it."""
    attempts = []

    def connect(self):
        attempts.append(self.alias)
        raise Queries

    monkeypatch.setattr(BaseDatabaseWrapper, "connect", connect)
    return attempts


def user():
    return connections["default"].cursor()


def page(status):
    return HttpResponse("a page " * 100, status=status, content_type="text/html")


def send(name, status=200):
    """Send a request through a middleware, with a session and a user to be read."""
    middleware = import_string(name)

    def view(request):
        return page(status)

    request = RequestFactory().get(
        "/page",
        HTTP_ORIGIN="https://spa.example",
        HTTP_ACCEPT_LANGUAGE="de",
        HTTP_ACCEPT_ENCODING="gzip, br",
        HTTP_REFERER="https://elsewhere.example/",
    )
    request.COOKIES["sessionid"] = "a" * 32
    request.session = SessionStore("a" * 32)
    request.user = SimpleLazyObject(user)
    middleware(view)(request)


@pytest.fixture(autouse=True)
def around(tmp_path):
    with override_settings(**SETTINGS, STATIC_ROOT=str(tmp_path)):
        yield


@pytest.mark.parametrize("status", [200, 404, 503])
@pytest.mark.parametrize(
    "name", sorted(name for name in MAKES_NO_QUERY if name.startswith(PACKAGES))
)
def test_it_makes_no_query(name, status, no_database):
    if name.startswith("django.middleware.csp.") and django.VERSION < (6,):
        pytest.skip("Django has it from 6.0 on")
    send(name, status)
    assert no_database == []


def reads_user(get_response):
    """Read the user after the request, as middleware that logs it does."""

    def middleware(request):
        response = get_response(request)
        assert request.user.is_authenticated
        return response

    return middleware


def test_middleware_that_reads_the_user_would_be_noticed(no_database):
    with pytest.raises(Queries):
        send(f"{__name__}.reads_user")
    assert no_database == ["default"]
