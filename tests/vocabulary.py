"""What the tests do to a connection, in the words of the library that they run on.

Importing this module imports the library, which a process that is patched (by gevent,
or by a tracer) has to do later: so it is for tests, not for what they start.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest

from tests.library import IS_PSYCOPG, LIBRARY

library: Any = import_module(LIBRARY)
Error = library.Error
InterfaceError = library.InterfaceError
OperationalError = library.OperationalError
QueryCanceled = library.errors.QueryCanceled

_FOLDER = f"dbpool_mw.drivers.{LIBRARY}"
cancel: Any = import_module(f"{_FOLDER}.cancel")
driver: Any = import_module(f"{_FOLDER}.driver")
session: Any = import_module(f"{_FOLDER}.session")
_connection: Any = import_module(f"{_FOLDER}.connection")
TrackedConnection = _connection.TrackedConnection

#: Whether this psycopg has raw cursors. Those that have none keep no notifications for
#: an iterator, and cancel while no other thread runs, also one that has a proxy.
HAS_RAW_CURSORS = hasattr(library, "RawCursor")
since_psycopg_32 = pytest.mark.skipif(
    IS_PSYCOPG and not HAS_RAW_CURSORS,
    reason="psycopg 3.1 has no raw cursors, keeps no notifications, and stops all "
    "threads while it cancels",
)

#: The library's class of connections, and that of the cursors that Django uses.
Connection = _connection.Connection
Cursor: Any

#: The attribute of a connection that makes its transactions read-only, and the value
#: of ``isolation_level`` for the strictest ones.
READ_ONLY: str
SERIALIZABLE: Any

if IS_PSYCOPG:
    import psycopg
    from psycopg.adapt import Dumper
    from psycopg.conninfo import make_conninfo
    from psycopg.rows import dict_row

    Cursor = psycopg.ClientCursor
    READ_ONLY, SERIALIZABLE = "read_only", psycopg.IsolationLevel.SERIALIZABLE
    make_dsn = make_conninfo

    class Writes:
        """A parameter that writes itself, each time in another form if it has more."""

        def __init__(self, *forms: bytes) -> None:
            self.forms = list(forms)

        def form(self) -> bytes:
            return self.forms.pop(0) if len(self.forms) > 1 else self.forms[0]

    class WritesDumper(Dumper):
        """As a dumper of the project's: psycopg's own ones quote what they get."""

        def dump(self, obj: Any) -> bytes:
            return obj.form()

        def quote(self, obj: Any) -> bytes:
            return obj.form()

    psycopg.adapters.register_dumper(Writes, WritesDumper)

    def connect(dsn: str, *, autocommit: bool = False, **params: Any) -> Any:
        """Open a connection that no pool knows, with cursors as Django's."""
        params = {"cursor_factory": Cursor, "prepare_threshold": None, **params}
        return psycopg.connect(dsn, autocommit=autocommit, **params)

    def tracked(dsn: str, kind: Any = Connection, **params: Any) -> Any:
        """Open a connection of a class, as the pool does."""
        params = {"cursor_factory": Cursor, "prepare_threshold": None, **params}
        made = kind.connect(dsn, **params)
        assert driver.track(made)
        return made

    def copy_out(cursor: Any, statement: Any) -> None:
        """Run a COPY ... TO STDOUT to its end."""
        with cursor.copy(statement) as copy:
            for _ in copy:
                pass

    def copy_in(cursor: Any, statement: Any, data: str = "") -> None:
        """Run a COPY ... FROM STDIN."""
        with cursor.copy(statement) as copy:
            copy.write(data)

    def break_copy_off(cursor: Any, statement: Any) -> None:
        """Begin a COPY, and fail in the middle of it."""
        with cursor.copy(statement) as copy:
            if "TO STDOUT" in statement:
                next(iter(copy))
            raise ZeroDivisionError

    def choose_dicts(connection: Any) -> None:
        """Have the connection's cursors return mappings from now on."""
        connection.row_factory = dict_row

    def cursor_of(connection: Any, kind: Any) -> Any:
        """Make a cursor of a class of the project's."""
        return kind(connection)

    def named_by_class(connection: Any, name: str) -> Any:
        """Make a named cursor WITH HOLD that the connection knows nothing of."""
        return psycopg.ServerCursor(connection, name, withhold=True)

