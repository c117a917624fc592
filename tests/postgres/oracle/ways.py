"""The ways that psycopg2 and Django offer to change a session, or to hide a change."""

from __future__ import annotations

import contextlib
import io
import json
from collections import UserList
from typing import Any

import psycopg2
import psycopg2.extras
from django.db import connection, transaction
from psycopg2 import extensions, extras, sql

from .rows import ANY, Row, Step
from .snapshot import ask

ROWS: list[Row] = []
_SET = "SET app.user_id = '42'"


def way(name: str, *steps: Step, **options: Any) -> None:
    """Add a row."""
    ROWS.append(Row(name, steps, **options))


def attribute(name: str, value: object) -> Step:
    return lambda raw: setattr(raw, name, value)


def plain(raw: Any, statement: str) -> extensions.cursor:
    """Run a statement on a cursor that the connection did not make."""
    cursor = extensions.cursor(raw)
    cursor.execute(statement)
    return cursor


def run(raw: Any, query: Any, parameters: Any = None) -> None:
    with raw.cursor() as cursor:
        cursor.execute(query, parameters)


# --- Attributes and methods of the connection -----------------------------------------

for _name, _value in {
    "autocommit": False,
    "isolation_level": extensions.ISOLATION_LEVEL_SERIALIZABLE,
    "readonly": True,
    "deferrable": True,
    "cursor_factory": psycopg2.extras.RealDictCursor,
}.items():
    way(f"{_name} = {_value!r}", attribute(_name, _value))
    way(f"{_name} = {_value!r}, and a query", attribute(_name, _value), "SELECT 1")
way("autocommit = False, and a setting", attribute("autocommit", False), _SET)
way(
    "autocommit = False, readonly = True, and a query",
    attribute("autocommit", False),
    attribute("readonly", True),
    "SELECT 1",
)
way("set_session()", lambda raw: raw.set_session("SERIALIZABLE", True, True))
way("set_session(autocommit=False)", lambda raw: raw.set_session(autocommit=False))
way("set_isolation_level()", lambda raw: raw.set_isolation_level(3))
way("set_client_encoding('LATIN1')", lambda raw: raw.set_client_encoding("LATIN1"))
way(
    "set_client_encoding('SQL_ASCII')", lambda raw: raw.set_client_encoding("SQL_ASCII")
)
way(
    "set_client_encoding() there and back",
    lambda raw: raw.set_client_encoding("LATIN1"),
    lambda raw: raw.set_client_encoding("UTF8"),
)
way("SET client_encoding by SQL", "SET client_encoding TO 'LATIN1'")
way(
    "set_config('client_encoding')",
    "SELECT set_config('client_encoding', 'LATIN1', false)",
)
way("reset()", lambda raw: raw.reset())
way("commit() and rollback()", lambda raw: (raw.commit(), raw.rollback()))
way("cancel()", lambda raw: raw.cancel())
way("close()", lambda raw: raw.close())
way("with connection:", lambda raw: raw.__enter__(), "SELECT 1")
way("an attribute of the application's own", attribute("somebody", "42"))

# --- Type casters ---------------------------------------------------------------------

_CASTER = extensions.new_type((25,), "TEXT", lambda value, cursor: "somebody's")
_BINARY = extensions.new_type((17,), "BINARY", lambda value, cursor: "somebody's")
way(
    "register_default_jsonb()",
    lambda raw: psycopg2.extras.register_default_jsonb(raw, loads=json.loads),
)
way(
    "register_default_json()",
    lambda raw: psycopg2.extras.register_default_json(raw, loads=json.loads),
)
way(
    "register_hstore()",
    lambda raw: psycopg2.extras.register_hstore(raw),
    # It registers an adapter for all connections.
    after=lambda raw: extensions.adapters.pop((dict, extensions.ISQLQuote)),
)
way("register_uuid()", lambda raw: psycopg2.extras.register_uuid(conn_or_curs=raw))
way(
    "register_composite()",
    lambda raw: psycopg2.extras.register_composite("o_table", raw),
)
way(
    "register_range()",
    lambda raw: psycopg2.extras.register_range("int4range", "Int4Range", raw),
)
way("register_type()", lambda raw: extensions.register_type(_CASTER, raw))
way("register_type() of bytes", lambda raw: extensions.register_type(_BINARY, raw))
way(
    "register_type(UNICODE)",
    lambda raw: extensions.register_type(extensions.UNICODE, raw),
)
way("string_types changed", lambda raw: raw.string_types.update({25: _CASTER}))
way("string_types cleared", lambda raw: raw.string_types.clear())
way("binary_types changed", lambda raw: raw.binary_types.update({17: _BINARY}))


