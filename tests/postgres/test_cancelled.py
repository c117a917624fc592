"""Tasks of asyncio that are cancelled while a thread waits on their behalf."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.handlers import base
from django.core.signals import request_finished
from django.db import connections
from django.db.backends.signals import connection_created
from django.http import HttpResponse
from django.test import AsyncRequestFactory, Client, override_settings

from dbpool_mw import pooled
from dbpool_mw.binding import registry
from dbpool_mw.core.errors import PoolError
from dbpool_mw.middleware import ConnectionPoolMiddleware
from tests.postgres.conftest import ask, held, stats

pytestmark = pytest.mark.usefixtures("fresh_wrappers")


@pytest.fixture(autouse=True)
def one_connection(requests):
    """Have one connection, and waits that end by themselves only after a minute."""
    with override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=60):
        yield


class Gate:
    """Stop a thread at ``passes()`` until the test opens the gate."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def passes(self, **signal):
        self.reached.set()
        assert self.opened.wait(30)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def waiting(number):
    return until(lambda: stats()["waiting"] == number)


async def query():
    return await sync_to_async(ask)("SELECT pg_backend_pid()")


async def view(request):
    return HttpResponse("well")


async def querying_view(request):
    await query()
    return HttpResponse("well")


async def failing_view(request):
    raise ValueError("on purpose")


def run(work):
    """Run a coroutine function in a thread of its own, as a server runs a request."""

    async def main():
        async with ThreadSensitiveContext():
            await work()

    asyncio.run(asyncio.wait_for(main(), 30))


def start(middleware):
    """Begin a request; it goes on when its task has its turn."""
    return asyncio.ensure_future(middleware(AsyncRequestFactory().get("/")))


