"""The session of a psycopg2 connection: is it clean, and how is it made clean again.

A session has two halves: the server's, and psycopg2's own memory of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg2
from psycopg2 import extensions

Connection = extensions.connection

#: What libpq says of a connection that is in no transaction, and of one that is busy.
IDLE = extensions.TRANSACTION_STATUS_IDLE
ACTIVE = extensions.TRANSACTION_STATUS_ACTIVE
_IN_TRANSACTION = extensions.TRANSACTION_STATUS_INTRANS
_UNKNOWN = extensions.TRANSACTION_STATUS_UNKNOWN


class SessionAttributes(NamedTuple):
    """What psycopg2's own attributes say of a session."""

    autocommit: bool
    isolation_level: Any
    readonly: Any
    deferrable: Any
    cursor_factory: Any


def session_attributes(connection: Connection) -> SessionAttributes:
    """Return what psycopg2's own attributes say of a session; no round trip."""
    return SessionAttributes(
        connection.autocommit,
        connection.isolation_level,
        connection.readonly,
        connection.deferrable,
        connection.cursor_factory,
    )


def is_clean(connection: Any, initial: SessionAttributes) -> bool:
    """Tell whether another holder can use a connection just as it is.

    Reads libpq's and psycopg2's memory: no round trip, and may be called under a lock.
    """
    return (
        connection.get_transaction_status() == IDLE
        and not connection.maybe_dirty
        and connection.autocommit == initial.autocommit
    )


def is_dirty(connection: Any) -> bool:
    """Tell whether the session has to be reset before another holder gets it."""
    return bool(connection.dirty)


def why_unusable(connection: Any) -> str | None:
    """Return the reason why a connection can't be cleaned at all, None if it can."""
    if connection.closed:
        return "closed"
    status = connection.get_transaction_status()
    if status == ACTIVE:
        return "busy"
    if status == _UNKNOWN:
        return "dead"
    if connection.open_cursors:
        # Code that still has the cursor object would close the cursor in the session of
        # the next holder.
        return "cursor left open"
    return None


def roll_back(connection: Connection) -> bool:
    """End an open transaction; return whether there was one.

    One round trip if there was. Raises psycopg2.Error when the connection is broken.
    """
    if connection.get_transaction_status() == IDLE:
        connection.rollback()
        return False
    connection.rollback()
    # psycopg2 sends nothing for a transaction that it did not begin itself, as after a
    # BEGIN in SQL with autocommit on.
    if connection.get_transaction_status() != IDLE:
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")
    return True


def forget_session(connection: Any, initial: SessionAttributes) -> None:
    """Undo everything that was set in the session; not in a transaction.

    One round trip, and one more for each session characteristic that was changed or
    that ``initial`` sets. What Django and the application set up when the connection
    was opened is gone as well: the caller has to do it again. Raises psycopg2.Error
    when the connection is broken, or when a statement did what no reset undoes.
    """
    if connection.not_resettable is not None:
        raise psycopg2.NotSupportedError(
            f"DISCARD ALL does not undo {connection.not_resettable}"
        )
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("DISCARD ALL")
    # psycopg2 keeps its own copy of the characteristics. It sends them with BEGIN, or
    # as defaults of the session when autocommit is switched on.
    connection.autocommit = False
    connection.isolation_level = initial.isolation_level
    connection.readonly = initial.readonly
    connection.deferrable = initial.deferrable
    connection.cursor_factory = initial.cursor_factory
    connection.autocommit = initial.autocommit
    connection.notifies.clear()
    mark_clean(connection)


def mark_clean(connection: Any) -> None:
    """Take the session as it is now for a clean one."""
    connection.notices.clear()
    connection.maybe_dirty = connection.dirty = False


def keep_set_up(connection: Connection) -> None:
    """Take the session as it was just set up for a clean one.

    With autocommit off, the set-up leaves a transaction open, and the rollback of the
    first holder would undo it for all later ones: it is committed, one round trip.
    """
    if connection.get_transaction_status() == _IN_TRANSACTION:
        connection.commit()
    mark_clean(connection)


def accept(connection: Any, initial: SessionAttributes) -> None:
    """Take a session for a clean one, with autocommit put back; no round trip.

    Not in a transaction. For a session that is clean, or that a function of the user's
    has reset.
    """
    connection.autocommit = initial.autocommit
    mark_clean(connection)


def ping(connection: Connection) -> bool:
    """Return whether the server answers; one round trip, no psycopg2.Error."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if not connection.autocommit:
            connection.rollback()
    except psycopg2.Error:
        return False
    return True


def backend_pid(connection: Connection) -> int | None:
    """Return the server's process id for a connection, None if it is closed."""
    try:
        return connection.get_backend_pid()
    except psycopg2.Error:
        return None