def registers_on_a_cursor(raw: Any) -> object:
    cursor = raw.cursor()
    extensions.register_type(_CASTER, cursor)
    return cursor


way("register_type() on a cursor", registers_on_a_cursor)

# --- Notices and notifications --------------------------------------------------------

way("a notice of a function", "SELECT o_notice()")
way("a notice of DROP IF EXISTS", "DROP TABLE IF EXISTS secret_of_somebody")
way("a notice of a transaction's statement", "COMMIT")
way("notices = []", attribute("notices", []))
way("notices = UserList()", attribute("notices", UserList()))
way("notices = None", attribute("notices", None))


def replaces(name: str) -> Step:
    def replace(raw: Any) -> object:
        mine: list[Any] = []
        setattr(raw, name, mine)
        return mine

    return replace


way("notices replaced by a list that is kept", replaces("notices"))
way("notices replaced, and a notice", replaces("notices"), "SELECT o_notice()")
way("notices appended to", lambda raw: raw.notices.append("somebody's"))
way("notifies replaced by a list that is kept", replaces("notifies"))
way(
    "notifies appended to",
    lambda raw: raw.notifies.append(extensions.Notify(1, "somebody", "")),
)


def hears(raw: Any) -> None:
    run(raw, "LISTEN somebody")
    run(raw, "NOTIFY somebody, 'secret'")
    raw.poll()
    assert raw.notifies


way("LISTEN and a notification", hears)
way("LISTEN and a notification, and UNLISTEN", hears, "UNLISTEN *")

# --- Cursors --------------------------------------------------------------------------

for _statement in (
    "SELECT 1",
    _SET,
    "CREATE TEMP TABLE x (a int)",
    "SELECT pg_advisory_lock(4711)",
    "SELECT setseed(0.5)",
    "BEGIN",
):
    way(
        f"a cursor made by its class: {_statement}",
        lambda raw, s=_statement: plain(raw, s),
    )


class Mine(extensions.cursor):
    """An application's cursor class."""


def made_by_its_class(raw: Any) -> None:
    with Mine(raw) as cursor:
        cursor.execute(_SET)


def made_by_django(raw: Any) -> None:
    with connection.cursor() as cursor:
        extensions.cursor.execute(cursor.cursor, _SET)


def named_by_its_class(raw: Any) -> object:
    cursor = extensions.cursor(raw, "kept")
    cursor.withhold = True
    cursor.execute("SELECT generate_series(1, 9)")
    return cursor


def named(kept: bool, **options: Any) -> Step:
    def open_one(raw: Any) -> object:
        cursor = raw.cursor("kept", **options)
        cursor.execute("SELECT generate_series(1, 9)")
        if kept:
            return cursor
        cursor.close()
        return None

    return open_one


