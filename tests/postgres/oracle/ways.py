"""The ways that the library and Django offer to change a session, or to hide a change.

Those of one library are in its own file.
"""

from __future__ import annotations

import contextlib
from typing import Any

from django.db import connection, transaction

from tests.library import IS_PSYCOPG
from tests.vocabulary import (
    READ_ONLY,
    SERIALIZABLE,
    AsIs,
    Cursor,
    Error,
    Writes,
    break_copy_off,
    choose_dicts,
    copy_in,
    copy_out,
    cursor_of,
    heard,
    library,
    named_by_class,
)

from .rows import ANY, Row, Step
from .snapshot import ask, half

sql = library.sql
ROWS: list[Row] = []
_SET = "SET app.user_id = '42'"


def way(name: str, *steps: Step, **options: Any) -> None:
    """Add a row."""
    ROWS.append(Row(name, steps, **options))


def attribute(name: str, value: object) -> Step:
    return lambda raw: setattr(raw, name, value)


def plain(raw: Any, statement: str) -> Any:
    """Run a statement on a cursor that the connection did not make."""
    cursor = Cursor(raw)
    cursor.execute(statement)
    return cursor


def run(raw: Any, query: Any, parameters: Any = None) -> None:
    with raw.cursor() as cursor:
        cursor.execute(query, parameters)


# --- Attributes and methods of the connection -----------------------------------------

for _name, _value in {
    "autocommit": False,
    "isolation_level": SERIALIZABLE,
    READ_ONLY: True,
    "deferrable": True,
}.items():
    way(f"{_name} = {_value!r}", attribute(_name, _value))
    way(f"{_name} = {_value!r}, and a query", attribute(_name, _value), "SELECT 1")
way("cursors of mappings", choose_dicts)
way("cursors of mappings, and a query", choose_dicts, "SELECT 1")
way("autocommit = False, and a setting", attribute("autocommit", False), _SET)
way(
    f"autocommit = False, {READ_ONLY} = True, and a query",
    attribute("autocommit", False),
    attribute(READ_ONLY, True),
    "SELECT 1",
)
way("SET client_encoding by SQL", "SET client_encoding TO 'LATIN1'")
way(
    "set_config('client_encoding')",
    "SELECT set_config('client_encoding', 'LATIN1', false)",
)
way("commit() and rollback()", lambda raw: (raw.commit(), raw.rollback()))
way("cancel()", lambda raw: raw.cancel())
way("close()", lambda raw: raw.close())
way("with connection:", lambda raw: raw.__enter__(), "SELECT 1")
way("an attribute of the application's own", attribute("somebody", "42"))

# --- Notices and notifications --------------------------------------------------------

way("a notice of a function", "SELECT o_notice()")
way("a notice of DROP IF EXISTS", "DROP TABLE IF EXISTS secret_of_somebody")
way("a notice of a transaction's statement", "COMMIT")


def hears(raw: Any) -> None:
    run(raw, "LISTEN somebody")
    run(raw, "NOTIFY somebody, 'secret'")
    half.read_all(raw)
    assert heard(raw)


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


class Mine(Cursor):  # type: ignore[misc]
    """An application's cursor class."""


def made_by_its_class(raw: Any) -> None:
    with Mine(raw) as cursor:
        cursor.execute(_SET)


def made_by_django(raw: Any) -> None:
    with connection.cursor() as cursor:
        Cursor.execute(cursor.cursor, _SET)


def named_by_its_class(raw: Any) -> object:
    cursor = named_by_class(raw, "kept")
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
way("a method of the library's class on a tracked cursor", made_by_django)
way("a named cursor made by its class", named_by_its_class)
way("a named cursor WITH HOLD", named(True, withhold=True))
way("a named cursor WITH HOLD, closed", named(False, withhold=True))
way("a named cursor", attribute("autocommit", False), named(True))
way("a named cursor never executed", lambda raw: raw.cursor("kept", withhold=True))
_UNQUOTED = "SET app.user_id = 42"


class Sends(Cursor):  # type: ignore[misc]
    """A cursor class that sends a statement of its own, as for row-level security."""

    def execute(self, query: Any, vars: Any = None) -> None:
        super().execute("SET app.user_id = %s", ["42"])
        super().execute(query, vars)


class Rewrites(Cursor):  # type: ignore[misc]
    """A cursor class that calls the library's by its name."""

    def execute(self, query: Any, vars: Any = None) -> None:
        Cursor.execute(self, f"{_SET}; {query}", vars)


def by_class(factory: Any, method: str, *arguments: Any) -> Step:
    def act(raw: Any) -> None:
        with cursor_of(raw, factory) as cursor:
            getattr(cursor, method)(*arguments)

    return act


