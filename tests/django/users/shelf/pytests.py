"""The user's tests for pytest-django."""

import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client

from dbpool_mw.test import assert_checkouts, assert_none_in_use
from tests.django.users import early
from tests.django.users.shelf.models import Book

early.query("import")

FORBIDDEN = "Database access not allowed"


def test_a_page_without_queries(client):
    assert client.get("/plain/").content == b"plain"


def test_a_page_without_queries_in_another_thread():
    with ThreadPoolExecutor(1) as threads:
        response = threads.submit(Client().get, "/plain/").result()
    assert response.content == b"plain"


def test_a_query_is_forbidden(client):
    with pytest.raises(RuntimeError, match=FORBIDDEN):
        client.get("/count/")
    with pytest.raises(RuntimeError, match=FORBIDDEN):
        Book.objects.count()


@pytest.mark.django_db
def test_a_request_sees_what_the_test_wrote(client):
    Book.objects.create(title="mine")
    assert client.get("/add/").content == b"2"


def test_what_it_wrote_was_rolled_back(db, client):
    assert client.get("/count/").content == b"0"
    assert connection.settings_dict["NAME"].startswith("test_")


def test_a_page_without_queries_after_others_had_the_database(client):
    assert client.get("/plain/").content == b"plain"
    with pytest.raises(RuntimeError, match=FORBIDDEN):
        client.get("/count/")


def test_committed(transactional_db, client):
    assert client.get("/add/").content == b"1"
    assert Book.objects.count() == 1
    connection.close()
    assert client.get("/add/").content == b"2"


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_as_migrated(client):
    assert client.get("/add/").content == b"1"


def test_assertions_would_assert_nothing(client):
    with pytest.raises(RuntimeError, match="may not use default"):
        assert_none_in_use()


def test_assertions_would_assert_nothing_in_a_transaction(db, client):
    with pytest.raises(RuntimeError, match="'default' is in a transaction"):
        assert_checkouts(0).__enter__()


def test_a_page_without_queries_checks_out_at_its_start(transactional_db, client):
    with assert_checkouts(int("middleware" in settings.POOL)):
        client.get("/plain/")


def test_two_aliases_without_their_mark(db, client):
    with pytest.raises(AssertionError, match="'replica' are not allowed"):
        client.get("/both/")


@pytest.mark.django_db(databases=["default", "replica"])
def test_two_aliases(client):
    Book.objects.using("replica").create(title="there")
    assert client.get("/both/").content == b"0 1"


def test_a_live_server(live_server):
    def get(path):
        with urllib.request.urlopen(f"{live_server.url}{path}") as response:
            return response.read()

    with ThreadPoolExecutor(12) as threads:
        counts = list(threads.map(get, ["/add/"] * 24))
    assert max(map(int, counts)) == 24
    assert Book.objects.count() == 24