way("a cursor made by a class of the application's", made_by_its_class)
way("a method of psycopg2's class on a tracked cursor", made_by_django)
way("a named cursor made by its class", named_by_its_class)
way("a named cursor WITH HOLD", named(True, withhold=True))
way("a named cursor WITH HOLD, closed", named(False, withhold=True))
way("a named cursor", attribute("autocommit", False), named(True))
way("a named cursor never executed", lambda raw: raw.cursor("kept", withhold=True))
way(
    "a cursor of a class",
    lambda raw: raw.cursor(cursor_factory=psycopg2.extras.DictCursor).execute(_SET),
)
way(
    "a cursor of a function",
    lambda raw: raw.cursor(cursor_factory=lambda *a: extensions.cursor(*a)).execute(
        _SET
    ),
)
way(
    "a cursor of named tuples",
    lambda raw: raw.cursor(cursor_factory=psycopg2.extras.NamedTupleCursor).execute(
        _SET
    ),
)

_UNQUOTED = "SET app.user_id = 42"


class Sends(extensions.cursor):
    """A cursor class that sends a statement of its own, as for row-level security."""

    def execute(self, query: Any, vars: Any = None) -> None:
        super().execute("SET app.user_id = %s", ["42"])
        super().execute(query, vars)

    def callproc(self, procname: Any, parameters: Any = None) -> Any:
        super().execute(_SET)
        return super().callproc(procname, parameters)


class Rewrites(extensions.cursor):
    """A cursor class that calls psycopg2's by its name."""

    def execute(self, query: Any, vars: Any = None) -> None:
        extensions.cursor.execute(self, f"{_SET}; {query}", vars)


def by_class(factory: Any, method: str, *arguments: Any) -> Step:
    def act(raw: Any) -> None:
        with raw.cursor(cursor_factory=factory) as cursor:
            getattr(cursor, method)(*arguments)

    return act


way("a cursor class that sends a statement", by_class(Sends, "execute", "SELECT 1"))
way("a cursor class with a callproc()", by_class(Sends, "callproc", "now"))
way("a cursor class that rewrites", by_class(Rewrites, "execute", "SELECT 1"))
way(
    "a cursor made by a class that sends a statement",
    lambda raw: Sends(raw).execute("SELECT 1"),
)
way(
    "a cursor made by its class: LOAD by AsIs",
    lambda raw: extensions.cursor(raw).execute(
        "%s", [extensions.AsIs("LOAD 'auto_explain'")]
    ),
)

# --- How a statement is given ---------------------------------------------------------

AsIs = extensions.AsIs
for _given, _query, _parameters in [
    ("bytes", b"SET app.user_id = '42'", None),
    ("Composed", sql.SQL("SET app.user_id = {}").format(sql.Literal("42")), None),
    (
        "Composed of identifiers",
        sql.SQL("SET {} = 5").format(sql.Identifier("lock_timeout")),
        None,
    ),
    ("AsIs", "%s", [AsIs(_SET)]),
    ("AsIs within", "CREATE %s TABLE x (a int)", [AsIs("TEMP")]),
    (
        "AsIs after SELECT",
        "SELECT %s",
        [AsIs("set_config('app.user_id', '42', false)")],
    ),
    ("AsIs by name", "SELECT %(f)s(0.5)", {"f": AsIs("setseed")}),
    ("a second statement by AsIs", "SELECT %s", [AsIs(f"1; {_SET}")]),
    (
        "the name as a parameter",
        "SELECT set_config(%s, %s, false)",
        ["app.user_id", "42"],
    ),
    ("two statements", f"SELECT %s; {_SET}", [1]),
]:
    way(f"execute: {_given}", lambda raw, q=_query, p=_parameters: run(raw, q, p))


class Sneaks:
    """A parameter with its own way to become SQL."""

    def __conform__(self, protocol: object) -> object:
        return self if protocol is extensions.ISQLQuote else None

    def getquoted(self) -> bytes:
        return b"1; SET app.user_id = '42'"


class Once:
    """A parameter that becomes something else the second time."""

    def __init__(self, *forms: bytes) -> None:
        self.forms = list(forms)

    def __conform__(self, protocol: object) -> object:
        return self if protocol is extensions.ISQLQuote else None

    def getquoted(self) -> bytes:
        return self.forms.pop(0) if len(self.forms) > 1 else self.forms[0]


