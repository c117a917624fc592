"""The ways of psycopg alone to change a session, or to hide a change."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import RawCursor, ServerCursor
from psycopg.rows import dict_row
from psycopg.types import TypeInfo
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.hstore import register_hstore
from psycopg.types.json import Json, set_json_dumps, set_json_loads
from psycopg.types.range import Range, RangeInfo, register_range
from psycopg.types.string import StrDumper, TextLoader

from tests.vocabulary import AsIs, WritesDumper, heard

from .rows import ANY, Row, Step
from .snapshot import half
from .ways import attribute, begins_two_phase, ends_prepared, run

ROWS: list[Row] = []
_SET = "SET app.user_id = '42'"
_UNQUOTED = "SET app.user_id = 42"
_CALL = "SELECT set_config('app.user_id', '42', false)"
_CODE = AsIs(f"1; {_UNQUOTED}; SELECT 1")
#: Set a setting whose name the statement doesn't have.
_ARGUMENTS = ["app.user_id", "42"]


def way(name: str, *steps: Step, **options: Any) -> None:
    """Add a row."""
    ROWS.append(Row(name, steps, **options))


def enters(block: Callable[[Any], Any]) -> Step:
    """Enter a block, and keep it without leaving it."""

    def enter(raw: Any) -> object:
        entered = block(raw)
        entered.__enter__()
        return entered

    return enter


def within(block: Callable[[Any], Any], *statements: str) -> Step:
    """Run statements in a block."""

    def act(raw: Any) -> None:
        with block(raw):
            for statement in statements:
                raw.execute(statement)

    return act


def begins(iterator: Callable[[Any], Any]) -> Step:
    """Begin to read from an iterator, and keep it."""

    def begin(raw: Any) -> object:
        begun = iterator(raw)
        next(begun)
        return begun

    return begin


def executes(kind: Any, query: Any, parameters: Any = None, **options: Any) -> Step:
    """Execute a statement on a cursor made by its class."""

    def act(raw: Any) -> None:
        with kind(raw) as cursor:
            cursor.execute(query, parameters, **options)

    return act


# --- Attributes and methods of the connection -----------------------------------------

for _name, _value in {
    "row_factory": dict_row,
    "cursor_factory": RawCursor,
    "server_cursor_factory": psycopg.RawServerCursor,
    "prepare_threshold": 0,
    "prepared_max": 3,
}.items():
    way(f"{_name} = …", attribute(_name, _value))
    way(f"{_name} = …, and a query", attribute(_name, _value), "SELECT 1")
way("add_notice_handler()", lambda raw: raw.add_notice_handler(print))
way("add_notify_handler()", lambda raw: raw.add_notify_handler(print))
way("Connection.execute()", lambda raw: raw.execute(_SET))
way("Connection.execute() of a query", lambda raw: raw.execute("SELECT 1"))
way("set_autocommit(False) of psycopg's", lambda raw: raw.set_autocommit(False))
way("cancel_safe()", lambda raw: raw.cancel_safe())
way("a statement that libpq sends", lambda raw: raw.pgconn.exec_(_SET.encode()))
way("wait() of a generator", lambda raw: raw.wait(raw._exec_command(_SET)), error=ANY)

# --- Prepared statements --------------------------------------------------------------

prepares = attribute("prepare_threshold", 5)
way(
    "execute(prepare=True), and a setting",
    prepares,
    executes(psycopg.Cursor, "SELECT %s", [1], prepare=True),
    _SET,
)
way(
    "execute(prepare=True) of a setting",
    prepares,
    executes(psycopg.Cursor, _SET, prepare=True),
)
way(
    "DISCARD ALL",
    prepares,
    executes(psycopg.Cursor, "SELECT 1", prepare=True),
    "DISCARD ALL",
)

# --- Blocks and iterators -------------------------------------------------------------

way("transaction(), and a setting", within(lambda raw: raw.transaction(), _SET))
way(
    "transaction(), and a local setting",
    within(lambda raw: raw.transaction(), "SET LOCAL app.user_id = '42'"),
)
way(
    "transaction(force_rollback=True)",
    within(lambda raw: raw.transaction(force_rollback=True), _SET),
)
way("transaction() left open", enters(lambda raw: raw.transaction()), _SET)
way("pipeline(), and a query", within(lambda raw: raw.pipeline(), "SELECT 1"))
way("pipeline(), and a setting", within(lambda raw: raw.pipeline(), _SET))
way("pipeline() left open", enters(lambda raw: raw.pipeline()))
way(
    "pipeline() left open, and a query",
    enters(lambda raw: raw.pipeline()),
    lambda raw: raw.execute("SELECT 1"),
)
way(
    "copy() left open, TO",
    enters(lambda raw: raw.cursor().copy("COPY o_table TO STDOUT")),
)
way(
    "copy() left open, FROM",
    enters(lambda raw: raw.cursor().copy("COPY o_child FROM STDIN")),
)
way(
    "copy() with parameters",
    lambda raw: raw.cursor().copy("COPY (SELECT %s) TO STDOUT", [_CODE]).__enter__(),
    error=ANY,
)
for _kind in (psycopg.Cursor, psycopg.ClientCursor):
    way(
        f"stream() of {_kind.__name__}",
        lambda raw, k=_kind: list(k(raw).stream("SELECT generate_series(1, 9)")),
    )
    way(
        f"stream() of {_kind.__name__}, and a setting",
        lambda raw, k=_kind: list(k(raw).stream(_CALL)),
    )
    way(
        f"stream() of {_kind.__name__} left open",
        begins(lambda raw, k=_kind: k(raw).stream("SELECT generate_series(1, 9999)")),
    )
    way(
        f"stream() of {_kind.__name__} never begun",
        lambda raw, k=_kind: k(raw).stream(_CALL),
    )


def hears(raw: Any) -> None:
    raw.execute("LISTEN somebody")
    raw.execute("NOTIFY somebody, 'secret'")
    raw.execute("NOTIFY somebody, 'second'")
    half.read_all(raw)
    assert heard(raw)


way("notifies()", hears, lambda raw: list(raw.notifies(timeout=0, stop_after=9)))
way("notifies() left open", hears, begins(lambda raw: raw.notifies()))
way(
    "notifies() left open, and UNLISTEN before it",
    hears,
    "UNLISTEN *",
    begins(lambda raw: raw.notifies()),
)

# --- Cursors --------------------------------------------------------------------------

for _given, _kind, _query, _parameters in [
    ("Cursor", psycopg.Cursor, "SELECT set_config(%s, %s, false)", _ARGUMENTS),
    ("Cursor, %t", psycopg.Cursor, "SELECT set_config(%t, %t, false)", _ARGUMENTS),
    ("Cursor, %b", psycopg.Cursor, "SELECT set_config(%b, %b, false)", _ARGUMENTS),
    (
        "Cursor, by name",
        psycopg.Cursor,
        "SELECT set_config(%(a)s, %(b)s, false)",
        {"a": "app.user_id", "b": "42"},
    ),
    ("ClientCursor", psycopg.ClientCursor, "SET app.user_id = %s", ["42"]),
    ("ClientCursor, code", psycopg.ClientCursor, "SELECT %s", [_CODE]),
    ("RawCursor", RawCursor, "SELECT set_config($1, $2, false)", _ARGUMENTS),
    ("Cursor, code", psycopg.Cursor, "SELECT %s", [_CODE]),
    ("RawCursor, without parameters", RawCursor, _SET, None),
    ("bytes", psycopg.Cursor, _SET.encode(), None),
]:
    way(
        f"a cursor by its class: {_given}",
        executes(_kind, _query, _parameters),
        error=ANY if "code" in _given else None,
    )


def many(kind: Any, query: str, rows: Any, **options: Any) -> Step:
    def act(raw: Any) -> None:
        with kind(raw) as cursor:
            cursor.executemany(query, rows, **options)

    return act


for _kind in (psycopg.Cursor, psycopg.ClientCursor):
    for _returning in (False, True):
        way(
            f"executemany() of {_kind.__name__}, returning={_returning}",
            many(
                _kind,
                "SELECT set_config('app.user_id', %s, false)",
                [["1"], ["42"]],
                returning=_returning,
            ),
        )
way(
    "executemany() of RawCursor",
    many(RawCursor, "SELECT set_config($1, '42', false)", [["app.user_id"]]),
)


def fetches(kind: Any, query: Any, *parameters: Any) -> Step:
    def act(raw: Any) -> None:
        with kind(raw, "rows", withhold=True) as cursor:
            cursor.execute(query, *parameters)
            cursor.fetchall()

    return act


way("ServerCursor, and a setting", fetches(ServerCursor, _CALL))
way(
    "ServerCursor, the name as a parameter",
    fetches(ServerCursor, "SELECT set_config(%s, %s, false)", _ARGUMENTS),
)
way(
    "RawServerCursor",
    fetches(psycopg.RawServerCursor, "SELECT set_config($1, $2, false)", _ARGUMENTS),
)


def steals(kept: bool) -> Step:
    """Read from a cursor that SQL has declared."""

    def act(raw: Any) -> object:
        raw.execute("DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 9)")
        cursor = raw.cursor("c", withhold=True)
        assert cursor.fetchone() == (1,)
        if kept:
            return cursor
        cursor.close()
        return None

    return act


way("a cursor of SQL, read by psycopg and kept", steals(True))
way("a cursor of SQL, read by psycopg and closed", steals(False))


def makes_by_function(raw: Any) -> None:
    raw.cursor_factory = lambda conn, **options: psycopg.ClientCursor(conn, **options)
    raw.execute(_SET)


way("a cursor of a function of the application's", makes_by_function)
way(
    "a cursor of mappings",
    lambda raw: raw.cursor(row_factory=dict_row).execute(_SET),
)

# --- Adapters -------------------------------------------------------------------------


class Shouts(TextLoader):
    def load(self, data: Any) -> str:
        return str(super().load(data)).upper()


class Hides(StrDumper):
    def dump(self, obj: Any) -> bytes:
        return b"hidden"


_TYPES = """
    CREATE TYPE o_mood AS ENUM ('sad', 'ok');
    CREATE TYPE o_pair AS (a int, b text);
    CREATE TYPE o_floats AS RANGE (subtype = float8)