async def cancel(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def finish_request():
    await sync_to_async(request_finished.send)(sender=None)


def problems(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno > 20]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_request_that_is_cancelled_leaves_the_queue_at_once(caplog, lazy):
    async def work():
        task = start(ConnectionPoolMiddleware(querying_view))
        await waiting(1)
        await cancel(task)
        assert stats()["waiting"] == 0
        await finish_request()

    with override_settings(DBPOOL_MW_EAGER=() if lazy else ("default",)):
        with held():
            run(work)
        assert stats()["idle"] == stats()["checkouts"] == stats()["cancelled"] == 1
        assert stats()["timeouts"] == 0
    assert problems(caplog) == []


@pytest.mark.parametrize("lazy", [False, True])
def test_a_request_whose_coroutine_is_closed_leaves_the_queue_at_once(caplog, lazy):
    async def work():
        middleware = ConnectionPoolMiddleware(querying_view)
        coroutine = middleware(AsyncRequestFactory().get("/"))
        queued = asyncio.ensure_future(waiting(1))
        # How many steps come before differs between Pythons.
        while not queued.done():
            step = coroutine.send(None)
            await asyncio.wait([step, queued], return_when=asyncio.FIRST_COMPLETED)
        coroutine.close()
        assert stats()["waiting"] == 0
        await finish_request()

    with override_settings(DBPOOL_MW_EAGER=() if lazy else ("default",)):
        with held():
            run(work)
        assert stats()["idle"] == stats()["checkouts"] == stats()["cancelled"] == 1
    # The error of the view's own query has nobody to retrieve it, says asyncio.
    assert len(problems(caplog)) == lazy


def test_a_request_that_is_cancelled_before_it_queues_never_does(caplog):
    gate = Gate()

    class Late(ConnectionPoolMiddleware):
        def _begin(self, request):
            gate.passes()
            return super()._begin(request)

    async def work():
        task = start(Late(view))
        await until(gate.reached.is_set)
        await cancel(task)
        gate.opened.set()
        await finish_request()

    with held():
        run(work)
    assert stats()["waits"] == 0
    assert stats()["cancelled"] == stats()["checkouts"] == 1
    assert problems(caplog) == []


def test_a_connection_opened_for_a_request_cancelled_meanwhile_is_idle(caplog):
    gate = Gate()

    async def work():
        task = start(ConnectionPoolMiddleware(view))
        await until(gate.reached.is_set)
        await cancel(task)
        gate.opened.set()

    connection_created.connect(gate.passes)
    try:
        # Without request_finished, which some servers and Django 4.2 don't send then.
        run(work)
    finally:
        connection_created.disconnect(gate.passes)
    assert stats()["opened"] == stats()["idle"] == stats()["cancelled"] == 1
    assert stats()["checkouts"] == stats()["reclaimed"] == 0
    assert problems(caplog) == []


@pytest.mark.parametrize("eager", [("default",), ()])
def test_a_request_inside_of_one_that_is_cancelled_leaves_the_queue(requests, eager):
    ended = threading.Event()

    def ask_for_another_page():
        requests.urls.view = lambda request: HttpResponse(ask("SELECT 1"))
        connections["default"].close()
        with held():
            assert Client().get("/").status_code == 503
        ended.set()

    async def nesting_view(request):
        await sync_to_async(ask_for_another_page)()

    async def work():
        task = start(ConnectionPoolMiddleware(nesting_view))
        await until(lambda: registry.pools() and stats()["waiting"] == 1)
        await cancel(task)
        await until(ended.is_set)
        await finish_request()

    with override_settings(DBPOOL_MW_EAGER=eager):
        run(work)
        assert (stats()["cancelled"], stats()["timeouts"]) == (1, 0)
        assert stats()["in_use"] == 0


def test_an_error_page_of_a_request_that_is_cancelled_leaves_the_queue(caplog):
    def page(request):
        return HttpResponse(str(ask("SELECT 1")), status=500)

    # As Django does around each view.
    rendering = base.convert_exception_to_response(failing_view)

    async def work():
        task = start(ConnectionPoolMiddleware(rendering))
        await waiting(1)
        await cancel(task)
        assert stats()["waiting"] == 0
        await finish_request()

    urls = type("Urls", (), {"urlpatterns": [], "handler500": staticmethod(page)})
    with override_settings(DBPOOL_MW_EAGER=(), ROOT_URLCONF=urls):
        with held():
            run(work)
        assert stats()["cancelled"] == 1


def test_a_request_that_was_not_cancelled_gets_its_503(caplog):
    async def work():
        assert (await start(ConnectionPoolMiddleware(view))).status_code == 503

    with override_settings(DBPOOL_MW_TIMEOUT=0.05):
        with held():
            run(work)
        assert (stats()["timeouts"], stats()["cancelled"]) == (1, 0)
    (problem,) = problems(caplog)
    assert problem.startswith("503 for GET /: ")


async def block():
    async with pooled():
        await query()


@pooled
async def decorated():
    await query()


@pytest.mark.parametrize("work", [block, decorated])
def test_a_block_that_is_cancelled_leaves_the_queue_and_ends(caplog, work):
    async def main():
        task = asyncio.ensure_future(work())
        await waiting(1)
        # Its end waits for its thread, which ends its wait.
        await cancel(task)
        assert stats()["waiting"] == 0

    with held():
        run(main)
    assert stats()["idle"] == stats()["checkouts"] == stats()["cancelled"] == 1
    assert problems(caplog) == []


def test_a_block_that_is_cancelled_does_not_end_the_wait_of_another_in_its_thread():
    async def main():
        begun, ended = asyncio.Event(), asyncio.Event()

        async def outermost():
            async with pooled():
                begun.set()
                await ended.wait()

        cancelled = asyncio.ensure_future(outermost())
        await begun.wait()
        other = asyncio.ensure_future(block())
        await waiting(1)
        cancelled.cancel()
        # Its end comes after the other's wait: both need the thread.
        await asyncio.sleep(0.05)
        assert stats()["waiting"] == 1
        done.set()
        await other
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    with held() as done:
        run(main)
    assert stats()["cancelled"] == 0
    assert stats()["checkouts"] == 2


def test_tasks_that_outlive_a_cancelled_block_wait_as_others_do():
    async def main():
        gone_on = asyncio.Event()

        async def outliving():
            await gone_on.wait()
            with pytest.raises(PoolError, match="no connection within"):
                await query()

        async def work():
            async with pooled():
                tasks.append(asyncio.ensure_future(outliving()))
                await query()

        tasks = []
        task = asyncio.ensure_future(work())
        await waiting(1)
        await cancel(task)
        async with pooled():
            gone_on.set()
            await tasks[0]

    with override_settings(DBPOOL_MW_TIMEOUT=1):
        with held():
            run(main)
        assert (stats()["cancelled"], stats()["timeouts"]) == (1, 1)
