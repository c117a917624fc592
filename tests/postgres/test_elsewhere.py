"""Servers that close a response in another thread, in the middle, or never."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.http import HttpResponse, StreamingHttpResponse
from django.test import RequestFactory, override_settings

from tests.core.fakes import until
from tests.postgres.conftest import Requests, ask, stats

pytestmark = pytest.mark.usefixtures("fresh_wrappers")


def serve(requests: Requests, path: str = "/") -> HttpResponse:
    """Have the application answer, and leave the response open."""
    request = RequestFactory().get(path)
    request_started.send(sender=WSGIHandler, environ=request.environ)
    response = WSGIHandler().get_response(request)
    response._handler_class = WSGIHandler
    return response


@contextmanager
def threads(number: int) -> Iterator[Any]:
    """Give a function that calls another in a thread that served nothing before."""
    with ThreadPoolExecutor(number) as pool:
        everywhere = threading.Barrier(number + 1)
        for _ in range(number):
            pool.submit(everywhere.wait)
        everywhere.wait()  # all threads run
        yield lambda function, *args: pool.submit(function, *args).result(20)


def view(request: Any) -> HttpResponse:
    if "dirty" in request.GET:
        ask("SET app.tenant = '42'")
    return HttpResponse(ask("SELECT coalesce(current_setting('app.tenant', true), '')"))


@override_settings(DBPOOL_MW_MAX_CONNS=2, DBPOOL_MW_TIMEOUT=1)
@pytest.mark.parametrize("path", ["/", "/?dirty"])
def test_a_response_closed_in_another_thread_returns_the_requests_connection(
    requests: Requests, path: str
) -> None:
    requests.urls.view = view
    with threads(8) as call:
        for _ in range(8):
            response = call(serve, requests, path)
            assert response.content == (b"42" if "dirty" in path else b"")
            response.close()
            until(lambda: stats()["in_use"] == 0)
        # In an event loop, where nothing may query.
        response = call(serve, requests, path)

        async def close() -> None:
            response.close()

        asyncio.run(close())
        until(lambda: stats()["in_use"] == 0)
        response = call(serve, requests, "/")
        assert response.content == b""
        response.close()
        until(lambda: stats()["in_use"] == 0)
    found = stats()
    assert (found["timeouts"], found["reclaimed"]) == (0, 0)
    assert found["discarded"] == {} or path == "/?dirty"


@pytest.mark.parametrize("path", ["/", "/?dirty"])
def test_a_response_closed_elsewhere_where_the_middleware_is_async(
    requests: Requests, path: str
) -> None:
    requests.urls.view = view
    asynchronous = "tests.postgres.test_nested.awaits"
    with (
        override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, asynchronous]),
        threads(1) as call,
    ):
        response = call(serve, requests, path)
        assert stats()["in_use"] == 1
        response.close()
        until(lambda: stats()["in_use"] == 0)
        assert call(serve, requests).content == b""


def test_a_stray_close_elsewhere_leaves_the_next_request_of_the_thread_alone(
    requests: Requests,
) -> None:
    requests.urls.view = view
    with threads(1) as call:
        first = call(serve, requests)
        call(first.close)
        middle: list[int] = []

        def busy(request: Any) -> HttpResponse:
            ask("SET app.tenant = '42'")
            other = threading.Thread(target=first.close)
            other.start()
            other.join()
            middle.append(stats()["in_use"])
            return view(request)

        requests.urls.view = busy
        second = call(serve, requests)
        assert second.content == b"42"
        assert middle == [1]
        call(second.close)
        assert stats()["in_use"] == 0


def test_a_signal_in_the_middle_of_a_request_shares_nothing(requests: Requests) -> None:
    def stray(request: Any) -> HttpResponse:
        ask("SET app.tenant = '42'")
        request_finished.send(sender=None)
        assert ask("SELECT current_setting('app.tenant', true)") in (None, "")
        assert stats()["in_use"] == 1
        return HttpResponse("well")

    for _ in range(2):
        assert requests(stray).content == b"well"
        assert stats()["in_use"] == 0
    assert stats()["opened"] == 1


def test_what_never_closes_holds_a_session_until_the_threads_next_request(
    requests: Requests,
) -> None:
    def streams(request: Any) -> StreamingHttpResponse:
        if "dirty" in request.GET:
            ask("SET app.tenant = '42'")
        return StreamingHttpResponse(["well"])

    requests.urls.view = streams
    serve(requests)
    assert stats()["in_use"] == 0
    serve(requests, "/?dirty")
    assert stats()["in_use"] == 1
    assert requests(view).content == b""
    assert stats()["in_use"] == 0
