"""Parameters that psycopg's dumpers write into a statement, as literals or as code."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from sandbox.postgres import Server
from tests.library import IS_PSYCOPG

if not IS_PSYCOPG:
    pytest.skip("psycopg2 has no dumpers", allow_module_level=True)

import psycopg
from psycopg.adapt import Dumper
from psycopg.types.json import Json, JsonDumper
from psycopg.types.numeric import FloatDumper
from psycopg.types.string import StrBinaryDumper, StrDumper

from dbpool_mw.drivers.psycopg import driver

CODE = "1; SET a.b = 1"


@pytest.fixture
def connection(postgres: Server, database: str) -> Iterator[Any]:
    """Give a tracked connection in autocommit, whose cursors bind on the client."""
    made: Any = psycopg.connect(
        postgres.dsn(database), autocommit=True, cursor_factory=psycopg.ClientCursor
    )
    driver.track(made)
    driver.keep_set_up(made)
    yield made
    made.close()


def setting(connection: Any) -> str | None:
    """Return the setting that the code sets, as the server has it."""
    (value,) = connection.execute("SELECT current_setting('a.b', true)").fetchone()
    return value or None


class Text(str):
    pass


class Money(Decimal):
    def __str__(self) -> str:
        return CODE


class Rate(float):
    def __str__(self) -> str:
        return CODE


class WritesCode(StrDumper):
    def quote(self, obj: Any) -> bytes:
        return CODE.encode()


class DumpsCode(FloatDumper):
    def dump(self, obj: Any) -> bytes:
        return CODE.encode()


class UpgradesToCode(StrDumper):
    def get_key(self, obj: Any, format: Any) -> Any:
        return (str,)

    def upgrade(self, obj: Any, format: Any) -> Any:
        return WritesCode(str, self.connection)


@pytest.mark.parametrize(
    ("value", "dumpers"),
    [
        ("x", [WritesCode]),
        # psycopg writes literals by dumpers of texts, also after this one.
        ("x", [WritesCode, StrBinaryDumper]),
        ("x", [UpgradesToCode]),
        (Text("x"), [WritesCode]),
        (1.5, [DumpsCode]),
        (Money(1), []),
        (Rate(1), []),
    ],
)
@pytest.mark.parametrize("at", ["connection", "cursor"])
def test_a_session_that_a_value_changed_is_dirty(
    connection: Any, value: Any, dumpers: list[Any], at: str
) -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT %s", ["x"])  # a text that was judged before
    adapters = (connection if at == "connection" else cursor).adapters
    kind = next(each for each in (float, str, object) if isinstance(value, each))
    for dumper in dumpers:
        adapters.register_dumper(kind, dumper)
    if at == "connection":
        cursor = connection.cursor()
    cursor.execute("SELECT %s", [value])
    assert driver.is_dirty(connection) == (setting(connection) == "1")


class OwnJson(JsonDumper):
    def dump(self, obj: Any) -> bytes:
        return b'"' + str(obj.obj).encode() + b'"'


class OwnText(Dumper):
    def dump(self, obj: Any) -> bytes:
        return str(obj).encode()


VISITORS = "'; SET a.b = 'c' --"


@pytest.mark.parametrize(
    ("value", "dumper"),
    [
        (VISITORS, None),
        (Text(VISITORS), None),
        ([VISITORS, "\\"], None),
        (VISITORS.encode(), None),
        (Json({"a": VISITORS}), None),
        (Json(VISITORS), OwnJson),
        (Text(VISITORS), OwnText),
        (-1, None),
        (None, None),
        (True, None),
        (1.5, None),
        (Decimal("-1.5"), None),
    ],
)
def test_what_a_visitor_wrote_makes_nothing_dirty(
    connection: Any, value: Any, dumper: Any
) -> None:
    if dumper is not None:
        connection.adapters.register_dumper(type(value), dumper)
    for parameters in ([value], (value, value), {"a": value}):
        named = isinstance(parameters, dict)
        places = ["(%(a)s)::text"] if named else ["(%s)::text"] * len(parameters)
        connection.execute(f"SELECT {', '.join(places)}", parameters)
    assert setting(connection) is None
    assert not driver.is_dirty(connection)
