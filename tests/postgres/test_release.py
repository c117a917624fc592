"""Connections that are given back before their request or block ends."""

from __future__ import annotations

import asyncio
import io
import threading

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_finished
from django.db import OperationalError, connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.db.utils import ConnectionDoesNotExist
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.test import AsyncRequestFactory, TestCase, override_settings

from dbpool_mw import pooled, released
from dbpool_mw.binding import registry
from tests.documents import code_block
from tests.postgres.conftest import ask, on_engine, stats

pytestmark = pytest.mark.usefixtures("fresh_wrappers")

STREAMS = "docs/streams.rst"


def backend(alias="default"):
    return ask("SELECT pg_backend_pid()", alias)


def in_use(alias="default"):
    return stats(alias)["in_use"]


def asks():
    ask("SELECT 1")


#: What leaves a session that can't be given back early.
DIRTY = {
    "a setting": lambda: ask("SET app.user_id = '42'"),
    "a lock": lambda: ask("SELECT pg_advisory_lock(7)"),
    "a temporary table": lambda: ask("CREATE TEMP TABLE kept (a int)"),
    "no autocommit": lambda: connection.set_autocommit(False),
    "a transaction in SQL": lambda: ask("BEGIN"),
}


@pytest.fixture
def server_cursor():
    """Open server-side cursors, and close them at the end."""
    opened = []

    def open_one():
        connection.ensure_connection()
        cursor = connection.chunked_cursor()
        cursor.execute("SELECT generate_series(1, 3)")
        opened.append(cursor)
        return cursor

    yield open_one
    for cursor in opened:
        cursor.close()


def streams(before, content):
    """Return a view that does something and then streams, and where it notes things."""
    noted = []

    def chunks():
        noted.append(in_use())
        yield from content()
        noted.append(in_use())

    def view(request):
        before()
        return StreamingHttpResponse(chunks())

    return view, noted


# --- Streams -------------------------------------------------------------------------


def read(requests, view):
    """Serve a request, and read the stream as a server does before it closes it."""
    urls = requests.urls
    original = StreamingHttpResponse.close

    def close(self):
        self.content_read = list(self.streaming_content)
        original(self)

    urls.view = view
    StreamingHttpResponse.close = close
    try:
        return requests(view)
    finally:
        StreamingHttpResponse.close = original


@pytest.mark.parametrize("eager", [("default",), ()])
def test_a_stream_holds_nothing_until_it_queries_and_then_to_its_end(requests, eager):
    held = []

    def content():
        yield "nothing"
        held.append(in_use())
        yield str(backend())
        held.append(in_use())
        yield "more"
        held.append(in_use())

    view, noted = streams(asks, content)
    with override_settings(DBPOOL_MW_EAGER=eager):
        assert read(requests, view).status_code == 200
        assert noted == [0, 1]
        assert held == [0, 1, 1]
        assert in_use() == 0
        assert stats()["opened"] == 1
        assert stats()["checkouts"] == 2


def test_a_file_response_holds_nothing(requests):
    held = []

    class File(io.BytesIO):
        def read(self, *size):
            held.append(in_use())
            return super().read(*size)

    def view(request):
        asks()
        return FileResponse(File(b"x" * 10))

    response = read(requests, view)
    assert b"".join(response.content_read) == b"x" * 10
    assert set(held) == {0}


def test_a_stream_of_a_request_that_asked_nothing_holds_nothing(requests):
    view, noted = streams(lambda: None, lambda: iter(["text"]))
    assert read(requests, view).status_code == 200
    assert noted == [0, 0]


@pytest.mark.parametrize("change", DIRTY.values(), ids=DIRTY)
def test_a_session_that_was_changed_stays_with_its_stream(requests, change):
    view, noted = streams(change, lambda: iter(["text"]))
    assert read(requests, view).status_code == 200
    assert noted == [1, 1]
    assert in_use() == 0
    assert stats()["checkouts"] == 1


def test_the_error_page_of_a_request_that_lost_its_connection_gets_another(requests):
    def fails(request):
        ask("SET application_name = 'changed'")
        with pytest.raises(OperationalError):
            ask("SELECT pg_terminate_backend(pg_backend_pid())")
        raise RuntimeError("on purpose")

    def page(request):
        return HttpResponse(str(backend()), status=500)

    requests.urls.handler500 = page
    response = requests(fails)
    assert response.status_code == 500
    assert int(response.content)
    assert in_use() == 0


def test_rows_of_a_server_side_cursor_can_be_read_in_the_stream(
    requests, server_cursor
):
    rows = []

    def view(request):
        cursor = server_cursor()
        rows.append(cursor.fetchone())

        def content():
            rows.extend(cursor.fetchall())
            cursor.close()
            yield "done"

        return StreamingHttpResponse(content())

    assert read(requests, view).status_code == 200
    assert rows == [(1,), (2,), (3,)]
    assert stats()["checkouts"] == 1
    assert in_use() == 0


