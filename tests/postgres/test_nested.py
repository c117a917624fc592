"""A request inside of another, or of a block, leaves the outer's connection alone."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.http import HttpResponse, StreamingHttpResponse
from django.test import (
    AsyncClient,
    AsyncRequestFactory,
    Client,
    RequestFactory,
    override_settings,
)
from django.utils.decorators import async_only_middleware

from dbpool_mw import pooled
from dbpool_mw.binding import registry
from dbpool_mw.middleware import ConnectionPoolMiddleware
from tests.core.fakes import InThread
from tests.postgres.conftest import ask, held, on_engine, stats

pytestmark = pytest.mark.usefixtures("fresh_wrappers")

TENANT = "SELECT current_setting('app.tenant', true)"


def nested(status=200):
    """Return a view that answers ``/?inner`` by itself, and else asks for that page."""

    def view(request):
        if "inner" in request.GET:
            return HttpResponse(ask(TENANT), status=status)
        ask("SET app.tenant = '42'")
        answers = [Client().get("/?inner") for _ in range(2)]
        assert {each.status_code for each in answers} == {status}
        return HttpResponse(ask(TENANT))

    return view


def holder():
    (pool,) = registry.pools()
    (found,) = pool.holders()
    return found["path"]


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=1)
@pytest.mark.parametrize("eager", [("default",), ()])
def test_an_outer_request_keeps_what_a_nested_one_checked_out(requests, eager):
    def view(request):
        if "inner" not in request.GET:
            assert Client().get("/inner?inner").status_code == 404
            assert Client().get("/?inner").status_code == 200
            return HttpResponse(holder())
        return HttpResponse(ask("SELECT 'well'"))

    with override_settings(DBPOOL_MW_EAGER=eager):
        assert requests(view).content == b"/"
        assert (stats()["in_use"], stats()["checkouts"]) == (0, 1)


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=1)
@pytest.mark.parametrize("status", [200, 500])
def test_a_nested_stream_or_error_gives_nothing_of_the_outers_back(requests, status):
    """Nor where the outer's connection is clean."""

    def view(request):
        if "inner" in request.GET:
            if status == 500:
                raise ValueError
            return StreamingHttpResponse(["well"])
        ask("SELECT 1")
        client = Client(raise_request_exception=False)
        assert client.get("/?inner").status_code == status
        assert stats()["in_use"] == stats()["checkouts"] == 1
        return HttpResponse("well")

    assert requests(view).content == b"well"
    assert stats()["in_use"] == 0


@async_only_middleware
def awaits(get_response):
    """Have every middleware before it run as a coroutine, under WSGI as well."""

    async def middleware(request):
        return await get_response(request)

    return middleware


@override_settings(
    MIDDLEWARE=[*settings.MIDDLEWARE, f"{__name__}.awaits"],
    DBPOOL_MW_MAX_CONNS=1,
    DBPOOL_MW_TIMEOUT=1,
)
def test_an_outer_request_keeps_its_session_where_the_middleware_is_async(requests):
    assert requests(nested()).content == b"42"
    assert requests(lambda request: HttpResponse(ask(TENANT) or "none")).content == (
        b"none"
    )
    assert stats()["in_use"] == 0


def test_the_response_of_a_nested_request_may_be_the_outers(requests):
    def view(request):
        if "inner" in request.GET:
            return HttpResponse(ask(TENANT))
        ask("SET app.tenant = '42'")
        return Client().get("/?inner")

    assert requests(view).content == b"42"
    assert stats()["in_use"] == 0
    assert requests(lambda request: HttpResponse(ask(TENANT) or "none")).content
    assert stats()["in_use"] == 0


@pytest.mark.parametrize("ends", [SystemExit, KeyboardInterrupt])
def test_an_exception_that_ends_the_nested_request_leaves_the_outer_its_own(
    requests, ends
):
    def view(request):
        if "inner" in request.GET:
            raise ends
        ask("SET app.tenant = '42'")
        with pytest.raises(ends):
            Client().get("/?inner")
        return HttpResponse(ask(TENANT))

    assert requests(view).content == b"42"
    with pytest.raises(ends):
        requests(lambda request: exec("raise error", {"error": ends}))
    assert stats()["in_use"] == 0


def test_a_stream_after_a_nested_request_gives_back_what_is_clean(requests):
    held = []

    class Response(StreamingHttpResponse):
        def close(self):
            held.append(stats()["in_use"])
            super().close()

    def view(request):
        if "inner" not in request.GET:
            assert Client().get("/?inner").status_code == 200
            return Response(["well"])
        return HttpResponse(ask("SELECT 'well'"))

    assert requests(view).status_code == 200
    assert held == [0]


