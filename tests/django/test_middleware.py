"""The middleware, the decorator and the app's start, without a server."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import subprocess
import sys
from unittest import mock

import django
import pytest
from asgiref.sync import async_to_sync
from django.apps import apps
from django.conf import settings
from django.conf.urls.i18n import i18n_patterns
from django.contrib.syndication.views import Feed
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers import base
from django.core.signals import got_request_exception, request_finished
from django.db import close_old_connections, connections
from django.http import HttpResponse
from django.middleware.locale import LocaleMiddleware
from django.test import RequestFactory, override_settings
from django.urls import path
from django.utils import translation
from django.utils.decorators import method_decorator
from django.utils.functional import lazy
from django.views import View

from dbpool_mw import decorators
from dbpool_mw.binding import binding, registry, testing
from dbpool_mw.decorators import no_pool
from dbpool_mw.middleware import ConnectionPoolMiddleware
from tests.process.servers import wait_until


@no_pool
def exempt(request):
    """Say that it is well."""
    return HttpResponse("well")


@no_pool
async def exempt_async(request):
    return HttpResponse("well")


@method_decorator(no_pool, name="dispatch")
class Exempt(View):
    def get(self, request):
        return HttpResponse("well")


@method_decorator(no_pool, name="__call__")
class ExemptFeed(Feed):
    def __call__(self, request):
        return HttpResponse("well")


class Exempts:
    """Views that are methods."""

    @no_pool
    def well(self, request):
        return HttpResponse("well")


def logged(view):
    """Decorate a view as projects do."""

    @functools.wraps(view)
    def wrapped(*args, **kwargs):
        return view(*args, **kwargs)

    return wrapped


def plain(request):
    return HttpResponse("well")


urlpatterns = [
    path("exempt/", exempt),
    path("async/", exempt_async),
    path("class/", Exempt.as_view()),
    path("wrapped/", no_pool(Exempt.as_view())),
    path("logged/", logged(logged(exempt))),
    path("partial/", functools.partial(exempt)),
    path("partials/", functools.partial(functools.partial(Exempt.as_view()))),
    path("logged-partial/", logged(no_pool(functools.partial(plain)))),
    path("instance/", ExemptFeed()),
    path("method/", Exempts().well),
    path("plain/", plain),
]


@pytest.fixture(autouse=True)
def on_urls():
    decorators.forget_urls()
    with override_settings(ROOT_URLCONF=__name__):
        yield
    decorators.forget_urls()


@pytest.fixture
def is_eager(monkeypatch):
    """Give a function that tells whether a request for a path checks one out.

    No server listens at the address in the settings, and the request is served.
    """
    asked = []
    monkeypatch.setattr(
        binding.Binding, "checkout", lambda self, *_, **__: asked.append(self.alias)
    )
    middleware = ConnectionPoolMiddleware(lambda request: HttpResponse("well"))

    def is_eager(path):
        asked.clear()
        assert middleware(RequestFactory().get(path)).status_code == 200
        assert asked in ([], ["default"])
        return bool(asked)

    is_eager.asked = asked
    return is_eager


@pytest.mark.parametrize(
    "url", [f"/{entry.pattern}" for entry in urlpatterns if entry.callback != plain]
)
def test_a_decorated_view_is_served_without_a_checkout(is_eager, url):
    assert decorators.needs_no_pool(RequestFactory().get(url))
    assert not is_eager(url)
    assert is_eager("/plain/")
    assert is_eager("/nowhere/")


class OnGet(View):
    @method_decorator(no_pool)
    def get(self, request):
        return HttpResponse("well")


class OnBareGet(View):
    @no_pool
    def get(self, request):
        return HttpResponse("well")


@method_decorator(no_pool, name="get")
class OnAsyncGet(View):
    async def get(self, request):
        return HttpResponse("well")


class OnBareDispatch(View):
    @no_pool
    def dispatch(self, request):
        return HttpResponse("well")


@pytest.mark.parametrize(
    "view",
    [
        OnGet,
        OnBareGet,
        pytest.param(
            OnAsyncGet,
            marks=pytest.mark.skipif(
                django.VERSION < (5, 2),
                reason="Django's method_decorator takes async methods from 5.2 on",
            ),
        ),
    ],
)
def test_a_decorated_method_that_is_called_too_late_says_what_to_decorate(view):
    serve = async_to_sync(view.as_view()) if view.view_is_async else view.as_view()
    with pytest.raises(ImproperlyConfigured) as caught:
        serve(RequestFactory().get("/"))
    text = str(caught.value)
    assert f"no_pool has no effect on {view.__name__}.get()" in text
    assert '@method_decorator(no_pool, name="dispatch")' in text


@pytest.mark.parametrize(
    "view",
    [
        exempt,
        Exempt.as_view(),
        no_pool(Exempt.as_view()),
        no_pool(OnBareDispatch().dispatch),
        no_pool(functools.partial(Exempt().dispatch)),
        no_pool(functools.partial(plain)),
    ],
)
def test_a_decorated_view_can_be_called(view):
    assert view(RequestFactory().get("/")).content == b"well"
    assert view(request=RequestFactory().get("/")).content == b"well"


LOCALE = "django.middleware.locale.LocaleMiddleware"
OWN_LOCALE = f"{__name__}.OwnLocaleMiddleware"
POOL = "dbpool_mw.middleware.ConnectionPoolMiddleware"


class OwnLocaleMiddleware(LocaleMiddleware):
    """A project's own."""