def test_rows_that_were_fetched_from_the_server_can_be_read_in_the_stream(requests):
    rows = []

    def view(request):
        cursor = connection.cursor()
        cursor.execute("SELECT generate_series(1, 3)")

        def content():
            assert in_use() == 0
            rows.extend(cursor.fetchall())
            yield "done"

        return StreamingHttpResponse(content())

    assert read(requests, view).status_code == 200
    assert rows == [(1,), (2,), (3,)]


@pytest.mark.parametrize("reset", ["always", lambda connection, dirty: None])
def test_where_no_session_is_taken_for_clean_the_stream_holds_its_own(requests, reset):
    view, noted = streams(asks, lambda: iter(["text"]))
    with override_settings(DBPOOL_MW_RESET=reset):
        assert read(requests, view).status_code == 200
        assert noted == [1, 1]
        assert in_use() == 0


def test_a_plain_response_keeps_its_connection_to_the_requests_end(requests):
    held = []

    class Response(HttpResponse):
        def close(self):
            held.append(in_use())
            super().close()

    def view(request):
        asks()
        return Response("well")

    assert requests(view).status_code == 200
    assert held == [1]
    assert in_use() == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_under_asgi_a_stream_holds_nothing_until_it_queries(requests, asynchronous):
    noted = []

    async def content():
        noted.append(await sync_to_async(in_use)())
        yield "nothing"
        yield str(await sync_to_async(backend)())
        noted.append(await sync_to_async(in_use)())

    async def async_view(request):
        await sync_to_async(asks)()
        return StreamingHttpResponse(content())

    def view(request):
        asks()
        return StreamingHttpResponse(content())

    requests.urls.urlpatterns[0].callback = async_view if asynchronous else view

    async def serve():
        request = AsyncRequestFactory().get("/")
        async with ThreadSensitiveContext():
            response = await ASGIHandler().get_response_async(request)
            response._handler_class = ASGIHandler
            async for _ in response:
                pass
            await sync_to_async(response.close)()
        return response.status_code

    assert asyncio.run(serve()) == 200
    assert noted == [0, 1]
    assert in_use() == 0


# --- released() ----------------------------------------------------------------------


def test_a_request_holds_nothing_in_the_block_and_checks_out_again_after_it(requests):
    noted = []

    def view(request):
        asks()
        noted.append(in_use())
        with released():
            noted.append(in_use())
        noted.append(in_use())
        asks()
        noted.append(in_use())
        return HttpResponse("well")

    assert requests(view).status_code == 200
    assert noted == [1, 0, 0, 1]
    assert in_use() == 0
    assert stats()["checkouts"] == 2


def test_a_query_in_the_block_checks_out_again(requests):
    def view(request):
        with released():
            asks()
            assert in_use() == 1
        assert in_use() == 1
        return HttpResponse("well")

    assert requests(view).status_code == 200
    assert in_use() == 0


def test_another_thread_gets_the_connection_meanwhile(requests):
    def other():
        with pooled():
            found.append(backend())

    def view(request):
        found.append(backend())
        with released():
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(20)
        found.append(backend())
        return HttpResponse("well")

    found = []
    with override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=5):
        assert requests(view).status_code == 200
    assert len(found) == 3
    assert len(set(found)) == 1


def test_an_exception_in_the_block_goes_through():
    with pooled(), pytest.raises(ValueError, match="on purpose"), released():
        raise ValueError("on purpose")


def test_the_named_aliases_alone_are_given_back(requests):
    def view(request):
        asks()
        ask("SELECT 1", "replica")
        with released("replica"):
            assert (in_use(), in_use("replica")) == (1, 0)
        with released("default", "replica"):
            assert (in_use(), in_use("replica")) == (0, 0)
        return HttpResponse("well")

    with override_settings(DBPOOL_MW_POOLS={}):
        assert requests(view).status_code == 200


def test_an_alias_that_databases_doesnt_have_is_refused():
    with pooled(), pytest.raises(ConnectionDoesNotExist), released("replcia"):
        pass


@pytest.mark.parametrize("change", DIRTY.values(), ids=DIRTY)
def test_a_session_that_was_changed_stays_with_its_holder(requests, change):
    def view(request):
        first = backend()
        change()
        with released():
            assert in_use() == 1
        assert backend() == first
        return HttpResponse("well")

    assert requests(view).status_code == 200
    assert in_use() == 0
    assert stats()["checkouts"] == 1


def test_an_open_server_side_cursor_keeps_its_connection(requests, server_cursor):
    def view(request):
        cursor = server_cursor()
        with released():
            assert in_use() == 1
        assert cursor.fetchone() == (1,)
        cursor.close()
        with released():
            assert in_use() == 0
        return HttpResponse("well")

    assert requests(view).status_code == 200
    assert in_use() == 0


def test_it_is_refused_in_atomic(requests):
    def view(request):
        with transaction.atomic():
            asks()
            refused = pytest.raises(
                TransactionManagementError, match=r"inside atomic\(\) of 'default'"
            )
            with refused, released():
                pass
            assert in_use() == 1
            assert ask("SELECT 1") == 1  # the block goes on
            with released("replica"):
                pass
        return HttpResponse("well")

    assert requests(view).status_code == 200
    assert in_use() == 0