else:
    import io

    import psycopg2
    import psycopg2.extras
    from psycopg2 import extensions

    Cursor = extensions.cursor
    READ_ONLY, SERIALIZABLE = "readonly", extensions.ISOLATION_LEVEL_SERIALIZABLE
    make_dsn = extensions.make_dsn

    class Writes:  # type: ignore[no-redef]
        """A parameter that writes itself, each time in another form if it has more."""

        def __init__(self, *forms: bytes) -> None:
            self.forms = list(forms)

        def __conform__(self, protocol: object) -> object:
            return self if protocol is extensions.ISQLQuote else None

        def getquoted(self) -> bytes:
            return self.forms.pop(0) if len(self.forms) > 1 else self.forms[0]

    def connect(dsn: str, *, autocommit: bool = False, **params: Any) -> Any:
        """Open a connection that no pool knows, with cursors as Django's."""
        made = psycopg2.connect(dsn, **params)
        made.autocommit = autocommit
        return made

    def tracked(
        dsn: str, kind: Any = Connection, autocommit: bool = False, **params: Any
    ) -> Any:
        """Open a connection of a class, as the pool does."""
        factory = _connection.tracked_connection(kind)
        made = psycopg2.connect(dsn, connection_factory=factory, **params)
        if autocommit:
            made.autocommit = True
        return made

    def copy_out(cursor: Any, statement: Any) -> None:
        """Run a COPY ... TO STDOUT to its end."""
        cursor.copy_expert(statement, io.StringIO())

    def copy_in(cursor: Any, statement: Any, data: str = "") -> None:
        """Run a COPY ... FROM STDIN."""
        cursor.copy_expert(statement, io.StringIO(data))

    class _BreaksOff:
        """A file whose methods raise."""

        def write(self, data: str) -> int:
            raise ZeroDivisionError

        def read(self, size: int) -> str:
            raise ZeroDivisionError

    def break_copy_off(cursor: Any, statement: Any) -> None:
        """Begin a COPY, and fail in the middle of it."""
        cursor.copy_expert(statement, _BreaksOff())

    def choose_dicts(connection: Any) -> None:
        """Have the connection's cursors return mappings from now on."""
        connection.cursor_factory = psycopg2.extras.RealDictCursor

    def cursor_of(connection: Any, kind: Any) -> Any:
        """Make a cursor of a class of the project's."""
        return connection.cursor(cursor_factory=kind)

    def named_by_class(connection: Any, name: str) -> Any:
        """Make a named cursor WITH HOLD that the connection knows nothing of."""
        cursor = extensions.cursor(connection, name)
        cursor.withhold = True
        return cursor


class AsIs(Writes):
    """A parameter that is code."""

    def __init__(self, code: str) -> None:
        super().__init__(code.encode())


def close_all(kept: list[Any]) -> None:
    """Close cursors, iterators and blocks, and forget them.

    psycopg warns of a named cursor that nobody closed.
    """
    for each in kept:
        with suppress(Exception):
            getattr(each, "gen", each).close()
    kept.clear()


def execute(connection: Any, *statements: Any) -> Any:
    """Execute statements on a cursor of the connection's; return the last one's row."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchone() if cursor.description else None


def sqlstate(error: BaseException | None) -> str | None:
    """Return the SQLSTATE of the library's error, None if it is none."""
    return error.diag.sqlstate if isinstance(error, Error) else None


def heard(connection: Any) -> list[Any]:
    """Return what the library keeps of what the server said unasked."""
    if IS_PSYCOPG:
        return list(getattr(connection, "_notifies_backlog", None) or ())
    return [*connection.notices, *connection.notifies]


def parameters(connection: Any) -> dict[str, str]:
    """Return what libpq was told when the connection was opened, but the password."""
    if IS_PSYCOPG:
        return dict(connection.info.get_parameters())
    return dict(connection.info.dsn_parameters)


class _Opaque:
    """A connection of the library's in an object of another kind."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def connect_strangely(params: dict[str, Any]) -> Any:
    """Open a connection as an ENGINE that makes one that no driver can track."""
    if IS_PSYCOPG:
        return _Opaque(library.connect(**params))
    return library.connect(**{**params, "connection_factory": None})
