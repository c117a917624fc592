"""The session of a psycopg2 connection: is it clean, and how is it made clean again.

A session has two halves: the server's, and psycopg2's own memory of it.

What the pool sends itself passes by the project's cursors, and by tracers such as
OpenTelemetry's and ddtrace: no request asked for it, and it comes after the request's
end, so that each statement would begin a trace of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import extensions

from dbpool_mw.core.errors import ResetRefused
from dbpool_mw.drivers.postgresql.libpq import ACTIVE, IDLE, IN_TRANSACTION, UNKNOWN
from dbpool_mw.drivers.postgresql.reset import (
    is_refusal,
    opening_statement,
    reset_statement,
)
from dbpool_mw.drivers.postgresql.session import refuse_in_vain, reported
from dbpool_mw.drivers.postgresql.tracked import unwrapped

Connection = extensions.connection


@dataclass(frozen=True, slots=True)
class SessionAttributes:
    """What psycopg2 and libpq know of a session.

    ``notices``, ``notifies``, ``string_types`` and ``binary_types`` are psycopg2's own
    lists and dicts; ``type_casters`` has what the dicts had: dict, OID and type caster.
    ``pinned`` has names and values of settings that Django and psycopg2 rely on: see
    ``pin``.
    """

    autocommit: bool
    isolation_level: Any
    readonly: Any
    deferrable: Any
    cursor_factory: Any
    encoding: str
    notices: Any
    notifies: Any
    string_types: dict[Any, Any]
    binary_types: dict[Any, Any]
    type_casters: tuple[tuple[dict[Any, Any], Any, Any], ...]
    pinned: tuple[tuple[str, str], ...]


def session_attributes(connection: Connection) -> SessionAttributes:
    """Return what the client knows of a session; no round trip."""
    registered = (connection.string_types, connection.binary_types)
    return SessionAttributes(
        connection.autocommit,
        connection.isolation_level,
        connection.readonly,
        connection.deferrable,
        connection.cursor_factory,
        connection.encoding,
        connection.notices,
        connection.notifies,
        *registered,
        tuple((types, *item) for types in registered for item in types.items()),
        reported(connection),
    )


def _send(connection: Connection, statement: str) -> None:
    """Execute a statement of the pool's own on an unwrapped connection."""
    with extensions.cursor(connection) as cursor:
        cursor.execute(statement)


def is_clean(connection: Any, initial: SessionAttributes) -> bool:
    """Tell whether another holder can use a connection just as it is.

    Reads libpq's and psycopg2's memory: no round trip, and may be called under a lock.
    """
    if (
        connection.get_transaction_status() != IDLE
        or connection.maybe_dirty
        or connection.autocommit != initial.autocommit
        or initial.notices
        or initial.notifies
        or len(initial.string_types) + len(initial.binary_types)
        != len(initial.type_casters)
    ):
        return False
    # By identity: casters of the same types are equal to psycopg2, whatever they do. A
    # generator would cost twice as much as the loop.
    for types, oid, caster in initial.type_casters:  # noqa: SIM110
        if types.get(oid) is not caster:
            return False
    return True


def why_unusable(connection: Any) -> str | None:
    """Return the reason why a connection can't be cleaned at all, None if it can."""
    if connection.closed:
        return "closed"
    status = connection.get_transaction_status()
    if status == ACTIVE:
        return "busy"
    if status == UNKNOWN:
        return "dead"
    if connection.status == extensions.STATUS_PREPARED or connection.async_:
        return "two-phase transaction"
    if connection.open_cursors:
        # Code that still has the cursor object would close the cursor in the session of
        # the next holder.
        return "cursor left open"
    return None


def roll_back(connection: Connection) -> bool:
    """End an open transaction; return whether there was one.

    One round trip if there was. Raises psycopg2.Error when the connection is broken.
    """
    connection = unwrapped(connection)
    if connection.get_transaction_status() == IDLE:
        connection.rollback()
        return False
    connection.rollback()
    # psycopg2 sends nothing for a transaction that it did not begin itself, as after a
    # BEGIN in SQL with autocommit on.
    if connection.get_transaction_status() != IDLE:
        _send(connection, "ROLLBACK")
    return True


def forget_session(connection: Any, initial: SessionAttributes) -> None:
    """Undo everything that was set in the session; not in a transaction.

    One round trip, and one more for each characteristic that was set through psycopg2's
    attributes. What Django and the application set up when the connection was opened is
    gone as well, but for what is pinned: the caller has to do it again. Raises
    psycopg2.Error when the connection is broken, or when a statement did what no reset
    undoes, and ResetRefused.
    """
    refuse_in_vain(connection)
    connection = unwrapped(connection)
    connection.autocommit = True
    try:
        _send(connection, reset_statement(initial.pinned))
    except psycopg2.Error as error:
        if is_refusal(error.pgcode):
            raise ResetRefused("the server refuses to reset a session") from error
        raise
    # psycopg2 keeps its own copies. It sends the characteristics with BEGIN, or as
    # defaults of the session when autocommit is switched on, and it encodes texts.
    connection.autocommit = False
    connection.isolation_level = initial.isolation_level
    connection.readonly = initial.readonly
    connection.deferrable = initial.deferrable
    connection.cursor_factory = initial.cursor_factory
    if connection.encoding != initial.encoding:
        connection.set_client_encoding(initial.encoding)
    accept(connection, initial)
    connection.look_for_failover()


def pin(connection: Any) -> None:
    """Set what Django and psycopg2 rely on for the session; one round trip.

    A value that comes from the server's configuration changes with a reload of that
    configuration, in the middle of a session: then moments are read in another time
    zone than Django's, and dates not at all. One that was set in the session stays.
    The same round trip tells which login triggers have run.
    """
    connection = unwrapped(connection)
    statement = opening_statement(reported(connection), connection.server_version)
    if statement:
        with extensions.cursor(connection) as cursor:
            cursor.execute(statement)
            if cursor.description:
                [(connection.login_triggers,)] = cursor.fetchall()


def mark_clean(connection: Any) -> None:
    """Take the session as it is now for a clean one."""
    connection.notices.clear()
    connection.notifies.clear()
    connection.maybe_dirty = connection.dirty = False


def keep_set_up(connection: Connection) -> None:
    """Take the session as it was just set up for a clean one.

    With autocommit off, the set-up leaves a transaction open, and the rollback of the
    first holder would undo it for all later ones: it is committed, one round trip.
    """
    if connection.get_transaction_status() == IN_TRANSACTION:
        unwrapped(connection).commit()
    mark_clean(connection)


def accept(connection: Any, initial: SessionAttributes) -> None:
    """Take a session for a clean one, with psycopg2's half put back; no round trip.

    Not in a transaction. For a session that is clean, or that was reset.
    """
    connection.autocommit = initial.autocommit
    connection.notices, connection.notifies = initial.notices, initial.notifies
    initial.string_types.clear()
    initial.binary_types.clear()
    for types, oid, caster in initial.type_casters:
        types[oid] = caster
    mark_clean(connection)


def ping(connection: Any) -> bool:
    """Return whether the server answers and is the one to use; one round trip.

    Raises no psycopg2.Error.
    """
    connection = unwrapped(connection)
    try:
        _send(connection, "SELECT 1")
        if not connection.autocommit:
            connection.rollback()
    except psycopg2.Error:
        return False
    return not connection.look_for_failover()


def backend_pid(connection: Connection) -> int | None:
    """Return the server's process id for a connection, None if it is closed."""
    try:
        return connection.get_backend_pid()
    except psycopg2.Error:
        return None
