"""How a connection keeps track of the statements that may change its session."""

from __future__ import annotations

import gc
import io
import weakref
from contextlib import suppress
from itertools import chain

import pytest

from tests.library import IS_PSYCOPG, only_psycopg, only_psycopg2
from tests.postgres.conftest import run
from tests.vocabulary import (
    HAS_RAW_CURSORS,
    Connection,
    Cursor,
    Error,
    Writes,
    copy_out,
    cursor_of,
    driver,
    library,
    since_psycopg_32,
    tracked,
)

if IS_PSYCOPG:
    import psycopg
    from psycopg import ServerCursor
    from psycopg.rows import dict_row
    from psycopg.types.json import Json
else:
    import psycopg2.extras
    from psycopg2.extras import Json

    from dbpool_mw.drivers.psycopg2 import connection as connections
    from dbpool_mw.drivers.psycopg2 import cursor
    from dbpool_mw.drivers.psycopg2.connection import tracked_connection

RAW_CURSOR = pytest.param("RawCursor", marks=since_psycopg_32)
sql = library.sql


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
        driver.keep_set_up(connection)
        with suppress(Error):
            copy_out(cursor, "SET a.b = 'c'")
        assert connection.dirty
        driver.keep_set_up(connection)
        with pytest.raises((AttributeError, TypeError)):
            cursor.execute(42)
        assert not connection.dirty


@only_psycopg2
def test_the_methods_of_psycopg2_alone_are_tracked(connection):
    with connection.cursor() as cursor:
        cursor.callproc("pg_advisory_lock", [5])
        assert connection.dirty
        driver.keep_set_up(connection)
        cursor.callproc("now")
        assert not connection.dirty
    connection.reset()
    assert connection.dirty


@only_psycopg2
@pytest.mark.parametrize("how", ["keyword", "positional", "attribute"])
def test_a_cursor_class_of_the_project_works_and_is_tracked(connection, how):
    factory = psycopg2.extras.RealDictCursor
    if how == "attribute":
        connection.cursor_factory = factory
        assert connection.dirty
        driver.keep_set_up(connection)
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
    class MyConnection(Connection):
        def hello(self):
            return "hello"

    made, other = (tracked(postgres.dsn(database), MyConnection) for _ in range(2))
    # The class is made once, not for each connection.
    assert type(made) is type(other)
    assert made.hello() == "hello"
    run(made, "SET a.b = 'c'")
    assert made.dirty
    assert not other.dirty
    made.close()
    other.close()


@only_psycopg2
def test_a_connection_factory_must_be_a_class():
    with pytest.raises(TypeError, match="must be a class"):
        tracked_connection(lambda *args: None)


@only_psycopg
def test_a_connection_that_no_class_can_be_mixed_into_is_not_tracked(
    postgres, database
):
    class Own:
        """A connection of some other library's."""

    assert not driver.track(Own())


@only_psycopg2
def test_all_options_of_a_cursor_may_be_positional(connection):
    cursor = connection.cursor("named", psycopg2.extras.DictCursor, True, True)
    assert isinstance(cursor, psycopg2.extras.DictCursor)
    assert (cursor.name, cursor.scrollable, cursor.withhold) == ("named", True, True)


@only_psycopg2
def test_a_cursor_made_by_a_function_is_tracked(connection):
    def made(*args):
        return psycopg2.extensions.cursor(*args)

    run(connection, "SELECT 1", cursor_factory=made)
    assert not connection.dirty
    run(connection, "SET a.b = 'c'", cursor_factory=made)
    assert connection.dirty


def test_a_cursor_class_of_the_project_is_tracked_however_it_was_made(connection):
    class Kept(Cursor):
        """A cursor class of the project."""

    for make in (Kept, lambda raw: cursor_of(raw, Kept)):
        made = make(connection)
        assert isinstance(made, Kept)
        made.execute("SELECT 1")
        assert not connection.dirty
        made.execute("SET a.b = 'c'")
        assert connection.dirty
        driver.keep_set_up(connection)


