"""Judge each statement before psycopg sends it, whatever cursor sends it.

Django makes some cursors by their classes, without calling any method of the
connection, and a cursor class of the project may send statements of its own. All of
them come to the methods of psycopg's classes in the end: so these are exchanged, once
per process, when this driver is first used. On a connection that isn't pooled such a
method does nothing but look at the connection's class.

A cursor that binds on the server sends its parameters apart from the statement: they
never become code. One that binds on the client writes them into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import psycopg
from psycopg import sql
from psycopg.client_cursor import ClientCursorMixin

from dbpool_mw.drivers.postgresql.statements import CLEAN, harmless, judge

from .connection import TrackedConnection
from .literals import are_literals


def track_all_cursors() -> None:
    """Have every statement on a pooled connection judged, whatever cursor sends it."""
    for owner, wrappers in _WRAPPERS.items():
        for name, wrapper in wrappers.items():
            method = vars(owner).get(name)
            if method is not None and not hasattr(method, _MARK):
                wrapped = wrapper(method)
                setattr(wrapped, _MARK, True)
                setattr(owner, name, wrapped)


#: An attribute of the methods that were exchanged.
_MARK = "_dbpool_mw_tracks"


def _init(method: Callable[..., None]) -> Callable[..., None]:
    @wraps(method)
    def init(self: Any, connection: Any, *args: Any, **kwargs: Any) -> None:
        method(self, connection, *args, **kwargs)
        if isinstance(connection, TrackedConnection):
            connection.set_lease(self)

    return init


def _execute(method: Callable[..., Any]) -> Callable[..., Any]:
    # Every statement of an application comes here.
    @wraps(method)
    def execute(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        connection = self._conn
        if not isinstance(connection, TrackedConnection):
            return method(self, query, params, **options)
        try:
            if (
                connection.aborted is None
                and getattr(self, "lease", None) == connection.lease
                and type(query) is str
                and query in harmless
                and (params is None or _bind_as_literals(self, params))
            ):
                connection.statement = query
            else:
                query, params = _as_sent(connection, self, query, params)
            # An empty ** costs more than the question.
            if options:
                return method(self, query, params, **options)
            return method(self, query, params)
        finally:
            connection.statement = None

    return execute


def _execute_named(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def execute(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        connection = self._conn
        if not isinstance(connection, TrackedConnection):
            return method(self, query, params, **options)
        with _executing(connection):
            query, params = _as_sent(connection, self, query, params)
            method(self, query, params, **options)
        connection.add_open_cursor(self.name)
        return self

    return execute


def _executemany(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def executemany(
        self: Any, query: Any, params_seq: Iterable[Any], **options: Any
    ) -> Any:
        connection = self._conn
        if not isinstance(connection, TrackedConnection):
            return method(self, query, params_seq, **options)
        with _executing(connection):
            connection.check(self)
            query, text = _text(connection, self, query)
            connection.statement = text if isinstance(query, (str, bytes)) else None
            is_final = connection.judge(text).is_final
            params_seq = _judged(connection, self, query, is_final, params_seq)
            return method(self, query, params_seq, **options)

    return executemany


def _judged(
    connection: Any, cursor: Any, query: Any, is_final: bool, params_seq: Iterable[Any]
) -> Iterator[Any]:
    """Yield the parameters of each execution, judged with them where they matter."""
    for params in params_seq:
        are_code = not _bind_as_literals(cursor, params)
        if are_code:
            # psycopg renders them anew.
            connection.mark_dirty()
        if are_code or not is_final:
            connection.judge(_rendered(connection, cursor, query, params))
        yield params


def _stream(method: Callable[..., Any]) -> Callable[..., Any]:
    # psycopg's is a generator, too: it executes at the first row.
    @wraps(method)
    def stream(
        self: Any, query: Any, params: Any = None, **options: Any
    ) -> Iterator[Any]:
        connection = self._conn
        with _executing(connection):
            if isinstance(connection, TrackedConnection):
                query, params = _as_sent(connection, self, query, params)
            yield from method(self, query, params, **options)

    return stream


def _copy(method: Callable[..., Any]) -> Callable[..., Any]:
    @contextmanager
    @wraps(method)
    def copy(
        self: Any, statement: Any, params: Any = None, **options: Any
    ) -> Iterator[Any]:
        connection = self._conn
        with _executing(connection):
            if isinstance(connection, TrackedConnection):
                statement, params = _as_sent(connection, self, statement, params)
            with method(self, statement, params, **options) as copy:
                yield copy

    return copy


def _fetch(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method of a named cursor: it asks the server for its rows."""

    @wraps(method)
    def fetch(self: Any, *args: Any, **kwargs: Any) -> Any:
        connection = self._conn
        if isinstance(connection, TrackedConnection):
            connection.check(self)
        return method(self, *args, **kwargs)

    return fetch


