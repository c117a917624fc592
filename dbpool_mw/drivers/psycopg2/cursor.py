"""Cursors that tell their connection what each statement may do to its session."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from inspect import unwrap
from typing import Any

import psycopg2
from psycopg2 import extensions, extras, sql

from dbpool_mw.drivers.postgresql.statements import CLEAN, MARK, effect

#: Types whose values psycopg2 writes into a statement as literals, or as numbers. A
#: value of any other type, such as ``AsIs``, may become code.
_LITERALS = frozenset(
    {
        *(type(None), bool, int, float, str, bytes, bytearray, memoryview),
        *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta),
        *(decimal.Decimal, uuid.UUID),
        *(extras.Json, extras.Inet, extras.NumericRange, extras.DateRange),
        *(extras.DateTimeRange, extras.DateTimeTZRange),
        *(extensions.Binary, extensions.QuotedString),
    }
)

_SEQUENCES = (tuple, list)


class TrackedCursor(extensions.cursor):
    """A cursor of a ``TrackedConnection``, opened by ``connection.cursor()``."""

    connection: Any
    #: The connection's ``lease`` when the cursor was opened.
    lease: int | None = None
    #: Whether a statement that was tracked is running.
    is_tracking = False

    # Every statement is executed by it. psycopg2's own method is called directly where
    # no other class overrides it: see ``tracked_cursor``.
    _execute: Any = unwrap(extensions.cursor.execute)

    def execute(self, query: Any, vars: Any = None) -> None:
        self._track(query, vars)
        try:
            self._execute(query, vars)
        except psycopg2.Error as error:
            self._raise_aborted(error)
            raise
        if self.name is not None:
            connection = self.connection
            connection.maybe_dirty = True
            connection.open_cursors.add(self.name)

    def _execute_by_base(self, query: Any, vars: Any) -> None:
        self._run(super().execute, query, vars)

    def executemany(self, query: Any, vars_list: Iterable[Any]) -> None:
        self._track(query, None)
        self._run(super().executemany, query, self._tracked_each(query, vars_list))

    def _tracked_each(self, query: Any, vars_list: Iterable[Any]) -> Iterator[Any]:
        for vars in vars_list:
            self._track(query, vars)
            yield vars

    def callproc(self, procname: Any, parameters: Any = None) -> Any:
        self._track(f"SELECT * FROM {procname}()", None)
        more = [] if parameters is None else [parameters]
        return self._run(super().callproc, procname, *more)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        self._track(sql, None)
        self._run(super().copy_expert, sql, file, size)

    # These two write a COPY of a table themselves, which leaves nothing behind.

    def copy_from(self, file: Any, *args: Any, **kwargs: Any) -> None:
        self._check()
        self._run(partial(super().copy_from, **kwargs), file, *args)

    def copy_to(self, file: Any, *args: Any, **kwargs: Any) -> None:
        self._check()
        self._run(partial(super().copy_to, **kwargs), file, *args)

    def _track(self, query: Any, vars: Any) -> None:
        """Record what a statement may do to the session, before it is sent."""
        connection = self.connection
        if connection.aborted is not None or self.lease != connection.lease:
            self._check()
        text = query if type(query) is str else text_of(query, self)
        if vars and (MARK in text or not _are_literals(vars)):
            # What psycopg2 refuses here, it would refuse when the statement is run.
            text = self.mogrify(query, vars).decode("utf-8", "replace")
        found = effect(text)
        if found is not CLEAN:
            connection.mark_dirty(found.not_resettable)

    def _check(self) -> None:
        """Refuse to run a statement for a holder that has lost the connection.

        Raises the error that the connection was aborted with, and InterfaceError for a
        cursor from before the connection's last checkin: another holder may have the
        connection.
        """
        connection = self.connection
        if connection.aborted is not None:
            raise connection.aborted.with_traceback(None)
        if self.lease != connection.lease and self.lease is not None:
            raise psycopg2.InterfaceError(
                "cursor used after its connection was given back to the pool"
            )

    def _run(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call psycopg2's own method; where an abort ended it, raise its error."""
        self.is_tracking = True
        try:
            return method(*arguments)
        except psycopg2.Error as error:
            self._raise_aborted(error)
            raise
        finally:
            self.is_tracking = False

    def _raise_aborted(self, error: psycopg2.Error) -> None:
        """Raise the error that the connection was aborted with, if it was."""
        aborted = self.connection.aborted
        if aborted is not None:
            raise aborted.with_traceback(None) from error

    def close(self) -> None:
        super().close()
        if self.name is not None:
            self.connection.open_cursors.discard(self.name)


# Bounded: django-prometheus makes a cursor class for each connection it opens.
@lru_cache(maxsize=256)
def tracked_cursor(base: Any) -> Any:
    """Return a cursor class with tracking mixed in."""
    made: Any = mixed(TrackedCursor, base)
    if base.execute is not extensions.cursor.execute:
        made._execute = TrackedCursor._execute_by_base
    return made


def mixed(tracked: type, base: type) -> type:
    """Return a class that is both; one of them if it is the other already."""
    if issubclass(base, tracked):
        return base
    if issubclass(tracked, base):
        return tracked
    return type(base.__name__, (tracked, base), {"__module__": base.__module__})


def text_of(query: Any, cursor: extensions.cursor) -> str:
    """Return the text of whatever psycopg2 takes for a statement."""
    if isinstance(query, str):
        return query
    if isinstance(query, sql.Composable):
        return query.as_string(cursor)
    if isinstance(query, (bytes, bytearray)):
        return query.decode("utf-8", "replace")
    return ""  # psycopg2 raises TypeError


def _are_literals(values: Any) -> bool:
    """Tell whether psycopg2 writes each value as a literal, whatever it contains."""
    # The look at the type spares most values isinstance(), which costs more.
    if type(values) not in _SEQUENCES and isinstance(values, Mapping):
        values = values.values()
    for value in values:
        kind = type(value)
        if kind not in _LITERALS and not (kind in _SEQUENCES and _are_literals(value)):
            return False
    return True