@only_psycopg2
@pytest.mark.parametrize("name", ["RealDict", "Logging"])
def test_a_connection_class_chooses_its_cursors(postgres, database, name):
    base = getattr(psycopg2.extras, f"{name}Connection")
    kind = getattr(psycopg2.extras, f"{name}Cursor")
    made = tracked(postgres.dsn(database), base)
    if name == "Logging":
        made.initialize(io.StringIO())
    with made.cursor() as cursor:
        assert isinstance(cursor, kind)
        cursor.execute("SELECT 1")
        assert not made.dirty
        cursor.execute("SET a.b = 'c'")
        assert made.dirty
    made.close()


@only_psycopg2
def test_a_connection_class_may_run_statements_while_it_is_made(postgres, database):
    class Sets(Connection):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            with self.cursor() as cursor:
                cursor.execute("SET a.b = 'c'")

    made = tracked(postgres.dsn(database), Sets)
    assert made.dirty
    made.close()


if IS_PSYCOPG:
    VALUES = [
        [psycopg.types.range.Range(1, 2)],
        [psycopg.Binary(b"\\'")],
    ]
else:
    VALUES = [
        [psycopg2.extras.Inet("::1")],
        [psycopg2.extras.NumericRange(1, 2)],
        [psycopg2.Binary(b"\\'")],
    ]


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
        pytest.param(Old(), marks=only_psycopg2),
        [Json({"a": "\\'"})],
        [[["a'"], ["\\"]]],
        [b"\\'"],
        *VALUES,
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


@only_psycopg2
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
    with connection.cursor() as cursor:
        value = Writes(b"1", b"2", b"3")
        cursor.execute("SELECT %s", [value])
        assert value.forms == [b"2", b"3"]
        assert cursor.fetchone() == (1,)


@only_psycopg2
@pytest.mark.parametrize(
    "use",
    [
        lambda cursor, value: cursor.executemany("SELECT %s", [[value]]),
        lambda cursor, value: cursor.callproc("abs", [value]),
    ],
)
def test_a_parameter_is_rendered_once_by_other_methods(connection, use):
    with connection.cursor() as cursor:
        value = Writes(b"1", b"2", b"3")
        use(cursor, value)
        assert value.forms == [b"2", b"3"]


@only_psycopg
def test_what_executemany_renders_anew_is_taken_for_a_change(connection):
    with connection.cursor() as cursor:
        cursor.executemany("SELECT %s", [[Writes(b"1", b"2")]])
    assert connection.dirty