"""
_NO_TYPES = "DROP TYPE o_mood, o_pair, o_floats"


def registers(info: Any, name: str, register: Callable[[Any, Any], None]) -> Step:
    return lambda raw: register(info.fetch(raw, name), raw)


way("register_loader()", lambda raw: raw.adapters.register_loader("text", Shouts))
way("register_dumper()", lambda raw: raw.adapters.register_dumper(str, Hides))
way("types.add()", lambda raw: raw.adapters.types.add(TypeInfo("mine", 4711, 4712)))
way("types.clear()", lambda raw: raw.adapters.types.clear())
way(
    "TypeInfo.register()",
    registers(TypeInfo, "hstore", lambda info, raw: info.register(raw)),
)
way("register_hstore()", registers(TypeInfo, "hstore", register_hstore))
way(
    "register_enum()",
    registers(EnumInfo, "o_mood", register_enum),
    before=_TYPES,
    after=_NO_TYPES,
)
way(
    "register_composite()",
    registers(CompositeInfo, "o_pair", register_composite),
    before=_TYPES,
    after=_NO_TYPES,
)
way(
    "register_range()",
    registers(RangeInfo, "o_floats", register_range),
    before=_TYPES,
    after=_NO_TYPES,
)
way("set_json_loads()", lambda raw: set_json_loads(json.loads, raw))
way("set_json_dumps()", lambda raw: set_json_dumps(json.dumps, raw))
way(
    "a registration on a cursor",
    lambda raw: raw.cursor().adapters.register_loader("text", Shouts),
)

# --- Parameters that may be code ------------------------------------------------------


def registered(kind: type, value: object) -> Step:
    """Run a query with a dumper that writes a type as code."""

    class Code(WritesDumper):
        def quote(self, obj: Any) -> bytes:
            return _CODE.form()

    def act(raw: Any) -> None:
        raw.adapters.register_dumper(kind, Code)
        run(raw, "SELECT %s", [value])

    return act


for _registered, _given_value in [(str, "a"), (list, [1]), (int, 1), (dict, {})]:
    way(
        f"a parameter, and a dumper of code for {_registered.__name__}",
        registered(_registered, _given_value),
        error=ANY,
    )
for _given, _parameter in [
    ("that is a range", Range(AsIs(f"1'; {_UNQUOTED}; SELECT '1"), None)),
    ("that is JSON", Json(1, dumps=lambda value: f"'; {_UNQUOTED}; --")),
    ("in a list of lists", [[_CODE]]),
]:
    way(
        f"a parameter {_given}",
        lambda raw, p=_parameter: run(raw, "SELECT %s", [p]),
        error=ANY,
    )

# --- Two-phase transactions -----------------------------------------------------------


def leaves_two_phase(raw: Any) -> None:
    begins_two_phase(raw)
    with suppress(psycopg.Error):
        raw.execute("SELECT 1 / 0")


way("tpc_begin(), and an error", leaves_two_phase)
way(
    "tpc_prepare(), and autocommit = True",
    begins_two_phase,
    lambda raw: raw.tpc_prepare(),
    attribute("autocommit", True),
    after=ends_prepared,
)
