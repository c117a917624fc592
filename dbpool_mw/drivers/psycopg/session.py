"""The session of a psycopg connection: is it clean, and how is it made clean again.

A session has two halves: the server's, and psycopg's own memory of it. What the pool
sends itself passes by the project's cursors, and by tracers: no request asked for it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.rows import tuple_row

from dbpool_mw.core.errors import ResetRefused
from dbpool_mw.drivers.postgresql.libpq import ACTIVE, IDLE, IN_TRANSACTION, UNKNOWN
from dbpool_mw.drivers.postgresql.reset import (
    is_refusal,
    opening_statement,
    reset_statement,
)
from dbpool_mw.drivers.postgresql.session import refuse_in_vain, reported
from dbpool_mw.drivers.postgresql.tracked import unwrapped

#: What psycopg remembers of a session. psycopg has no other way to ask for some of it,
#: and its properties cost more than a checkin should.
_MEMORY = (
    "_autocommit",
    "_isolation_level",
    "_read_only",
    "_deferrable",
    "_prepared.prepare_threshold",
    "_prepared.prepared_max",
    "row_factory",
    "cursor_factory",
    "server_cursor_factory",
    "_notice_handlers",
    "_notify_handlers",
    "_adapters.changed",
    "_adapters.types.changed",
    "_num_transactions",
    "_pipeline",
    "_tpc",
)
_memory = attrgetter(*_MEMORY)


@dataclass(frozen=True, slots=True)
class SessionAttributes:
    """What psycopg and libpq know of a session.

    ``memory`` has the values of ``_MEMORY``, with copies of the lists. ``pinned`` has
    names and values of settings that Django relies on: see ``pin``.
    """

    memory: tuple[Any, ...]
    adapters: AdaptersMap
    pinned: tuple[tuple[str, str], ...]


def session_attributes(connection: Any) -> SessionAttributes:
    """Return what the client knows of a session; no round trip."""
    memory = tuple(
        value[:] if isinstance(value, list) else value for value in _memory(connection)
    )
    return SessionAttributes(
        memory, AdaptersMap(connection.adapters), reported(connection)
    )


def _send(connection: Any, statement: str) -> psycopg.Cursor[Any]:
    """Execute statements of the pool's own on an unwrapped connection."""
    cursor = psycopg.Cursor(connection, row_factory=tuple_row)
    return cursor.execute(statement, prepare=False)


def is_clean(connection: Any, initial: SessionAttributes) -> bool:
    """Tell whether another holder can use a connection just as it is.

    Reads libpq's and psycopg's memory: no round trip, and may be called under a lock.
    """
    return (
        connection.pgconn.transaction_status == IDLE
        and not connection.maybe_dirty
        # An iterator of notifications keeps the lock, and nothing is running.
        and not connection.lock.locked()
        and not connection._notifies_backlog
        and _memory(connection) == initial.memory
    )


def why_unusable(connection: Any) -> str | None:
    """Return the reason why a connection can't be cleaned at all, None if it can."""
    if connection.closed:
        return "closed"
    status = connection.get_transaction_status()
    if status == ACTIVE or connection._pipeline is not None or connection.waits:
        return "busy"
    if status == UNKNOWN:
        return "dead"
    if connection._tpc is not None:
        return "two-phase transaction"
    if connection._num_transactions:
        # Its end would be that of the next holder's transaction.
        return "block left open"
    if connection.open_cursors:
        # Code that still has the cursor object would close the cursor in the session of
        # the next holder.
        return "cursor left open"
    return None


def roll_back(connection: Any) -> bool:
    """End an open transaction; return whether there was one.

    One round trip if there was. Raises psycopg.Error when the connection is broken.
    """
    connection = unwrapped(connection)
    if connection.get_transaction_status() == IDLE:
        return False
    connection.rollback()
    return True


def forget_session(connection: Any, initial: SessionAttributes) -> None:
    """Undo everything that was set in the session; not in a transaction.

    One round trip. What Django and the application set up when the connection was
    opened is gone as well, but for what is pinned: the caller has to do it again.
    Raises psycopg.Error when the connection is broken, or when a statement did what no
    reset undoes, and ResetRefused.
    """
    refuse_in_vain(connection)
    connection = unwrapped(connection)
    connection.autocommit = True
    try:
        _send(connection, reset_statement(initial.pinned))
    except psycopg.Error as error:
        if is_refusal(error.sqlstate):
            raise ResetRefused("the server refuses to reset a session") from error
        raise
    finally:
        # The server has none of the prepared statements any more.
        connection._prepared = type(connection._prepared)()
    accept(connection, initial)
    connection.look_for_failover()


def pin(connection: Any) -> None:
    """Set what Django and psycopg rely on for the session; one round trip.

    A value that comes from the server's configuration changes with a reload of that
    configuration, in the middle of a session: then moments are read in another time
    zone than Django's. One that was set in the session stays. The same round trip tells
    which login triggers have run.
    """
    connection = unwrapped(connection)
    version = connection.pgconn.server_version
    statement = opening_statement(reported(connection), version)
    if statement:
        cursor = _send(connection, statement)
        while cursor.nextset():
            pass
        if cursor.description:
            [(connection.login_triggers,)] = cursor.fetchall()


def keep_set_up(connection: Any) -> None:
    """Take the session as it was just set up for a clean one.

    With autocommit off, the set-up leaves a transaction open, and the rollback of the
    first holder would undo it for all later ones: it is committed, one round trip.
    """
    connection = unwrapped(connection)
    if connection.get_transaction_status() == IN_TRANSACTION:
        connection.commit()
    connection.track_adapters(connection.adapters)
    _mark_clean(connection)


def accept(connection: Any, initial: SessionAttributes) -> None:
    """Take a session for a clean one, with psycopg's half put back; no round trip.

    Not in a transaction. For a session that is clean, or that was reset.
    """
    connection = unwrapped(connection)
    values = dict(zip(_MEMORY, initial.memory, strict=True))
    connection.autocommit = values["_autocommit"]
    connection.isolation_level = values["_isolation_level"]
    connection.read_only = values["_read_only"]
    connection.deferrable = values["_deferrable"]
    prepared = connection._prepared
    prepared.prepare_threshold = values["_prepared.prepare_threshold"]
    prepared.prepared_max = values["_prepared.prepared_max"]
    for name in ("row_factory", "cursor_factory", "server_cursor_factory"):
        setattr(connection, name, values[name])
    connection._notice_handlers[:] = values["_notice_handlers"]
    connection._notify_handlers[:] = values["_notify_handlers"]
    connection.track_adapters(initial.adapters)
    _mark_clean(connection)


def _mark_clean(connection: Any) -> None:
    if connection._notifies_backlog:
        connection._notifies_backlog = deque()
    connection.maybe_dirty = connection.dirty = False


def ping(connection: Any) -> bool:
    """Return whether the server answers and is the one to use; one round trip.

    Raises no psycopg.Error.
    """
    connection = unwrapped(connection)
    try:
        _send(connection, "SELECT 1")
        if not connection.autocommit:
            connection.rollback()
    except psycopg.Error:
        return False
    return not connection.look_for_failover()


def backend_pid(connection: Any) -> int | None:
    """Return the server's process id for a connection, None if it is closed."""
    try:
        return int(connection.pgconn.backend_pid)
    except psycopg.Error:
        return None