class Urls:
    """A URL configuration of its own."""

    def __init__(self, *patterns):
        self.urlpatterns = patterns


def serve(path, middleware, **headers):
    """Serve a request by the chain of MIDDLEWARE; tell whether it was found."""
    with override_settings(MIDDLEWARE=middleware):
        handler = base.BaseHandler()
        handler.load_middleware()
        request = RequestFactory().get(path, **headers)
        found = handler.get_response(request).status_code == 200
        request_finished.send(sender=None)
        return found


@pytest.mark.parametrize(
    "order", [[POOL, LOCALE], [LOCALE, POOL], [POOL, OWN_LOCALE], [OWN_LOCALE, POOL]]
)
@pytest.mark.parametrize("prefixed", [False, True])
def test_a_decorated_view_is_found_in_every_language(is_eager, order, prefixed):
    route = lazy(lambda: f"{translation.get_language()}-translated/", str)()
    translated = path(route, exempt)
    urls = i18n_patterns(path("x/", exempt), prefix_default_language=prefixed)
    with override_settings(ROOT_URLCONF=Urls(*urls, translated)):
        for language, other in [("de", "en"), ("en", "de"), ("de", "de")]:
            # What a thread's last request left must not matter.
            translation.activate(other)
            start = "" if language == "en" and not prefixed else f"/{language}"
            pages = [f"{start}/x/"]
            if prefixed or language == "en":
                pages.append(f"/{language}-translated/")
            for url in pages:
                is_eager.asked.clear()
                assert serve(url, order, HTTP_ACCEPT_LANGUAGE=language), url
                assert is_eager.asked == [], url
        translation.activate("en")


def test_a_decorated_view_is_found_by_the_urls_of_the_request(is_eager):
    def of_host(get_response):
        def middleware(request):
            if request.get_host() == "other":
                request.urlconf = other
            return get_response(request)

        return middleware

    other = Urls(path("plain/", exempt), path("exempt/", plain))
    with mock.patch(f"{__name__}.of_host", of_host, create=True):
        for host, free in [("first", "/exempt/"), ("other", "/plain/")] * 2:
            for url in ("/exempt/", "/plain/"):
                is_eager.asked.clear()
                assert serve(url, [f"{__name__}.of_host", POOL], HTTP_HOST=host)
                assert is_eager.asked == ([] if url == free else ["default"])


def test_a_decorated_view_is_still_the_view():
    assert exempt.__name__ == "exempt"
    assert exempt.__doc__ == "Say that it is well."
    assert exempt(None).content == b"well"
    assert asyncio.run(exempt_async(None)).content == b"well"


@override_settings(DBPOOL_MW_EXEMPT=["/health/", "/static/"])
def test_exempt_paths_are_served_without_a_checkout(is_eager):
    assert not is_eager("/health/x")
    assert is_eager("/healthy")


@override_settings(DBPOOL_MW_EAGER=())
def test_without_eager_aliases_nothing_is_checked_out_before_a_query(is_eager):
    assert not is_eager("/")


@pytest.mark.parametrize("eager", [("default",), ["replica"], ("replica", "default")])
def test_the_eager_aliases_are_checked_out(monkeypatch, eager):
    asked = []
    monkeypatch.setattr(
        binding.Binding, "checkout", lambda self, *_, **__: asked.append(self.alias)
    )
    with override_settings(DBPOOL_MW_EAGER=eager):
        middleware = ConnectionPoolMiddleware(lambda request: HttpResponse("well"))
        assert middleware(RequestFactory().get("/")).status_code == 200
    assert sorted(asked) == sorted(eager)


def test_a_database_that_is_down_refuses_no_page_that_does_not_ask_it():
    middleware = ConnectionPoolMiddleware(lambda request: HttpResponse("well"))
    for _ in range(3):
        assert middleware(RequestFactory().get("/")).status_code == 200
        request_finished.send(sender=None)
    (pool,) = registry.pools()
    # The later ones made no attempt.
    assert pool.stats()["connect_errors"] == 1


def test_a_project_without_urls_is_served():
    middleware = ConnectionPoolMiddleware(lambda request: HttpResponse("well"))
    with override_settings(DBPOOL_MW_EAGER=()):
        del settings.ROOT_URLCONF
        assert middleware(RequestFactory().get("/")).status_code == 200


