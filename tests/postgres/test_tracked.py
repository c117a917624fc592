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


def test_a_cursor_made_by_a_function_is_tracked(connection):
    def made(*args):
        return psycopg2.extensions.cursor(*args)

    run(connection, "SELECT 1", cursor_factory=made)
    assert not connection.dirty
    run(connection, "SET a.b = 'c'", cursor_factory=made)
    assert connection.dirty


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        (psycopg2.extras.RealDictConnection, psycopg2.extras.RealDictCursor),
        (psycopg2.extras.LoggingConnection, psycopg2.extras.LoggingCursor),
    ],
)
def test_a_connection_class_chooses_its_cursors(postgres, database, base, kind):
    made = psycopg2.connect(
        postgres.dsn(database), connection_factory=tracked_connection(base)
    )
    if base is psycopg2.extras.LoggingConnection:
        made.initialize(io.StringIO())
    with made.cursor() as cursor:
        assert isinstance(cursor, kind)
        cursor.execute("SELECT 1")
        assert not made.dirty
        cursor.execute("SET a.b = 'c'")
        assert made.dirty
    made.close()


def test_a_connection_class_may_run_statements_while_it_is_made(postgres, database):
    class Sets(psycopg2.extensions.connection):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            with self.cursor() as cursor:
                cursor.execute("SET a.b = 'c'")

    made = psycopg2.connect(
        postgres.dsn(database), connection_factory=tracked_connection(Sets)
    )
    assert made.dirty
    made.close()


class Old:
    """Parameters with nothing but what psycopg2 asks for."""

    def __getitem__(self, key):
        return "c"


@pytest.mark.parametrize(
    "parameters",
    [
        ["C:\\"],
        ["\\'; SET a.b = 1 --"],
        {"a": "it's\\"},
        Old(),
        [psycopg2.extras.Json({"a": "\\'"})],
        [psycopg2.extras.Inet("::1")],
        [psycopg2.extras.NumericRange(1, 2)],
        [[["a'"], ["\\"]]],
        [b"\\'"],
        [psycopg2.Binary(b"\\'")],
    ],
)
def test_what_a_visitor_wrote_makes_nothing_dirty(connection, parameters):
    name = "%s" if isinstance(parameters, list) else "%(a)s"
    for statement in (
        f"SELECT {name}",
        f"SELECT '\\', {name}",
        f"SELECT E'\\'', {name}",
        f"SELECT set_config('a.b', {name}::text, true)",
    ):
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
        assert not connection.dirty


def test_values_that_are_written_by_psycopg2s_helpers_make_nothing_dirty(connection):
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE paths (a text)")
        rows = [("C:\\",), ("\\'; SET a.b = 1 --",), ("'",)]
        psycopg2.extras.execute_values(cursor, "INSERT INTO paths VALUES %s", rows)
        psycopg2.extras.execute_batch(cursor, "INSERT INTO paths VALUES (%s)", rows)
        cursor.executemany("INSERT INTO paths VALUES (%s)", rows)
        assert cursor.rowcount == 3
        cursor.execute("SELECT array_agg(DISTINCT a) FROM paths")
        assert sorted(cursor.fetchone()[0]) == sorted(a for (a,) in rows)
        cursor.callproc("concat", rows[0])
        assert cursor.fetchone() == rows[0]
        assert cursor.callproc("upper", ["x"]) == ["x"]
        assert cursor.fetchone() == ("X",)
        assert not connection.dirty
        cursor.execute("DROP TABLE paths")


def test_a_parameter_is_rendered_once(connection):
    class Counts:
        rendered = 0

        def __conform__(self, protocol):
            return self

        def getquoted(self):
            self.rendered += 1
            return b"1"

    with connection.cursor() as cursor:
        for use in (
            lambda value: cursor.execute("SELECT %s", [value]),
            lambda value: cursor.executemany("SELECT %s", [[value]]),
            lambda value: cursor.callproc("abs", [value]),
        ):
            value = Counts()
            use(value)
            assert value.rendered == 1


def test_the_log_names_the_statement_that_no_reset_undoes(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT\n setseed(0.5), %s", ["\x1b" + "x" * 1000])
    told = connection.not_resettable
    assert told.startswith("setseed (in: SELECT setseed(0.5), ")
    assert len(told) < 300
    assert told.isprintable()


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