def test_the_log_names_the_statement_that_no_reset_undoes(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT\n setseed(0.5), %s", ["\x1b" + "x" * 1000])
    told = connection.not_resettable
    assert told.startswith("setseed (in: SELECT setseed(0.5), ")
    assert len(told) < 300
    assert told.isprintable()


@only_psycopg2
def test_cursor_classes_that_are_no_longer_used_are_collected():
    # django-prometheus makes a cursor class for each connection it opens.
    first = type("CountingCursor", (Cursor,), {})
    gone = weakref.ref(cursor.tracked_cursor(first))
    assert cursor.tracked_cursor(first) is gone()
    del first
    for _ in range(1000):
        cursor.tracked_cursor(type("CountingCursor", (Cursor,), {}))
    gc.collect()
    assert gone() is None


@only_psycopg2
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
    assert connections._connect_seconds(dsn) == seconds


# --- The ways of psycopg --------------------------------------------------------------

SETTING = "SELECT set_config('a.b', 'c', false)"


def in_pipeline(raw, query):
    with raw.pipeline():
        raw.execute(query)


def in_transaction(raw, query):
    with raw.transaction():
        raw.execute(query)


def copies(raw, query):
    with raw.cursor().copy(f"COPY ({query}) TO STDOUT") as rows:
        list(rows)


def fetches(kind):
    def act(raw, query):
        with kind(raw, "rows", withhold=True) as cursor:
            cursor.execute(query)
            cursor.fetchall()

    return act


def by_name(raw, query):
    with raw.cursor("rows", withhold=True) as cursor:
        cursor.execute(query)
        cursor.fetchall()


if IS_PSYCOPG:
    #: What sends a query on a psycopg connection.
    WAYS = {
        "Connection.execute": lambda raw, query: raw.execute(query),
        "Cursor": lambda raw, query: psycopg.Cursor(raw).execute(query),
        "ClientCursor": lambda raw, query: psycopg.ClientCursor(raw).execute(query),
        "executemany": lambda raw, query: psycopg.Cursor(raw).executemany(query, [[]]),
        "stream": lambda raw, query: list(psycopg.Cursor(raw).stream(query)),
        "stream, ClientCursor": lambda raw, q: list(raw.cursor().stream(q)),
        "copy": copies,
        "ServerCursor": fetches(ServerCursor),
        "cursor(name)": by_name,
        "pipeline": in_pipeline,
        "transaction": in_transaction,
        "bytes": lambda raw, query: raw.execute(query.encode()),
        "Composed": lambda raw, query: raw.execute(sql.SQL(query) + sql.SQL("")),
        "mappings": lambda raw, q: raw.cursor(row_factory=dict_row).execute(q),
        "prepared": lambda raw, q: psycopg.Cursor(raw).execute(q, prepare=True),
        "binary": lambda raw, q: psycopg.Cursor(raw).execute(q, binary=True),
    }
    if HAS_RAW_CURSORS:
        from psycopg import RawCursor, RawServerCursor

        WAYS |= {
            "RawCursor": lambda raw, query: RawCursor(raw).execute(query),
            "RawCursor, many": lambda raw, q: RawCursor(raw).executemany(q, [[]]),
            "RawServerCursor": fetches(RawServerCursor),
        }
else:
    WAYS = {}


@only_psycopg
@pytest.mark.parametrize("name", WAYS)
def test_each_way_to_send_a_query_is_tracked(connection, name):
    WAYS[name](connection, "SELECT 1")
    assert not connection.maybe_dirty
    WAYS[name](connection, SETTING)
    assert connection.dirty


@only_psycopg
@pytest.mark.parametrize("name", ["%s", "%t", "%b"])
def test_parameters_bound_on_the_server_make_nothing_dirty(connection, name):
    cursor = library.Cursor(connection)
    for value in ("'; SET a.b = 'c'", "\\'", b"\\'"):
        cursor.execute(f"SELECT {name}", [value])
        assert cursor.fetchone() == (value,)
        assert not connection.dirty
    # The names of settings and functions are in the statement, or are parameters.
    cursor.execute(f"SELECT set_config({name}, {name}, false)", ["a.b", "c"])
    assert connection.dirty


@only_psycopg
@pytest.mark.parametrize(
    ("kind", "placeholders", "found"),
    [
        ("Cursor", "%s, %s", "seed"),
        pytest.param(
            "RawCursor",
            "$1, $2",
            # Its statements can't be rendered.
            "set_config of a setting whose name is no plain",
            marks=since_psycopg_32,
        ),
    ],
)
def test_a_seed_by_a_parameter_costs_the_connection(
    connection, kind, placeholders, found
):
    cursor = getattr(library, kind)(connection)
    cursor.execute(f"SELECT set_config({placeholders}, false)", ["seed", "0"])
    assert connection.not_resettable.startswith(found)


@only_psycopg
@pytest.mark.parametrize("kind", ["Cursor", "ClientCursor", RAW_CURSOR])
def test_what_the_project_sends_in_a_block_is_judged_statement_by_statement(
    connection, kind
):
    cursor = getattr(library, kind)(connection)
    with connection.transaction(), connection.pipeline():
        cursor.execute("SET LOCAL a.b = 'c'")
        cursor.execute("SELECT 1")
    assert not connection.maybe_dirty


@only_psycopg
def test_a_method_on_another_connection_does_what_it_did(postgres, database):
    with library.connect(postgres.dsn(database)) as plain:
        assert plain.execute("SELECT %s", [1]).fetchone() == (1,)
        assert [*chain(*plain.cursor().stream("SELECT generate_series(1, 3)"))] == [
            *(1, 2, 3)
        ]
        with plain.cursor("rows") as cursor:
            cursor.execute("SELECT generate_series(1, 3)")
            assert len(cursor.fetchall()) == 3
        with plain.cursor() as cursor:
            cursor.executemany("SELECT %s", [(1,), (2,)])
        with plain.cursor().copy("COPY (SELECT 1) TO STDOUT") as rows:
            assert [bytes(row) for row in rows] == [b"1\n"]