def test_a_block_keeps_its_session_around_a_request(requests):
    requests.urls.view = nested(201)
    with pooled():
        ask("SET app.tenant = '41'")
        assert Client().get("/").content == b"42"
        assert ask(TENANT) == "42"
        assert stats()["checkouts"] == 1
        assert holder() is None
    assert stats()["in_use"] == 0
    # The next request of the thread is on its own again.
    assert requests(lambda request: HttpResponse(ask(TENANT) or "none")).content
    assert stats()["in_use"] == 0


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=1)
def test_a_request_in_a_block_of_another_alias_returns_its_own_connection(requests):
    with override_settings(DBPOOL_MW_POOLS={}), pooled("replica"):
        assert requests(lambda request: HttpResponse(ask("SELECT 1"))).content == b"1"
        assert stats()["in_use"] == 0
        assert requests(lambda request: HttpResponse(ask("SELECT 2"))).content == b"2"
        assert stats()["in_use"] == 0


def test_nested_requests_at_once_share_the_connection_of_the_coroutine(requests):
    async def view(request):
        if "inner" in request.GET:
            return HttpResponse(await sync_to_async(ask)(TENANT))
        await sync_to_async(ask)("SET app.tenant = '42'")
        pages = [AsyncClient().get("/?inner") for _ in range(3)]
        assert {page.content for page in await asyncio.gather(*pages)} == {b"42"}
        assert holder() == "/"
        return HttpResponse(await sync_to_async(ask)(TENANT))

    async def serve():
        requests.urls.urlpatterns[0].callback = view
        async with ThreadSensitiveContext():
            request = AsyncRequestFactory().get("/")
            response = await ASGIHandler().get_response_async(request)
            response._handler_class = ASGIHandler
            await sync_to_async(response.close)()
        return response.content

    assert asyncio.run(serve()) == b"42"
    assert (stats()["in_use"], stats()["checkouts"], stats()["reclaimed"]) == (0, 1, 0)


def tenant(request):
    return HttpResponse(ask(TENANT) or "none", status=int(request.GET.get("is", 200)))


def sets_tenant(request):
    ask("SET app.tenant = '42'")


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=1)
@pytest.mark.parametrize("asked", ["/?inner", "/?inner&is=404", "/?inner&streams"])
def test_a_request_inside_of_a_stream_leaves_its_session_alone(requests, asked):
    def lines():
        for _ in range(2):
            yield ask(TENANT)
            page = Client().get(asked)
            yield b"".join(page) if page.streaming else page.content
        yield ask(TENANT)

    def view(request):
        if "streams" in request.GET:
            return StreamingHttpResponse(ask(TENANT) for _ in range(1))
        if "inner" in request.GET:
            return tenant(request)
        sets_tenant(request)
        return StreamingHttpResponse(lines())

    response = requests.begin(view)
    assert b",".join(response) == b"42,42,42,42,42"
    response.close()
    assert (stats()["in_use"], stats()["checkouts"]) == (0, 1)
    assert requests(tenant).content == b"none"


def test_a_stream_that_runs_in_another_thread_shares_nothing_with_the_next_request(
    requests,
):
    running, done = threading.Event(), threading.Event()

    def lines():
        running.set()
        assert done.wait(20)
        yield "well"

    def view(request):
        sets_tenant(request)
        return StreamingHttpResponse(lines())

    response = requests.begin(view)
    stream = InThread(lambda: b"".join(response))
    assert running.wait(20)
    requests.urls.view = tenant
    # Unlike a server, it doesn't have Django close what the thread has.
    assert Client().get("/").content == b"none"
    done.set()
    assert stream.result() == b"well"
    response.close()
    assert stats()["in_use"] == 0


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_a_request_inside_of_an_async_stream_under_wsgi_leaves_its_session_alone(
    requests,
):
    async def lines():
        yield await sync_to_async(ask)(TENANT)
        yield (await sync_to_async(Client().get)("/?inner")).content
        yield await sync_to_async(ask)(TENANT)

    def view(request):
        if "inner" in request.GET:
            return tenant(request)
        sets_tenant(request)
        return StreamingHttpResponse(lines())

    response = requests.begin(view)
    assert list(response) == [b"42", b"42", b"42"]
    response.close()
    assert (stats()["in_use"], stats()["checkouts"]) == (0, 1)
    assert requests(tenant).content == b"none"


@pytest.mark.parametrize("client", ["sync", "async"])
def test_a_request_inside_of_an_async_stream_leaves_its_session_alone(requests, client):
    async def lines():
        yield await sync_to_async(ask)(TENANT)
        if client == "sync":
            page = await sync_to_async(Client().get)("/?inner")
        else:
            page = await AsyncClient().get("/?inner")
        yield page.content
        yield await sync_to_async(ask)(TENANT)

    async def view(request):
        if "inner" in request.GET:
            return await sync_to_async(tenant)(request)
        await sync_to_async(sets_tenant)(request)
        return StreamingHttpResponse(lines())

    async def serve():
        requests.urls.urlpatterns[0].callback = view
        async with ThreadSensitiveContext():
            request = AsyncRequestFactory().get("/")
            response = await ASGIHandler().get_response_async(request)
            response._handler_class = ASGIHandler
            found = [part async for part in response]
            await sync_to_async(response.close)()
        return found

    assert asyncio.run(serve()) == [b"42", b"42", b"42"]
    assert (stats()["in_use"], stats()["checkouts"], stats()["reclaimed"]) == (0, 1, 0)