def test_where_one_alias_is_in_atomic_no_other_is_given_back(requests):
    def view(request):
        ask("SELECT 1", "replica")
        with transaction.atomic():
            with pytest.raises(TransactionManagementError):
                released().__enter__()
            assert in_use("replica") == 1
        return HttpResponse("well")

    with override_settings(DBPOOL_MW_POOLS={}):
        assert requests(view).status_code == 200


def test_in_the_transaction_of_a_test_it_does_nothing(databases):
    class InTransaction(TestCase):
        databases = ("default",)

        def runTest(self):
            asks()
            before = connection.connection
            with released():
                assert connection.connection is before
            with transaction.atomic(), pytest.raises(TransactionManagementError):
                released().__enter__()

    result = InTransaction().run()
    assert result.wasSuccessful(), result.errors + result.failures
    connections.close_all()


def test_without_a_pool_and_outside_of_blocks_it_does_nothing(databases):
    asks()
    before = connection.connection
    with released():
        assert connection.connection is before
    with override_settings(DBPOOL_MW_ENABLED=False), transaction.atomic(), released():
        assert connection.connection is before
    assert registry.pools() == []


def test_a_block_of_pooled_gives_back_and_goes_on(databases):
    with pooled():
        with pooled():
            asks()
            with released():
                assert in_use() == 0
            asks()
        assert in_use() == 1
    assert in_use() == 0
    assert stats()["checkouts"] == 2


def test_with_an_engine_of_the_package_a_thread_gives_back(databases):
    def work():
        asks()
        with released():
            found.append(in_use())
        asks()
        found.append(in_use())
        connection.close()

    found = []
    with on_engine("dbpool_mw.backends.postgresql"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(20)
        assert found == [0, 1]
        assert in_use() == 0


def test_a_coroutine_gives_back_in_the_thread_of_its_queries(requests):
    async def view(request):
        await sync_to_async(asks)()
        async with released():
            noted.append(await sync_to_async(in_use)())
        await sync_to_async(asks)()
        noted.append(await sync_to_async(in_use)())
        with pytest.raises(SynchronousOnlyOperation, match="async with released"):
            released().__enter__()
        return HttpResponse("well")

    noted = []
    requests.urls.urlpatterns[0].callback = view

    async def serve():
        request = AsyncRequestFactory().get("/")
        async with ThreadSensitiveContext():
            response = await ASGIHandler().get_response_async(request)
            await sync_to_async(request_finished.send)(sender=None)
        return response.status_code

    assert asyncio.run(serve()) == 200
    assert noted == [0, 1]
    assert in_use() == 0


def test_a_coroutine_in_a_block_of_pooled_gives_back(databases):
    async def work():
        async with pooled():
            await sync_to_async(asks)()
            async with released():
                noted.append(await sync_to_async(in_use)())
            await sync_to_async(asks)()
            noted.append(await sync_to_async(in_use)())

    noted = []
    asyncio.run(work())
    assert noted == [0, 1]
    assert in_use() == 0


# --- docs/streams.rst ----------------------------------------------------------------


class Objects:
    """A row of the examples; a query for each."""

    receipt = None
    total = 7
    channel = "c"

    @classmethod
    def get(cls, **lookup):
        asks()
        return cls()

    def save(self):
        asks()


@pytest.fixture
def example():
    """Give the names that the examples define, and what was noted in them."""
    noted = []

    class Names:
        objects = Objects

    def subscribe(channel):
        noted.append(in_use())
        yield "1"
        noted.append(in_use())
        yield "2"
        noted.append(in_use())

    class payments:
        @staticmethod
        def charge(total):
            noted.append(in_use())
            return type("Receipt", (), {"number": 1})

    names = {
        "Cart": Names,
        "subscribe": subscribe,
        "payments": payments,
        "render": lambda *_: HttpResponse("receipt"),
        "noted": noted,
    }

    def run(block):
        exec(block, names)
        return names

    return run


def test_the_example_of_a_stream_holds_nothing(requests, example):
    names = example(code_block(STREAMS, "def events"))

    def view(request):
        request.GET = {"cart": "1"}
        return names["events"](request)

    response = read(requests, view)
    assert b"".join(response.content_read) == b"data: 1\n\ndata: 2\n\n"
    assert names["noted"] == [0, 0, 0]


def test_the_example_of_a_stream_that_queries_holds_nothing_between(requests, example):
    names = example(code_block(STREAMS, "data: {Cart"))
    assert read(requests, lambda request: StreamingHttpResponse(names["lines"]()))
    assert names["noted"] == [0, 0, 0]


def test_the_example_of_a_slow_call_holds_nothing_meanwhile(requests, example):
    names = example(code_block(STREAMS, "def checkout"))
    held = []

    def view(request):
        request.POST = {"cart": "1"}
        response = names["checkout"](request)
        held.append(in_use())
        return response

    assert requests(view).status_code == 200
    assert names["noted"] == [0]
    assert held == [1]
