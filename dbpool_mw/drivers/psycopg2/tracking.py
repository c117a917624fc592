"""Judge each statement in the form that psycopg2 sends, before it is sent.

A cursor class of the project may rewrite statements or send its own, and
``psycopg2.extensions.cursor(connection)`` makes a cursor without calling any method of
the connection. All of them come to the methods of psycopg2's cursor class in the end.
It is a C class, whose attributes Python code can't assign to: so the methods are
exchanged in its namespace, once per process, when this driver is first used. On a
connection that isn't pooled such a method does nothing but look at the connection's
class.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

import psycopg2
from psycopg2 import extensions, sql

from dbpool_mw.drivers.postgresql.statements import CLEAN, harmless, judge

from .connection import TrackedConnection
from .literals import are_literals

_Cursor = extensions.cursor
_mogrify = _Cursor.mogrify


class _Rendered:
    """A parameter whose SQL is known already."""

    def __init__(self, statement: bytes) -> None:
        self._statement = statement

    def getquoted(self) -> bytes:
        return self._statement


def track_all_cursors() -> None:
    """Have every statement on a pooled connection judged, whatever cursor sends it."""
    extensions.register_adapter(_Rendered, lambda rendered: rendered)
    (namespace,) = gc.get_referents(_Cursor.__dict__)
    for name, wrapper in _WRAPPERS.items():
        if not hasattr(namespace[name], "__wrapped__"):
            namespace[name] = wrapper(namespace[name])
    # The interpreter caches where it found a method.
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(_Cursor))


def _execute(method: Callable[..., Any]) -> Callable[..., Any]:
    # Every statement of an application comes here.
    @wraps(method)
    def execute(self: Any, query: Any, vars: Any = None) -> Any:
        connection = self.connection
        if not isinstance(connection, TrackedConnection):
            return method(self, query, vars)
        if (
            connection.aborted is not None
            or getattr(self, "lease", None) != connection.lease
        ):
            connection.check(self)
        try:
            if (
                type(query) is str
                and query in harmless
                and (vars is None or are_literals(vars))
            ):
                connection.statement = query
            else:
                query, vars = _as_sent(self, query, vars)
            try:
                method(self, query, vars)
            except psycopg2.Error as error:
                connection.note_error(error)
                raise
        finally:
            connection.statement = None
        if self.name is not None:
            connection.add_open_cursor(self.name)

    return execute


def _as_sent(cursor: Any, query: Any, vars: Any) -> tuple[Any, Any]:
    """Judge a statement; return it and its parameters as psycopg2 is to get them.

    Where the parameters may be code, they are rendered here.
    """
    connection = cursor.connection
    query, text = _text(query, cursor)
    connection.statement = text
    found = judge(text, connection.reads_escapes)
    if vars is not None and not (found.is_final and are_literals(vars)):
        query, vars = _mogrify(cursor, query, vars), None
        text = _decoded(query, connection)
        found = judge(text, connection.reads_escapes)
    if found.effect is not CLEAN:
        connection.mark_dirty(found.effect.not_resettable, text)
    return query, vars


def _executemany(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def executemany(self: Any, query: Any, vars_list: Iterable[Any]) -> Any:
        connection = self.connection
        if not isinstance(connection, TrackedConnection):
            return method(self, query, vars_list)
        connection.check(self)
        query, text = _text(query, self)
        if not text:
            return _run(connection, method, self, query, vars_list)
        connection.statement = text
        found = judge(text, connection.reads_escapes)

        def rendered() -> Iterator[tuple[_Rendered]]:
            for vars in vars_list:
                connection.check(self)
                statement = _mogrify(self, query, vars)
                if not (found.is_final and are_literals(vars)):
                    connection.judge(_decoded(statement, connection))
                yield (_Rendered(statement),)

        return _run(connection, method, self, "%s", rendered())

    return executemany


def _callproc(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def callproc(self: Any, procname: Any, parameters: Any = None) -> Any:
        connection = self.connection
        if not isinstance(connection, TrackedConnection):
            return method(self, procname, parameters)
        connection.check(self)

        def rendered(value: Any) -> _Rendered:
            statement = _mogrify(self, "%s", (value,))
            arguments.append(_decoded(statement, connection))
            return _Rendered(statement)

        arguments: list[str] = []
        values: Any = None
        if isinstance(parameters, dict):
            values = {
                name: rendered(parameters[name]) for name in dict.keys(parameters)
            }
        elif parameters is not None:
            values = [rendered(parameters[n]) for n in range(len(parameters))]
        text = f"SELECT * FROM {procname}({', '.join(arguments)})"
        if "%" in str(procname):
            # psycopg2 would look for a parameter there.
            connection.mark_dirty(statement=text)
        connection.judge(text)
        connection.statement = f"SELECT * FROM {procname}(...)"
        _run(connection, method, self, procname, values)
        return parameters

    return callproc


def _copy_expert(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def copy_expert(self: Any, sql: Any, file: Any, size: int = 8192) -> Any:
        connection = self.connection
        if isinstance(connection, TrackedConnection):
            connection.check(self)
            sql, text = _text(sql, self)
            connection.judge(text)
            connection.statement = text
        return _run(connection, method, self, sql, file, size)

    return copy_expert


def _copy(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method that writes a COPY of a table itself, which leaves nothing."""

    @wraps(method)
    def copy(self: Any, *args: Any, **kwargs: Any) -> Any:
        connection = self.connection
        if isinstance(connection, TrackedConnection):
            connection.check(self)
        return _run(connection, method, self, *args, **kwargs)

    return copy


def _close(method: Callable[..., None]) -> Callable[..., None]:
    @wraps(method)
    def close(self: Any) -> None:
        name, connection = self.name, self.connection
        if name is None or not isinstance(connection, TrackedConnection):
            return method(self)
        # The next holder may have a cursor of the same name.
        if connection.is_current(self):
            method(self)
            connection.remove_open_cursor(name)

    return close


_WRAPPERS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "execute": _execute,
    "executemany": _executemany,
    "callproc": _callproc,
    "copy_expert": _copy_expert,
    "copy_from": _copy,
    "copy_to": _copy,
    "close": _close,
}


def _run(connection: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call psycopg2's own method, and note its error: see ``note_error``.

    The connection's ``statement`` is forgotten then.
    """
    is_tracked = isinstance(connection, TrackedConnection)
    try:
        return method(*args, **kwargs)
    except psycopg2.Error as error:
        if is_tracked:
            connection.note_error(error)
        raise
    finally:
        if is_tracked:
            connection.statement = None


def _text(query: Any, cursor: Any) -> tuple[Any, str]:
    """Return a statement as psycopg2 takes it, and its text.

    What psycopg2 would render is rendered, so that no second rendering differs.
    """
    if isinstance(query, sql.Composable):
        query = query.as_string(cursor)
    if isinstance(query, str):
        query = str.__str__(query)
        return query, query
    if isinstance(query, bytes):
        return query, _decoded(query, cursor.connection)
    return query, ""  # psycopg2 raises TypeError


def _decoded(statement: bytes, connection: TrackedConnection) -> str:
    """Return the text of a statement that psycopg2 sends as it is."""
    try:
        codec = extensions.encodings[connection.encoding]
        return bytes.decode(statement, codec)
    except (KeyError, UnicodeDecodeError):
        # The server may read something else in it.
        text = bytes.decode(statement, "utf-8", "replace")
        connection.mark_dirty(statement=text)
        return text
