"""The user's tests of pooled code outside of requests."""

import threading
from concurrent.futures import ThreadPoolExecutor
from unittest import skipUnless

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection
from django.test import (
    AsyncClient,
    LiveServerTestCase,
    SimpleTestCase,
    TestCase,
    TransactionTestCase,
    override_settings,
)

from dbpool_mw import pooled
from dbpool_mw.test import PoolAssertions
from tests.django.users.shelf import stock
from tests.django.users.shelf.models import Book

MIDDLEWARE = "middleware" in settings.POOL
ENGINE = "engine" in settings.POOL


class Forbidden(PoolAssertions, SimpleTestCase):
    def test_assertions_would_assert_nothing(self):
        with self.assertRaisesMessage(RuntimeError, "may not use default"):
            self.assertCheckouts(0).__enter__()
        with self.assertRaisesMessage(RuntimeError, "may not use default, replica"):
            self.assertNoneInUse()

    def test_a_page_without_queries_in_another_thread(self):
        with ThreadPoolExecutor(1) as threads:
            response = threads.submit(self.client.get, "/plain/").result()
        self.assertEqual(response.content, b"plain")

    def test_a_block_without_queries(self):
        with pooled():
            pass

    def test_a_query_is_forbidden(self):
        with self.assertRaisesMessage(AssertionError, "are not allowed"):
            stock.count()


@override_settings(ROOT_URLCONF="tests.django.users.shelf.stock")
class InTransaction(PoolAssertions, TestCase):
    @classmethod
    def setUpTestData(cls):
        Book.objects.create(title="set up")

    def test_a_block_sees_what_the_test_wrote(self):
        with pooled():
            self.assertEqual(stock.count(), 1)
            Book.objects.create(title="mine")
        self.assertEqual(self.client.get("/spread/").content, b"3")

    def test_assertions_would_assert_nothing(self):
        self.client.get("/spread/")
        with self.assertRaisesMessage(RuntimeError, "'default' is in a transaction"):
            self.assertCheckouts(0).__enter__()
        with self.assertRaisesMessage(RuntimeError, "'default' is in a transaction"):
            self.assertNoneInUse()

    async def test_async_a_block_sees_what_the_test_wrote(self):
        async with pooled():
            self.assertEqual(await stock.acount(), 1)
        response = await AsyncClient().get("/spread/")
        self.assertEqual(response.content, b"2")

    def test_threads_see_what_is_committed(self):
        self.assertEqual(stock.count_in_threads(stock.count), [0] * 12)


@override_settings(ROOT_URLCONF="tests.django.users.shelf.stock")
class Committed(TransactionTestCase):
    def test_blocks_requests_and_the_test_in_turn(self):
        Book.objects.create(title="mine")
        with pooled():
            self.assertEqual(stock.count(), 1)
        self.assertEqual(self.client.get("/spread/").content, b"2")
        self.assertEqual(stock.count(), 2)
        connection.close()
        self.assertEqual(Book.objects.count(), 2)

    def test_threads(self):
        Book.objects.create(title="mine")
        self.assertEqual(stock.count_in_threads(stock.count), [1] * 12)
        self.assertEqual(stock.count_in_threads(stock.count_and_close), [1] * 12)

    @skipUnless(ENGINE, "Django's own connections stay open")
    def test_a_thread_that_closes_nothing(self):
        thread = threading.Thread(target=Book.objects.create, kwargs={"title": "its"})
        thread.start()
        thread.join()
        self.assertEqual(Book.objects.count(), 1)

    async def test_async(self):
        await Book.objects.acreate(title="mine")
        self.assertEqual(await stock.acount(), 1)


@override_settings(ROOT_URLCONF="tests.django.users.shelf.stock")
class Live(LiveServerTestCase):
    def test_threads_beside_a_server(self):
        Book.objects.create(title="mine")
        self.assertEqual(stock.count_in_threads(stock.count), [1] * 12)
        self.assertEqual(self.client.get("/spread/").content, b"2")


class Counted(PoolAssertions, TransactionTestCase):
    """Each test may leave connections that could change the count of the next test."""

    def test_1_a_query_of_the_test_before_the_first_request(self):
        Book.objects.create(title="mine")
        self.assertCheckouts(1, self.client.get, "/count/")

    def test_2_after_a_request(self):
        self.client.get("/count/")
        Book.objects.create(title="mine")
        self.assertCheckouts(1, self.client.get, "/count/")
        self.assertNoneInUse()

    def test_3_a_page_without_queries(self):
        # The middleware checks out at the request's start, as it does in production.
        self.assertCheckouts(int(MIDDLEWARE), self.client.get, "/plain/")

    def test_4_a_page_that_fails(self):
        with self.assertCheckouts(1), self.assertRaises(ValueError):
            self.client.get("/fail/")
        self.assertNoneInUse()

    def test_5_a_query_outside_of_requests(self):
        self.assertCheckouts(int(ENGINE), Book.objects.count)

    def test_6_a_block_that_is_forgotten(self):
        began, end = threading.Event(), threading.Event()

        @pooled
        def hold():
            Book.objects.count()
            began.set()
            end.wait()

        with ThreadPoolExecutor(1) as threads:
            with self.assertCheckouts(1):
                threads.submit(hold)
                began.wait()
            with self.assertRaisesMessage(AssertionError, "hold in thread ThreadPool"):
                self.assertNoneInUse(within=0)
            end.set()
        self.assertNoneInUse("default")

    async def test_7_async(self):
        async with self.assertCheckouts(1):
            await self.async_client.get("/count/")
        async with self.assertCheckouts(1):
            await stock.acount()
        await sync_to_async(self.assertNoneInUse)()