def test_where_the_database_was_forbidden_before_the_import_requests_need_none():
    script = """
from django.db.backends.base.base import BaseDatabaseWrapper
def forbid(self):
    raise RuntimeError("no database in this test")
forbid.__module__ = "pytest_django.plugin"
BaseDatabaseWrapper.ensure_connection = forbid
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="x",
    INSTALLED_APPS=["dbpool_mw"],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "x"}},
)
django.setup()
from django.http import HttpResponse
from django.test import RequestFactory
from dbpool_mw.middleware import ConnectionPoolMiddleware
middleware = ConnectionPoolMiddleware(lambda request: HttpResponse("well"))
print(middleware(RequestFactory().get("/")).status_code)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], text=True, capture_output=True, timeout=60
    )
    assert done.stdout == "200\n", done.stderr


def test_settings_are_live(is_eager):
    with override_settings(DBPOOL_MW_ENABLED=False):
        assert not is_eager("/")
    with override_settings(DBPOOL_MW_EAGER=()):
        assert not is_eager("/")
    assert is_eager("/")


@override_settings(DBPOOL_MW_MAX_CONNS=0)
def test_wrong_settings_are_refused_at_the_start():
    with pytest.raises(ImproperlyConfigured, match="DBPOOL_MW_MAX_CONNS must be 1"):
        ConnectionPoolMiddleware(lambda request: HttpResponse())


@pytest.mark.parametrize("name", ["busy_async", "not_callable", "missing"])
def test_a_view_that_cant_answer_is_refused_at_the_start(name):
    with (
        override_settings(
            DBPOOL_MW_UNAVAILABLE_VIEW=f"tests.django.test_checks.{name}"
        ),
        pytest.raises(ImproperlyConfigured, match="DBPOOL_MW_UNAVAILABLE_VIEW"),
    ):
        ConnectionPoolMiddleware(lambda request: HttpResponse())


def test_signals_without_any_request_do_nothing():
    request_finished.send(sender=None)
    got_request_exception.send(sender=None, request=None)


def test_a_receiver_is_connected_once():
    names = [key[0] for key, *_ in request_finished.receivers]
    assert names.count("dbpool_mw.end_request") == 1


def test_connections_return_before_django_looks_at_each_wrapper():
    # The receivers by their ids: Django's has no other name.
    ids = [key[0] for key, *_ in request_finished.receivers]
    assert ids.index("dbpool_mw.end_request") < ids.index(id(close_old_connections))


def test_an_app_that_is_made_ready_again_is_set_up_once(databases, monkeypatch):
    """As by override_settings(INSTALLED_APPS=…), in a test on a test database."""
    for module, name in [(os, "register_at_fork"), (atexit, "register")]:
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("set up again"))
    values = connections.settings["default"]
    name = values["NAME"]
    patched = base.convert_exception_to_response
    monkeypatch.setattr(testing, "is_test_run", lambda: True)
    try:
        values["NAME"] = databases.replica
        with override_settings(INSTALLED_APPS=["dbpool_mw", "django.contrib.sites"]):
            apps.get_app_config("dbpool_mw").ready()
        assert not testing.has_no_test_database("default", databases.replica)
        assert testing.has_no_test_database("default", name)
    finally:
        values["NAME"] = name
    assert base.convert_exception_to_response is patched


def test_pools_close_every_connection_from_the_moment_that_tests_run(
    databases, monkeypatch
):
    """Django's test runner renames the database, and drops it in the end."""
    middleware = ConnectionPoolMiddleware(lambda request: HttpResponse("well"))
    with override_settings(DBPOOL_MW_POOLS={"replica": None}):
        middleware(RequestFactory().get("/"))
        request_finished.send(sender=None)
        (first,) = registry.pools()
        assert first.stats()["idle"] == 1
        monkeypatch.setattr(testing, "is_test_run", lambda: True)
        settings = connections.settings["default"]
        name, settings["NAME"] = settings["NAME"], databases.replica
        try:
            middleware(RequestFactory().get("/"))
            assert registry.pools()[0] is first
            second = registry.pools()[1]
            assert second.database == databases.replica
            assert first.state == second.state == "draining"
            wait_until(lambda: first.stats()["size"] == 0, "the first is empty")
            request_finished.send(sender=None)
            assert second.stats()["size"] == 0
        finally:
            settings["NAME"] = name


def test_without_a_driver_the_app_starts_and_a_check_says_what_to_install():
    script = """
import sys
sys.modules["psycopg2"] = sys.modules["psycopg"] = None
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="x",
    INSTALLED_APPS=["dbpool_mw"],
    MIDDLEWARE=["dbpool_mw.middleware.ConnectionPoolMiddleware"],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "x"}},
)
django.setup()
from django.core.checks import run_checks
print([message.hint for message in run_checks()])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], text=True, capture_output=True, timeout=60
    )
    assert "pip install" in done.stdout, done.stderr
    assert 'pip install "django-dbpool-mw[psycopg-binary]"' in done.stdout