def _close(method: Callable[..., None]) -> Callable[..., None]:
    @wraps(method)
    def close(self: Any) -> None:
        connection = self._conn
        if not isinstance(connection, TrackedConnection):
            return method(self)
        if not connection.is_current(self):
            # The next holder may have a cursor of the same name.
            return psycopg.Cursor.close(self)
        method(self)
        connection.remove_open_cursor(self.name)

    return close


_WRAPPERS: dict[type, dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = {
    psycopg.Cursor: {
        "__init__": _init,
        "execute": _execute,
        "executemany": _executemany,
        "stream": _stream,
        "copy": _copy,
    },
    psycopg.ServerCursor: {
        "execute": _execute_named,
        "fetchone": _fetch,
        "fetchmany": _fetch,
        "fetchall": _fetch,
        "__iter__": _fetch,
        "__next__": _fetch,
        "scroll": _fetch,
        "close": _close,
    },
}


@contextmanager
def _executing(connection: Any) -> Iterator[None]:
    """Forget the connection's ``statement`` at the end of the block."""
    try:
        yield
    finally:
        if isinstance(connection, TrackedConnection):
            connection.statement = None


def _as_sent(
    connection: TrackedConnection, cursor: Any, query: Any, params: Any
) -> tuple[Any, Any]:
    """Judge a statement; return it and its parameters as psycopg is to get them.

    Where the parameters may be code, they are rendered here.
    """
    connection.check(cursor)
    query, text = _text(connection, cursor, query)
    # A template has its parameters in it.
    connection.statement = text if isinstance(query, (str, bytes)) else None
    found = judge(text, connection.reads_escapes)
    if params is not None and not (
        found.is_final and _bind_as_literals(cursor, params)
    ):
        rendered = _rendered(connection, cursor, query, params)
        if isinstance(cursor, ClientCursorMixin):
            query, params = rendered, None
        text = rendered or text  # it has the names of what is called
        found = judge(text, connection.reads_escapes)
    if found.effect is not CLEAN:
        connection.mark_dirty(found.effect.not_resettable, text)
    return query, params


def _bind_as_literals(cursor: Any, params: Any) -> bool:
    """Tell whether no parameter can become code in its statement."""
    return not isinstance(cursor, ClientCursorMixin) or are_literals(cursor, params)


def _text(connection: TrackedConnection, cursor: Any, query: Any) -> tuple[Any, str]:
    """Return a statement as psycopg takes it, and its text.

    What psycopg would render is rendered, so that no second rendering differs.
    """
    if isinstance(query, sql.Composable):
        query = query.as_string(cursor)
    if isinstance(query, str):
        query = str.__str__(query)
        return query, query
    if isinstance(query, bytes):
        try:
            return query, query.decode(connection.info.encoding)
        except UnicodeDecodeError:
            # The server may read something else in it.
            text = query.decode("utf-8", "replace")
            connection.mark_dirty(statement=text)
            return query, text
    return query, _rendered(connection, cursor, query, None)


#: What psycopg, or a dumper, raises for what it can't write as a literal.
_NOT_RENDERED = (
    psycopg.Error,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)


def _rendered(
    connection: TrackedConnection, cursor: Any, query: Any, params: Any
) -> str:
    """Return the text of a statement with its parameters as literals.

    Marks the session as dirty where there is no such text, or it isn't the one that the
    server gets. Raises what psycopg would, and what else comes, such as a time limit.
    """
    if isinstance(cursor, ClientCursorMixin):
        return str(cursor.mogrify(query, params))
    try:
        return str(psycopg.ClientCursor(connection).mogrify(query, params))
    except _NOT_RENDERED:
        # psycopg can execute it all the same, or raises it there.
        connection.mark_dirty()
        return ""
