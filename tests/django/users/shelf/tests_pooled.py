"""The user's tests of code that is pooled outside of requests."""

import threading
from unittest import skipUnless

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
from tests.django.users.shelf import stock
from tests.django.users.shelf.models import Book


class Forbidden(SimpleTestCase):
    def test_a_block_without_queries(self):
        with pooled():
            pass

    def test_a_query_is_forbidden(self):
        with self.assertRaisesMessage(AssertionError, "are not allowed"):
            stock.count()


@override_settings(ROOT_URLCONF="tests.django.users.shelf.stock")
class InTransaction(TestCase):
    @classmethod
    def setUpTestData(cls):
        Book.objects.create(title="set up")

    def test_a_block_sees_what_the_test_wrote(self):
        with pooled():
            self.assertEqual(stock.count(), 1)
            Book.objects.create(title="mine")
        self.assertEqual(self.client.get("/spread/").content, b"3")

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

    @skipUnless("engine" in settings.POOL, "Django's own connections stay open")
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
