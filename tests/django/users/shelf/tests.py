"""The user's tests."""

import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from django.db import connection, connections, transaction
from django.test import (
    AsyncClient,
    LiveServerTestCase,
    SimpleTestCase,
    TestCase,
    TransactionTestCase,
)

from tests.django.users import early
from tests.django.users.shelf.models import Book

early.query("import")


class Simple(SimpleTestCase):
    def test_a_page_without_queries(self):
        self.assertEqual(self.client.get("/plain/").content, b"plain")

    def test_a_query_is_forbidden(self):
        with self.assertRaisesMessage(AssertionError, "are not allowed"):
            self.client.get("/count/")

    async def test_async_a_page_without_queries(self):
        response = await AsyncClient().get("/plain/")
        self.assertEqual(response.content, b"plain")


class InTransaction(TestCase):
    @classmethod
    def setUpTestData(cls):
        Book.objects.create(title="set up")

    def test_a_request_sees_what_the_test_wrote(self):
        Book.objects.create(title="mine")
        self.assertEqual(self.client.get("/count/").content, b"2")

    def test_what_a_request_writes_is_rolled_back_later(self):
        self.assertEqual(self.client.get("/add/").content, b"2")
        with self.assertRaises(ValueError):
            self.client.get("/fail/")
        self.assertEqual(Book.objects.count(), 3)
        with self.assertNumQueries(1):
            self.client.get("/count/")

    def test_an_alias_that_is_not_declared_is_forbidden(self):
        with self.assertRaisesMessage(AssertionError, "'replica' are not allowed"):
            self.client.get("/both/")

    async def test_async_a_request_sees_what_the_test_wrote(self):
        await Book.objects.acreate(title="mine")
        response = await AsyncClient().get("/count/")
        self.assertEqual(response.content, b"2")

    def test_it_runs_on_the_test_database(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_database()")
            self.assertEqual(cursor.fetchone()[0][:5], "test_")

    def test_nothing_came_from_elsewhere(self):
        self.assertEqual(Book.objects.count(), 1)


class TwoAliases(TestCase):
    databases = {"default", "replica"}  # noqa: RUF012

    def test_both(self):
        Book.objects.using("replica").create(title="there")
        self.assertEqual(self.client.get("/both/").content, b"0 1")


class Committed(TransactionTestCase):
    def test_requests_and_the_test_in_turn(self):
        self.assertEqual(self.client.get("/add/").content, b"1")
        self.assertEqual(Book.objects.count(), 1)
        with transaction.atomic():
            self.assertEqual(self.client.get("/add/").content, b"2")
            transaction.set_rollback(True)
        self.assertEqual(self.client.get("/count/").content, b"1")
        connection.close()
        self.assertEqual(self.client.get("/count/").content, b"1")

    def test_closed_between_requests(self):
        Book.objects.create(title="mine")
        connections["default"].close()
        self.assertEqual(self.client.get("/add/").content, b"2")
        connections["default"].close()
        self.assertEqual(Book.objects.count(), 2)
        with self.assertRaises(ValueError):
            self.client.get("/fail/")
        self.assertEqual(Book.objects.count(), 3)

    async def test_async_requests_and_the_test_in_turn(self):
        client = AsyncClient()
        self.assertEqual((await client.get("/add/")).content, b"1")
        await Book.objects.acreate(title="mine")
        self.assertEqual((await client.get("/count/")).content, b"2")

    def test_a_thread(self):
        counted = []

        def count():
            counted.append(self.client.get("/add/").content)
            connections.close_all()

        thread = threading.Thread(target=count)
        thread.start()
        thread.join()
        self.assertEqual(counted, [b"1"])


class FromMigrations(TransactionTestCase):
    """Each test begins with what the test database began with."""

    serialized_rollback = True
    reset_sequences = True

    def test_the_first(self):
        self.assertEqual(self.client.get("/add/").content, b"1")

    def test_the_second(self):
        self.assertEqual(self.client.get("/add/").content, b"1")


class Live(LiveServerTestCase):
    def get(self, path):
        with urllib.request.urlopen(f"{self.live_server_url}{path}") as response:
            return response.read()

    def test_more_requests_at_once_than_connections(self):
        with ThreadPoolExecutor(12) as threads:
            counts = list(threads.map(self.get, ["/add/"] * 24))
        self.assertEqual(max(map(int, counts)), 24)
        self.assertEqual(Book.objects.count(), 24)

    def test_requests_between_the_queries_of_a_test(self):
        Book.objects.create(title="mine")
        self.assertEqual(self.get("/add/"), b"2")
        self.assertEqual(self.client.get("/add/").content, b"3")
        self.assertEqual(self.get("/count/"), b"3")
        connections["default"].close()
        self.assertEqual(self.get("/count/"), b"3")

    def test_real_requests(self):
        for number in range(1, 4):
            self.assertEqual(self.get("/add/"), str(number).encode())
        self.assertEqual(Book.objects.count(), 3)
