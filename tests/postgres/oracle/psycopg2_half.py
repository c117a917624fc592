"""What psycopg2 knows of a session, and questions to the server past psycopg2."""

from __future__ import annotations

import ctypes
from typing import Any

from psycopg2 import _psycopg, extensions

from .errors import ServerError

# psycopg2's module has libpq in it or needs it: either way its symbols are found.
_libpq = ctypes.CDLL(_psycopg.__file__)
for _name, _result, *_arguments in [
    ("PQexec", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p),
    ("PQresultErrorField", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int),
    ("PQntuples", ctypes.c_int, ctypes.c_void_p),
    ("PQnfields", ctypes.c_int, ctypes.c_void_p),
    ("PQgetisnull", ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
    ("PQgetvalue", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
    ("PQclear", None, ctypes.c_void_p),
]:
    _function = getattr(_libpq, _name)
    _function.restype, _function.argtypes = _result, _arguments
_SQLSTATE = ord("C")


def ask(raw: Any, sql: str | bytes) -> list[tuple[Any, ...]]:
    """Ask the server by libpq, on psycopg2's connection and past psycopg2.

    No cursor is made, no method of the connection is called, and no transaction is
    begun: neither psycopg2 nor whoever tracks its statements can notice. Text comes as
    the server sent it, read as UTF-8. Raises ServerError.
    """
    if isinstance(sql, str):
        sql = sql.encode()
    result = _libpq.PQexec(raw.pgconn_ptr, sql)
    try:
        state = _libpq.PQresultErrorField(result, _SQLSTATE)
        if state is not None:
            raise ServerError(state.decode())

        def value(row: int, column: int) -> str | None:
            if _libpq.PQgetisnull(result, row, column):
                return None
            return _libpq.PQgetvalue(result, row, column).decode("utf-8", "replace")

        columns = range(_libpq.PQnfields(result))
        return [
            tuple(value(row, column) for column in columns)
            for row in range(_libpq.PQntuples(result))
        ]
    finally:
        _libpq.PQclear(result)


def is_idle(raw: Any) -> bool:
    """Tell whether the server can be asked."""
    return bool(raw.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE)


def read_all(raw: Any) -> None:
    """Read what the server said unasked into psycopg2's lists; sends nothing."""
    extensions.connection.poll(raw)


def quoted(value: str | bytes, raw: Any) -> bytes:
    """Return what psycopg2 writes for a value. Raises UnicodeError."""
    kind: Any = extensions.QuotedString if isinstance(value, str) else extensions.Binary
    adapted = kind(value)
    adapted.prepare(raw)
    return bytes(adapted.getquoted())


class Identity:
    """One object. psycopg2's casters are equal to every caster of the same types."""

    def __init__(self, one: object) -> None:
        self.one = one

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.one is other.one

    def __hash__(self) -> int:
        return id(self.one)

    def __repr__(self) -> str:
        return f"{self.one!r} at {id(self.one):#x}"


def attributes(raw: Any) -> dict[str, object]:
    """What psycopg2 tells of a connection, and how it quotes for it."""
    parameters = (
        "application_name default_transaction_read_only in_hot_standby is_superuser "
        "search_path session_authorization"
    )
    result: dict[str, object] = {
        name: getattr(raw, name)
        for name in (
            "async_",
            "autocommit",
            "closed",
            "cursor_factory",
            "deferrable",
            "encoding",
            "isolation_level",
            "readonly",
            "status",
        )
    }
    result.update(
        casters=sorted(raw.string_types),
        binary_casters=sorted(raw.binary_types),
        notices=_copied(raw.notices),
        notices_type=type(raw.notices),
        notifies=_copied(raw.notifies),
        notifies_type=type(raw.notifies),
        transaction=raw.get_transaction_status(),
    )
    for name in parameters.split():
        result[f"reported {name}"] = raw.info.parameter_status(name)
    return result


def _copied(items: Any) -> object:
    return None if items is None else list(items)


def own(raw: Any) -> dict[str, object]:
    """What differs between connections: the type casters, by identity, and so on."""
    result: dict[str, object] = {
        "attributes": sorted(getattr(raw, "__dict__", ())),
        "dsn": raw.dsn,
    }
    for kind in ("string_types", "binary_types"):
        for oid, caster in getattr(raw, kind).items():
            result[f"{kind} {oid}"] = Identity(caster)
    return result


def shared(raw: Any, kept: Any) -> dict[str, object]:
    """Tell what of the connection's the former holder still has."""
    return {
        name: "a list of the former holder's"
        for name in ("notices", "notifies")
        if any(getattr(raw, name) is each for each in kept)
    }