way("a cursor class that sends a statement", by_class(Sends, "execute", "SELECT 1"))
way("a cursor class that rewrites", by_class(Rewrites, "execute", "SELECT 1"))
way(
    "a cursor made by a class that sends a statement",
    lambda raw: Sends(raw).execute("SELECT 1"),
)
way(
    "a cursor made by its class: LOAD by AsIs",
    lambda raw: Cursor(raw).execute("%s", [AsIs("LOAD 'auto_explain'")]),
)

# --- How a statement is given ---------------------------------------------------------

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


class ComposedOnce(sql.Composable):  # type: ignore[misc]
    """A statement that becomes something else the second time."""

    def __init__(self) -> None:
        super().__init__("")
        self.forms = [_SET, "SELECT 1"]

    def as_string(self, context: object) -> str:
        return self.forms.pop()

    def as_bytes(self, context: object) -> bytes:
        return self.forms.pop().encode()


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
_SECOND = f"1; {_UNQUOTED}".encode()
_CALL = b"set_config('app.user_id', '42', false)"
way(
    "a parameter that becomes code the second time",
    lambda raw: run(raw, "SELECT %s", [Writes(b"1", _SECOND)]),
)
way(
    "a parameter that becomes code the first time",
    lambda raw: run(raw, "SELECT %s", [Writes(_SECOND, b"1")]),
)
way(
    "a statement that becomes another one the second time",
    lambda raw: run(raw, ComposedOnce()),
)


def many_once(raw: Any) -> None:
    with raw.cursor() as cursor:
        cursor.executemany(
            "SELECT %s", [[Writes(b"1", _SECOND)], [Writes(_SECOND, b"1")]]
        )


way(
    "executemany(), parameters that become code",
    many_once,
    # psycopg sends each row by a protocol that takes one statement.
    error=ANY if IS_PSYCOPG else None,
)


def many_calls(raw: Any) -> None:
    with raw.cursor() as cursor:
        cursor.executemany("SELECT %s", [[Writes(b"1", _CALL)]])


way("executemany(), a parameter that becomes a call", many_calls)


def many(raw: Any) -> None:
    with raw.cursor() as cursor:
        cursor.executemany(
            "SELECT set_config('app.user_id', %s, false)", [["1"], ["42"]]
        )


def mogrified(raw: Any) -> None:
    with raw.cursor() as cursor:
        cursor.execute(cursor.mogrify("SET app.user_id = %s", ["42"]))


def calls(name: str, *arguments: object) -> Step:
    def call(raw: Any) -> None:
        with raw.cursor() as cursor:
            cursor.callproc(name, arguments)

    return call


def copies(statement: str, data: str | None = None) -> Step:
    def copy(raw: Any) -> None:
        with raw.cursor() as cursor:
            if data is None:
                copy_out(cursor, statement)
            else:
                copy_in(cursor, statement, data)

    return copy


way(
    "execute: a parameter that quotes itself",
    lambda raw: run(raw, "SELECT %s", [Writes(b"1; SET app.user_id = '42'")]),
)
way("executemany()", many)
way("mogrify()", mogrified)
way("callproc('set_config')", calls("set_config", "app.user_id", "42", False))
way("callproc('pg_advisory_lock')", calls("pg_advisory_lock", 4711))
way("callproc('setseed')", calls("setseed", 0.5))
way(
    "callproc(): a parameter that is code",
    calls("generate_series", AsIs(f"1,1); {_UNQUOTED}; SELECT (1")),
)
way(
    "callproc() of code",
    calls(f"now(); {_UNQUOTED}; SELECT * FROM now"),
    # With psycopg it is Django's own, which quotes the name.
    error="42883" if IS_PSYCOPG else None,
)
way("callproc('o_become')", calls("o_become", "42"))
way("COPY TO", copies("COPY o_table TO STDOUT"))
way(
    "COPY FROM",
    copies("COPY o_child FROM STDIN", "1\n"),
    after="DELETE FROM o_child",
)
way(
    "COPY FROM into a serial column",
    copies("COPY o_log (a) FROM STDIN", "5\n"),
)
way("COPY FROM with a trigger", copies("COPY o_triggers FROM STDIN", "5\n"))
way(
    "COPY of a function TO",
    copies("COPY (SELECT set_config('app.user_id', '42', false)) TO STDOUT"),
)


def breaks_off(statement: str) -> Step:
    def copy(raw: Any) -> None:
        stopped = (ZeroDivisionError, Error)
        with raw.cursor() as cursor, contextlib.suppress(*stopped):
            break_copy_off(cursor, statement)

    return copy


way("COPY TO broken off", breaks_off("COPY o_table TO STDOUT"))
way("COPY FROM broken off", breaks_off("COPY o_child FROM STDIN"))


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
