"""The user's tests where the replica is a mirror of the default database."""

from unittest import skipUnless

from django.conf import settings
from django.db import connections
from django.test import TransactionTestCase

from dbpool_mw import pooled
from dbpool_mw.test import PoolAssertions
from tests.django.users.shelf.models import Book


@skipUnless(settings.MIRRORED, "the aliases have test databases of their own")
class Mirrored(PoolAssertions, TransactionTestCase):
    databases = {"default", "replica"}  # noqa: RUF012

    def test_each_alias_has_its_connection_to_the_one_database(self):
        Book.objects.create(title="mine")
        connections.close_all()
        with self.assertCheckouts(1), self.assertCheckouts(1, using="replica"):
            self.assertEqual(self.client.get("/both/").content, b"1 1")
        with pooled(), pooled("replica"):
            self.assertEqual(Book.objects.using("replica").count(), 1)
            Book.objects.create(title="another")
        self.assertNoneInUse()

    def test_a_session_is_left_alone_by_the_other_alias(self):
        with pooled():
            with connections["default"].cursor() as cursor:
                cursor.execute("SET app.user_id = '42'")
            self.assertEqual(Book.objects.using("replica").count(), 0)
            with connections["default"].cursor() as cursor:
                cursor.execute("SELECT current_setting('app.user_id')")
                self.assertEqual(cursor.fetchone(), ("42",))
