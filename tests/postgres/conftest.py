"""Requests in the test's own process, ended as a server ends them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery.signals import task_postrun, task_prerun, worker_process_shutdown
from django.apps import AppConfig
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_started
from django.db import connections
from django.db.backends.base.base import RAN_DB_VERSION_CHECK
from django.http import HttpResponse
from django.test import RequestFactory, override_settings
from django.urls import path

from dbpool_mw import conf, pooled
from dbpool_mw.binding import registry
from dbpool_mw.binding.binding import thread_state
from sandbox.postgres import Server
from tests.conftest import Databases
from tests.core.fakes import InThread
from tests.postgres.wire import CountingProxy
from tests.vocabulary import driver, tracked


class Urls:
    """A URL configuration of one view, which a test puts there."""

    def __init__(self) -> None:
        self.view: Callable[..., Any] = lambda request: HttpResponse("well")
        self.urlpatterns = [path("", lambda request: self.view(request))]


class Requests:
    """Send requests through Django's WSGI handler, signals and all."""

    def __init__(self) -> None:
        self.urls = Urls()
        self.statuses: list[int] = []

    def __call__(self, view: Callable[..., Any]) -> HttpResponse:
        """Have the view serve one request from its start to its end."""
        response = self.begin(view)
        # Sends request_finished, as any server does.
        response.close()
        return response

    def begin(self, view: Callable[..., Any]) -> Any:
        """Have the view serve one request, and leave its response open."""
        self.urls.view = view
        handler = WSGIHandler()
        request = RequestFactory().get("/")
        request_started.send(sender=type(handler), environ=request.environ)
        response = handler.get_response(request)
        response._handler_class = type(handler)
        return response


@pytest.fixture
def requests(databases: Databases) -> Iterator[Requests]:
    """Give a way to send requests, with Django on a real server."""
    sender = Requests()
    with override_settings(ROOT_URLCONF=sender.urls, DBPOOL_MW_POOLS={"replica": None}):
        yield sender
    connections.close_all()


@pytest.fixture
def wire(requests: Requests, databases: Databases) -> Iterator[CountingProxy]:
    """Put the proxy between Django and the server."""
    if databases.server.host.startswith("/"):
        pytest.skip("the server named by the environment has no TCP address")
    proxy = CountingProxy(databases.server.host, int(databases.server.port))
    connections.settings["default"].update(
        HOST="127.0.0.1", PORT=str(proxy.port), OPTIONS={"sslmode": "disable"}
    )
    yield proxy
    connections["default"].close()
    registry.close()
    connections.settings["default"]["OPTIONS"] = {}
    proxy.close()


def forget_wrappers() -> None:
    """Close this thread's wrappers and have Django make new ones."""
    for wrapper in connections.all(initialized_only=True):
        wrapper.close()
        del connections[wrapper.alias]
    thread_state.bindings.clear()


@pytest.fixture
def fresh_wrappers(databases: Databases) -> Iterator[None]:
    """Begin and end with wrappers that were never bound to a pool."""
    forget_wrappers()
    yield
    forget_wrappers()


@pytest.fixture
def connection(postgres: Server, database: str) -> Iterator[Any]:
    """Give a tracked connection in autocommit that Django doesn't know."""
    made = tracked(postgres.dsn(database), autocommit=True)
    driver.keep_set_up(made)
    yield made
    made.close()


def run(connection: Any, query: Any, **options: Any) -> None:
    """Run a statement on a connection of the library's."""
    with connection.cursor(**options) as cursor:
        cursor.execute(query)


@contextmanager
def on_engine(name: str) -> Iterator[None]:
    """Put the alias "default" on another ENGINE, as in a process that just started."""
    values = connections.settings["default"]
    before = values.copy()

    def begin() -> None:
        forget_wrappers()
        registry.close()
        conf.reset_cache()
        # Django looks at the server's version once in each process.
        RAN_DB_VERSION_CHECK.discard("default")

    values["ENGINE"] = name
    begin()
    try:
        yield
    finally:
        begin()
        values.clear()
        values.update(before)
        conf.reset_cache()


def stats(alias: str = "default") -> dict[str, Any]:
    """Return the statistics of an alias's pool."""
    (pool,) = [pool for pool in registry.pools() if pool.name == alias]
    return pool.stats()


def ask(sql: str, alias: str = "default") -> Any:
    """Run a statement on the alias's connection; return its first value."""
    with connections[alias].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None


@contextmanager
def held(*statements: str) -> Iterator[threading.Event]:
    """Hold a connection in another thread, until the event or the end of the block.

    The statements are executed on it first.
    """
    begun, done = threading.Event(), threading.Event()

    def hold() -> None:
        with pooled("default"):
            ask("SELECT 1")
            for statement in statements:
                ask(statement)
            begun.set()
            assert done.wait(30)

    thread = InThread(hold)
    assert begun.wait(30)
    try:
        yield done
    finally:
        done.set()
        thread.result()


@pytest.fixture
def celery_receivers() -> Iterator[None]:
    """Have Celery's signals received as where the app of the contrib is installed."""
    AppConfig.create("dbpool_mw.contrib.celery").ready()
    yield
    for signal, name in (
        (task_prerun, "begin"),
        (task_postrun, "end"),
        (worker_process_shutdown, "close"),
    ):
        assert signal.disconnect(dispatch_uid=f"dbpool_mw.{name}")
