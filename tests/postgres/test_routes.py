"""A hold counts under the route of its request, or the name of its task or function."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from asgiref.sync import sync_to_async
from celery import Celery
from celery.app.trace import build_tracer
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.test import Client, override_settings
from django.urls import include, path, re_path

from dbpool_mw import pooled, released
from dbpool_mw.binding import registry
from tests.core.fakes import InThread, until
from tests.postgres.conftest import ask, stats

pytestmark = pytest.mark.usefixtures("fresh_wrappers", "urls")

app = Celery("routes", broker="memory://", fixups=[], set_as_current=False)


def page(request: Any, **arguments: Any) -> HttpResponse:
    return HttpResponse(str(ask("SELECT 1")))


async def async_page(request: Any, **arguments: Any) -> HttpResponse:
    return HttpResponse(str(await sync_to_async(ask)("SELECT 1")))


def missing(request: Any) -> HttpResponse:
    ask("SELECT 1")
    raise Http404


def fails(request: Any) -> HttpResponse:
    ask("SELECT 1")
    raise ValueError("on purpose")


def streams(request: Any) -> StreamingHttpResponse:
    ask("SELECT 1")
    return StreamingHttpResponse(str(ask("SELECT 2")) for _ in range(2))


def gives_back(request: Any) -> HttpResponse:
    ask("SELECT 1")
    with released():
        pass
    return HttpResponse(str(ask("SELECT 2")))


def nests(request: Any) -> HttpResponse:
    ask("SELECT 1")
    return HttpResponse(Client().get("/orders/5/").content)


def shows_itself(request: Any, pk: int) -> HttpResponse:
    ask("SELECT 1")
    (pool,) = registry.pools()
    return HttpResponse(",".join(str(h["route"]) for h in pool.holders()))


def crashes(request: Any) -> HttpResponse:
    return HttpResponse("the page of a failure", status=500)


class Urls:
    """The URL configuration."""

    handler500 = crashes
    urlpatterns: ClassVar[list[Any]] = [
        path("", page, name="home"),
        path("orders/<int:pk>/", page),
        path("shop/", include([path("<slug:name>/", page)])),
        re_path(r"^old/(?P<pk>\d+)/$", page),
        path("async/<int:pk>/", async_page),
        path("missing/", missing),
        path("fails/", fails),
        path("streams/", streams),
        path("gives_back/", gives_back),
        path("nests/", nests),
        path("shows/<int:pk>/", shows_itself),
    ]


@pytest.fixture
def urls(requests: Any) -> Iterator[None]:
    """Put the URL configuration there, and count by route."""
    with override_settings(ROOT_URLCONF=Urls, DBPOOL_MW_ROUTES=20):
        yield


def counted() -> dict[str, int]:
    (pool,) = registry.pools()
    return {row["name"]: row["holds"]["count"] for row in pool.routes()}


def get(url: str) -> Any:
    client = Client(raise_request_exception=False)
    response = client.get(url)
    if response.streaming:
        b"".join(response.streaming_content)
    return response


@pytest.mark.parametrize(
    ("url", "name", "holds"),
    [
        ("/", "home", 1),
        ("/orders/4711/", "orders/<int:pk>/", 1),
        ("/shop/hats/", "shop/<slug:name>/", 1),
        ("/old/7/", r"^old/(?P<pk>\d+)/$", 1),
        ("/async/7/", "async/<int:pk>/", 1),
        ("/missing/", "missing/", 1),
        ("/fails/", "fails/", 1),
        # Given back when the view has returned, and held again while it streams.
        ("/streams/", "streams/", 2),
        ("/gives_back/", "gives_back/", 2),
        # The connection is the outer one's.
        ("/nests/", "nests/", 1),
        ("/nowhere/", "-", 1),
    ],
)
def test_a_request_counts_under_its_route(url: str, name: str, holds: int) -> None:
    get(url)
    assert stats()["in_use"] == 0
    assert counted() == {name: holds}


def test_a_request_that_checks_out_at_its_first_query_counts_likewise() -> None:
    with override_settings(DBPOOL_MW_EAGER=()):
        get("/orders/1/")
        get("/async/1/")
        get("/nowhere/")  # asks for nothing
        assert counted() == {"orders/<int:pk>/": 1, "async/<int:pk>/": 1}


def test_the_holder_of_a_running_request_has_its_route() -> None:
    assert get("/shows/7/").content == b"shows/<int:pk>/"


@pooled
def expire_carts() -> None:
    ask("SELECT 1")


def test_a_pooled_function_and_a_block_count_under_their_names() -> None:
    expire_carts()
    with pooled():
        ask("SELECT 1")
    assert counted() == {f"{__name__}.expire_carts": 1, "pooled": 1}


@app.task
def send_mails() -> None:
    ask("SELECT 1")


@pytest.mark.usefixtures("celery_receivers")
def test_a_task_counts_under_its_name() -> None:
    trace = build_tracer(send_mails.name, send_mails, app=app)
    trace("an id", (), {}, {"id": "an id", "delivery_info": {}})
    assert counted() == {send_mails.name: 1}


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=20)
def test_who_waits_is_listed_with_its_request() -> None:
    go_on = threading.Event()

    def hold() -> None:
        with pooled():
            ask("SELECT 1")
            go_on.wait(20)

    holding = InThread(hold)
    until(lambda: bool(registry.pools()) and stats()["in_use"] == 1)
    waiting = InThread(get, "/orders/1/")
    until(lambda: stats()["waiting"] == 1)
    (pool,) = registry.pools()
    (row,) = pool.waiters()
    assert (row["method"], row["path"], row["route"]) == ("GET", "/orders/1/", None)
    assert row["thread"].startswith("Thread-")
    assert 0 <= row["seconds"] < 20
    go_on.set()
    holding.result()
    assert waiting.result().status_code == 200
    assert pool.waiters() == []
    until(lambda: stats()["in_use"] == 0)
    (waits,) = (r["waits"] for r in pool.routes() if r["name"] == "orders/<int:pk>/")
    assert waits["count"] == 1
    assert waits["sum"] > 0
