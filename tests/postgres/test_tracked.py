"""How a connection keeps track of the statements that may change its session."""

from __future__ import annotations

import gc
import io
import weakref
from contextlib import suppress

import psycopg2
import psycopg2.extras
import pytest
from psycopg2 import extensions, sql

from dbpool_mw.drivers.psycopg2 import connection, cursor, driver, session
from dbpool_mw.drivers.psycopg2.connection import tracked_connection
from tests.postgres.conftest import run


@pytest.mark.parametrize(
    "query",
    [
        sql.SQL("SET a.b = {}").format(sql.Literal("c")),
        b"SET a.b = 'c'",
        "SET a.b = 'c'",
    ],
)
def test_a_statement_of_any_type_makes_the_session_dirty(connection, query):
    run(connection, query)
    assert not driver.is_clean(connection, driver.session_attributes(connection))


def test_every_method_that_runs_a_statement_is_tracked(connection):
    with connection.cursor() as cursor:
        cursor.executemany("SET a.b = %s", [("c",)])
        assert connection.dirty
        session.mark_clean(connection)
        cursor.callproc("pg_advisory_lock", [5])
        assert connection.dirty
        session.mark_clean(connection)
        with suppress(psycopg2.Error):
            cursor.copy_expert("SET a.b = 'c'", io.StringIO())
        assert connection.dirty
        session.mark_clean(connection)
        with pytest.raises(TypeError):
            cursor.execute(42)
        cursor.callproc("now")
        assert not connection.dirty
    connection.reset()
    assert connection.dirty


@pytest.mark.parametrize("how", ["keyword", "positional", "attribute"])
def test_a_cursor_class_of_the_project_works_and_is_tracked(connection, how):
    factory = psycopg2.extras.RealDictCursor
    if how == "attribute":
        connection.cursor_factory = factory
        assert connection.dirty
        session.mark_clean(connection)
        cursor = connection.cursor()
    elif how == "keyword":
        cursor = connection.cursor(cursor_factory=factory)
    else:
        cursor = connection.cursor(None, factory)
    assert isinstance(cursor, factory)
    cursor.execute("SELECT 1 AS one")
    assert cursor.fetchone() == {"one": 1}
    assert not connection.dirty
    cursor.execute("SET a.b = 'c'")
    assert connection.dirty


def test_a_connection_class_of_the_project_works_and_is_tracked(postgres, database):
    class MyConnection(psycopg2.extensions.connection):
        def hello(self):
            return "hello"

    factory = tracked_connection(MyConnection)
    # The class is made once, not for each connection.
    assert tracked_connection(MyConnection) is tracked_connection(factory) is factory
    with pytest.raises(TypeError, match="must be a class"):
        tracked_connection(lambda *args: None)
    made = psycopg2.connect(postgres.dsn(database), connection_factory=factory)
    assert made.hello() == "hello"
    run(made, "SET a.b = 'c'")
    assert made.dirty
    made.close()


def test_all_options_of_a_cursor_may_be_positional(connection):
    cursor = connection.cursor("named", psycopg2.extras.DictCursor, True, True)
    assert isinstance(cursor, psycopg2.extras.DictCursor)
    assert (cursor.name, cursor.scrollable, cursor.withhold) == ("named", True, True)


def test_a_cursor_made_by_a_function_makes_the_session_dirty(connection):
    run(
        connection, "SELECT 1", cursor_factory=lambda *a: psycopg2.extensions.cursor(*a)
    )
    assert connection.dirty


def test_cursor_classes_that_are_no_longer_used_are_collected():
    # django-prometheus makes a cursor class for each connection it opens.
    first = type("CountingCursor", (extensions.cursor,), {})
    gone = weakref.ref(cursor.tracked_cursor(first))
    assert cursor.tracked_cursor(first) is gone()
    del first
    for _ in range(1000):
        cursor.tracked_cursor(type("CountingCursor", (extensions.cursor,), {}))
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("dsn", "seconds"),
    [
        ("connect_timeout=7", 7),
        ("connect_timeout=0", None),
        ("connect_timeout=-1", None),
        ("connect_timeout=soon", None),
        ("host=somewhere", None),
        ("nonsense", None),
    ],
)
def test_connect_timeout_is_read_as_libpq_reads_it(dsn, seconds):
    assert connection._connect_seconds(dsn) == seconds
