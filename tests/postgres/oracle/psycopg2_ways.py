"""The ways of psycopg2 alone to change a session, or to hide a change."""

from __future__ import annotations

import io
import json
from collections import UserList
from typing import Any

import psycopg2
import psycopg2.extras
from psycopg2 import extensions, extras

from tests.vocabulary import AsIs

from .rows import ANY, Row, Step
from .ways import attribute, begins_two_phase, ends_prepared, run

ROWS: list[Row] = []
_SET = "SET app.user_id = '42'"
_UNQUOTED = "SET app.user_id = 42"
_CODE = AsIs(f"1; {_UNQUOTED}; SELECT 1")


def way(name: str, *steps: Step, **options: Any) -> None:
    """Add a row."""
    ROWS.append(Row(name, steps, **options))


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

way("reset()", lambda raw: raw.reset())

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
]:
    way(
        f"a parameter {_given}",
        lambda raw, q=_query, p=_parameters: run(raw, q, p),
        error=ANY,
    )
for _kind, _value in [(str, "a"), (list, [1]), (tuple, (1,)), (int, [1])]:
    way(
        f"a parameter {_value!r}, and an adapter for {_kind.__name__}",
        registered(_kind, _value),
        error=ANY,
    )


def batch(raw: Any) -> None:
    with raw.cursor() as cursor:
        psycopg2.extras.execute_batch(cursor, "SET app.user_id = %s", [["1"], ["42"]])


def values(raw: Any, statement: str, rows: list[Any]) -> None:
    with raw.cursor() as cursor:
        psycopg2.extras.execute_values(cursor, statement, rows)


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
way(
    "copy_from()",
    lambda raw: raw.cursor().copy_from(io.StringIO("1\n"), "o_child", columns=["a"]),
    after="DELETE FROM o_child",
)
way("copy_to()", lambda raw: raw.cursor().copy_to(io.StringIO(), "o_table"))


def large_object(raw: Any) -> object:
    raw.autocommit = False
    return raw.lobject(0, "w")


way("lobject()", large_object)

way(
    "tpc_prepare(), and autocommit = True",
    begins_two_phase,
    lambda raw: raw.tpc_prepare(),
    attribute("autocommit", True),
    after=ends_prepared,
    error=psycopg2.ProgrammingError,
)


class Sends(extensions.cursor):
    """A cursor class whose ``callproc()`` sends a statement of its own."""

    def callproc(self, procname: Any, parameters: Any = None) -> Any:
        super().execute(_SET)
        return super().callproc(procname, parameters)


def sends(raw: Any) -> None:
    with raw.cursor(cursor_factory=Sends) as cursor:
        cursor.callproc("now")


way("a cursor class with a callproc()", sends)