class ComposedOnce(sql.Composable):
    """A statement that becomes something else the second time."""

    def __init__(self) -> None:
        self.forms = [_SET, "SELECT 1"]

    def as_string(self, context: object) -> str:
        return self.forms.pop()


_CODE = AsIs(f"1; {_UNQUOTED}; SELECT 1")


class Missing(dict):  # type: ignore[type-arg]
    """Parameters of which none is there."""

    def __missing__(self, key: object) -> object:
        return _CODE


class Different(dict):  # type: ignore[type-arg]
    """Parameters that aren't what values() says."""

    def __getitem__(self, key: object) -> object:
        return _CODE


class DifferentList(list):  # type: ignore[type-arg]
    """Parameters that aren't what iteration says."""

    def __iter__(self) -> Any:
        return iter([1])


class Namespace:
    """Parameters with nothing but a way to get them."""

    def __getitem__(self, key: str) -> object:
        return _CODE


def registered(kind: type, value: object) -> Step:
    """Run a query while a type has an adapter that writes it as code."""

    def act(raw: Any) -> None:
        key = (kind, extensions.ISQLQuote)
        own = extensions.adapters[key]
        extensions.register_adapter(kind, lambda value: _CODE)
        try:
            run(raw, "SELECT %s", [value])
        finally:
            extensions.adapters[key] = own

    return act


for _given, _query, _parameters in [
    ("in a literal", "SELECT '%s'", [f"; {_UNQUOTED}; --"]),
    ("in a comment", "SELECT 1 /* %s */", [f"*/; {_UNQUOTED}; --"]),
    ("in a line's comment", "SELECT 1 -- %s\n", [f"\n; {_UNQUOTED}; --"]),
    ("in a comment at the end", "SELECT 1 -- %s", [f"\n; {_UNQUOTED}; --"]),
    ("in a dollar quote", "SELECT $$%s$$", [f"$$; {_UNQUOTED}; --"]),
    ("in a quoted name", 'SELECT 1 AS "%s"', [f'"; {_UNQUOTED}; --']),
    ("in a tracer's comment", "SELECT 1 /*a=%s*/", [f"*/; {_UNQUOTED}; --"]),
    ("after an E", "SELECT E%s", [f"\\'; {_UNQUOTED}; --"]),
    ("of a dict with a default", "SELECT %(a)s", Missing()),
    ("of a dict of its own kind", "SELECT %(a)s", Different(a=1)),
    ("of a list of its own kind", "SELECT %s", DifferentList([_CODE])),
    ("of an object", "SELECT %(a)s", Namespace()),
    (
        "that is a range",
        "SELECT %s",
        [extras.NumericRange(AsIs(f"1'; {_UNQUOTED}; SELECT '1"))],
    ),
    (
        "that is an address",
        "SELECT %s",
        [extras.Inet(AsIs(f"1; {_UNQUOTED}; SELECT '::1'"))],
    ),
    (
        "that is JSON",
        "SELECT %s",
        [extras.Json(1, dumps=lambda value: f"'; {_UNQUOTED}; --")],
    ),
    ("in a list", "SELECT %s", [[_CODE]]),
    ("in a tuple", "SELECT 1 IN %s", [(AsIs(f"1); {_UNQUOTED}; SELECT (1"),)]),
    ("after SET seed", "SET LOCAL seed = %s", [0.5]),
    ("for LANGUAGE", "CREATE FUNCTION x() RETURNS int AS 'x' LANGUAGE %s", ["C"]),
    ("that names a seed", "SELECT set_config(%s, '0.5', true)", ["seed"]),
]:
    way(
        f"a parameter {_given}",
        lambda raw, q=_query, p=_parameters: run(raw, q, p),
        error=ANY,
    )
