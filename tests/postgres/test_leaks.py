"""LEAK_AFTER shows where in the project's code the holder is."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.signals import request_finished
from django.http import HttpResponse
from django.test import AsyncRequestFactory, override_settings

from dbpool_mw.binding import registry
from dbpool_mw.middleware import ConnectionPoolMiddleware
from tests.core.fakes import InThread, until
from tests.postgres.conftest import Requests, ask

pytestmark = pytest.mark.usefixtures("fresh_wrappers")


def wait_in_the_project(reached: threading.Event, go_on: threading.Event) -> None:
    reached.set()
    go_on.wait(20)


@pytest.mark.parametrize("eager", [True, False])
def test_a_leak_is_logged_with_the_place_where_the_holder_is(
    requests: Requests, caplog: pytest.LogCaptureFixture, eager: bool
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def leaks(request: Any) -> HttpResponse:
        ask("SELECT 1")
        wait_in_the_project(reached, go_on)
        return HttpResponse("well")

    with override_settings(
        DBPOOL_MW_LEAK_AFTER=0.001, DBPOOL_MW_EAGER=("default",) if eager else ()
    ):
        # Called by the test's own code, which the stack begins with, as by a project's.
        serving = InThread(lambda: requests(leaks))
        assert reached.wait(20)
        (pool,) = registry.pools()

        def is_found() -> bool:
            pool.maintain()
            return bool(pool.stats()["leaked"] == 1)

        until(is_found)
        (holder,) = pool.holders()
        go_on.set()
        assert serving.result().status_code == 200
    (text,) = [each for each in caplog.messages if "is held for" in each]
    first, *stack = text.split("\n")
    assert first.endswith(", now here:")
    now, _, checkout = "\n".join(stack).partition("checked out here:")
    assert "in leaks" in now
    assert "in wait_in_the_project" in now
    assert "test_leaks.py" in checkout or eager
    assert bool(checkout) is not eager
    # Not from the thread's beginning on.
    assert "in _bootstrap" not in now
    assert any("in wait_in_the_project" in line for line in holder["stack"])


def test_of_an_async_view_that_waits_no_executor_is_shown(
    requests: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread that has its connection waits for what the view does next."""
    reached, go_on = threading.Event(), threading.Event()
    idents: list[int] = []

    async def leaks(request: Any) -> HttpResponse:
        await sync_to_async(ask)("SELECT 1")
        idents.append(await sync_to_async(threading.get_ident)())
        reached.set()
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait, 20)
        return HttpResponse("well")

    async def serve() -> int:
        async with ThreadSensitiveContext():
            request = AsyncRequestFactory().get("/slow/")
            response = await ConnectionPoolMiddleware(leaks)(request)
            await sync_to_async(request_finished.send)(sender=None)
            return int(response.status_code)

    with override_settings(DBPOOL_MW_LEAK_AFTER=0.001):
        serving = InThread(lambda: asyncio.run(serve()))
        assert reached.wait(20)
        until(lambda: sys._current_frames()[idents[0]].f_code.co_name == "_worker")
        (pool,) = registry.pools()

        def is_found() -> bool:
            pool.maintain()
            return bool(pool.stats()["leaked"] == 1)

        until(is_found)
        (holder,) = pool.holders()
        go_on.set()
        assert serving.result() == 200
    (text,) = [each for each in caplog.messages if "is held for" in each]
    assert "GET /slow/" in text
    assert text.endswith(", checked out at the start of its request")
    assert holder["stack"] == []