@pytest.mark.parametrize("middleware", [True, False])
@pytest.mark.parametrize("asked", ["/?inner", "/?inner&is=404"])
def test_a_request_inside_of_another_on_the_pools_engine(requests, asked, middleware):
    def view(request):
        if "inner" in request.GET:
            return tenant(request)
        sets_tenant(request)
        assert Client().get(asked).content == b"42"
        return tenant(request)

    before = settings.MIDDLEWARE
    with (
        on_engine("dbpool_mw.backends.postgresql"),
        override_settings(MIDDLEWARE=before if middleware else []),
    ):
        assert requests(view).content == b"42"
        assert (stats()["in_use"], stats()["checkouts"]) == (0, 1)
        with pooled():
            sets_tenant(None)
            assert Client().get(asked).content == b"42"
            assert ask(TENANT) == "42"
        assert stats()["in_use"] == 0
        assert requests(tenant).content == b"none"


def test_a_handler_called_inside_of_a_request_does_as_without_the_pool(requests):
    """Unlike a test client, it has Django itself close the thread's connections."""

    def view(request):
        if "inner" in request.GET:
            return tenant(request)
        sets_tenant(request)
        environ = RequestFactory().get("/?inner").environ
        page = WSGIHandler()(environ, lambda *_: None)
        inner = b"".join(page)
        page.close()
        return HttpResponse([inner, b",", ask(TENANT) or "none"])

    for enabled in (False, True):
        with override_settings(DBPOOL_MW_ENABLED=enabled):
            assert requests(view).content == b"none,none"
            assert requests(tenant).content == b"none"
            assert not enabled or stats()["in_use"] == 0


def stops(get_response):
    """Answer ``/?stops`` before the pool's middleware is asked."""

    def middleware(request):
        if "stops" in request.GET:
            return HttpResponse("stops")
        return get_response(request)

    return middleware


def test_a_request_inside_that_never_came_to_the_pools_middleware(requests):
    def view(request):
        sets_tenant(request)
        assert Client().get("/?stops").content == b"stops"
        return tenant(request)

    with override_settings(MIDDLEWARE=[f"{__name__}.stops", *settings.MIDDLEWARE]):
        assert requests(view).content == b"42"
        assert requests(tenant).content == b"none"
    assert stats()["in_use"] == 0


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_request_inside_that_fails_before_it_began(requests, monkeypatch, error):
    original = ConnectionPoolMiddleware._begin

    def begin(self, request):
        if "inner" in request.GET:
            raise error
        return original(self, request)

    monkeypatch.setattr(ConnectionPoolMiddleware, "_begin", begin)

    def view(request):
        sets_tenant(request)
        with pytest.raises(error):
            Client().get("/?inner")
        return tenant(request)

    assert requests(view).content == b"42"
    assert requests(tenant).content == b"none"
    assert stats()["in_use"] == 0


@override_settings(DBPOOL_MW_POOLS={}, DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=0.2)
def test_a_request_inside_that_is_refused_leaves_every_alias_alone(requests):
    """It gets none of the first alias, and has not come to the second."""

    def view(request):
        ask("SET app.tenant = '42'", "replica")
        connections["default"].close()
        with held():
            assert Client().get("/?inner").status_code == 503
        return HttpResponse(ask(TENANT, "replica"))

    assert requests(view).content == b"42"
    assert stats("replica")["in_use"] == 0


def asks_twice(get_response):
    """Ask for each response twice, as middleware that tries again does."""

    def middleware(request):
        request.attempt = 1
        first = get_response(request)
        if "closes" in request.GET:
            first.close()
        request.attempt = 2
        return get_response(request)

    return middleware


def test_a_request_that_is_served_twice_goes_on_with_its_session(requests):
    held = []

    def view(request):
        if "inner" in request.GET:
            return tenant(request)
        if request.attempt == 1:
            sets_tenant(request)
            return HttpResponse("fails")
        # Neither has a request inside of the second attempt anything of it.
        assert ask(TENANT) == "42"
        assert Client().get("/?inner").content == b"42"
        held.append(stats()["in_use"])
        return tenant(request)

    with override_settings(MIDDLEWARE=[f"{__name__}.asks_twice", *settings.MIDDLEWARE]):
        assert requests(view).content == b"42"
    assert held == [1]
    assert (stats()["in_use"], stats()["checkouts"]) == (0, 1)
    assert requests(tenant).content == b"none"