for _query in (
    "SET LOCAL search_path TO %s",
    "SELECT set_config('search_path', %s, true)",
):
    way(
        f"a temporary table by a parameter: {_query}",
        "BEGIN",
        lambda raw, q=_query: run(raw, q, ["pg_temp"]),
        "CREATE TABLE staging (a int); COMMIT",
    )
for _kind, _value in [(str, "a"), (list, [1]), (tuple, (1,)), (int, [1])]:
    way(
        f"a parameter {_value!r}, and an adapter for {_kind.__name__}",
        registered(_kind, _value),
        error=ANY,
    )
_SECOND = f"1; {_UNQUOTED}".encode()
way(
    "a parameter that becomes code the second time",
    lambda raw: run(raw, "SELECT %s", [Once(b"1", _SECOND)]),
)
way(
    "a parameter that becomes code the first time",
    lambda raw: run(raw, "SELECT %s", [Once(_SECOND, b"1")]),
)
way(
    "a statement that becomes another one the second time",
    lambda raw: run(raw, ComposedOnce()),
)


def many_once(raw: Any) -> None:
    with raw.cursor() as cursor:
        cursor.executemany("SELECT %s", [[Once(b"1", _SECOND)], [Once(_SECOND, b"1")]])


way("executemany(), parameters that become code", many_once)


def many(raw: Any) -> None:
    with raw.cursor() as cursor:
        cursor.executemany(
            "SELECT set_config('app.user_id', %s, false)", [["1"], ["42"]]
        )


def batch(raw: Any) -> None:
    with raw.cursor() as cursor:
        psycopg2.extras.execute_batch(cursor, "SET app.user_id = %s", [["1"], ["42"]])


def values(raw: Any, statement: str, rows: list[Any]) -> None:
    with raw.cursor() as cursor:
        psycopg2.extras.execute_values(cursor, statement, rows)


def mogrified(raw: Any) -> None:
    with raw.cursor() as cursor:
        cursor.execute(cursor.mogrify("SET app.user_id = %s", ["42"]))


def calls(name: str, *arguments: object) -> Step:
    def call(raw: Any) -> None:
        with raw.cursor() as cursor:
            cursor.callproc(name, arguments)

    return call


def copies(statement: str, data: str = "") -> Step:
    def copy(raw: Any) -> None:
        with raw.cursor() as cursor:
            cursor.copy_expert(statement, io.StringIO(data))

    return copy


way(
    "execute: a parameter that quotes itself",
    lambda raw: run(raw, "SELECT %s", [Sneaks()]),
)
way("executemany()", many)
way("execute_batch()", batch)
way(
    "execute_values()",
    lambda raw: values(
        raw,
        "SELECT set_config('app.user_id', v, false) FROM (VALUES %s) AS t (v)",
        [("42",)],
    ),
)
way(
    "execute_values(), values that look like a change",
    lambda raw: values(
        raw,
        "INSERT INTO o_child (a) SELECT length(v) - 20 FROM (VALUES %s) AS t (v)",
        [("SET app.user_id = '42'",)],
    ),
    after="DELETE FROM o_child",
)
way("mogrify()", mogrified)
way("callproc('set_config')", calls("set_config", "app.user_id", "42", False))
way("callproc('pg_advisory_lock')", calls("pg_advisory_lock", 4711))
way("callproc('setseed')", calls("setseed", 0.5))
way(
    "callproc(): a parameter that is code",
    calls("generate_series", AsIs(f"1,1); {_UNQUOTED}; SELECT (1")),
)
way("callproc() of code", calls(f"now(); {_UNQUOTED}; SELECT * FROM now"))
way("callproc('o_become')", calls("o_become", "42"))
way("copy_expert(), TO", copies("COPY o_table TO STDOUT"))
way(
    "copy_expert(), FROM",
    copies("COPY o_child FROM STDIN", "1\n"),
    after="DELETE FROM o_child",
)
way(
    "copy_expert(), FROM into a serial column",
    copies("COPY o_log (a) FROM STDIN", "5\n"),
)
way("copy_expert(), FROM with a trigger", copies("COPY o_triggers FROM STDIN", "5\n"))
way(
    "copy_expert() of a function",
    copies("COPY (SELECT set_config('app.user_id', '42', false)) TO STDOUT"),
)
way(
    "copy_from()",
    lambda raw: raw.cursor().copy_from(io.StringIO("1\n"), "o_child", columns=["a"]),
    after="DELETE FROM o_child",
)
way("copy_to()", lambda raw: raw.cursor().copy_to(io.StringIO(), "o_table"))


class BreaksOff(io.StringIO):
    """A file that fails at once."""

    def write(self, data: str) -> int:
        raise ZeroDivisionError

    def read(self, size: int | None = -1) -> str:
        raise ZeroDivisionError


def breaks_off(statement: str) -> Step:
    def copy(raw: Any) -> None:
        stopped = (ZeroDivisionError, psycopg2.Error)
        with raw.cursor() as cursor, contextlib.suppress(*stopped):
            cursor.copy_expert(statement, BreaksOff())

    return copy


way("COPY TO broken off", breaks_off("COPY o_table TO STDOUT"))
way("COPY FROM broken off", breaks_off("COPY o_child FROM STDIN"))


def large_object(raw: Any) -> object:
    raw.autocommit = False
    return raw.lobject(0, "w")


way("lobject()", large_object)

# --- Two-phase transactions -----------------------------------------------------------


def begins_two_phase(raw: Any) -> None:
    raw.autocommit = False
    raw.tpc_begin(raw.xid(1, "x", "prepared"))
    run(raw, "INSERT INTO o_child VALUES (1)")


def ends_prepared(raw: Any) -> None:
    """Roll back what is prepared, as an administrator."""
    for (name,) in ask(raw, "SELECT gid FROM pg_prepared_xacts"):
        ask(raw, f"ROLLBACK PREPARED '{name}'")


way("tpc_begin()", begins_two_phase)
way(
    "tpc_prepare()",
    begins_two_phase,
    lambda raw: raw.tpc_prepare(),
    after=ends_prepared,
)
way(
    "tpc_prepare(), and autocommit = True",
    begins_two_phase,
    lambda raw: raw.tpc_prepare(),
    attribute("autocommit", True),
    after=ends_prepared,
    error=psycopg2.ProgrammingError,
)
way(
    "tpc_commit()",
    begins_two_phase,
    lambda raw: raw.tpc_prepare(),
    lambda raw: raw.tpc_commit(),
    after="DELETE FROM o_child",
)
way("tpc_rollback()", begins_two_phase, lambda raw: raw.tpc_rollback())
way("tpc_recover()", lambda raw: raw.tpc_recover())

# --- Django's own ---------------------------------------------------------------------


def in_atomic(statement: str) -> Step:
    def act(raw: Any) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)

    return act


def in_broken_atomic(raw: Any) -> None:
    with contextlib.suppress(ZeroDivisionError):
        in_atomic(_SET)(raw)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(4711), setseed(0.5)")
            raise ZeroDivisionError


way("atomic(), and a setting", in_atomic(_SET))
way("atomic(), and a local setting", in_atomic("SET LOCAL app.user_id = '42'"))
way(
    "atomic(), and a local set_config",
    in_atomic("SELECT set_config('app.user_id', '42', true)"),
)
way("atomic(), rolled back", in_broken_atomic)
way("set_autocommit(False)", lambda raw: connection.set_autocommit(False), "SELECT 1")
way("check_constraints()", lambda raw: connection.check_constraints())


# --- What a new session has of the database -------------------------------------------

for _name, _step in {"a query": "SELECT 1", "a setting": _SET}.items():
    way(
        f"a login trigger, and {_name}",
        _step,
        before="CREATE EVENT TRIGGER x_login ON login EXECUTE FUNCTION o_login()",
        after="DROP EVENT TRIGGER x_login",
        since=17,
    )
