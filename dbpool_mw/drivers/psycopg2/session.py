"""The session of a psycopg2 connection: is it clean, and how is it made clean again.

A session has two halves: the server's, and psycopg2's own memory of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg2
from psycopg2 import extensions

from dbpool_mw.drivers.postgresql.reset import PINNED, reset_statement, set_statement

Connection = extensions.connection

#: What libpq says of a connection that is in no transaction, and of one that is busy.
IDLE = extensions.TRANSACTION_STATUS_IDLE
ACTIVE = extensions.TRANSACTION_STATUS_ACTIVE
_IN_TRANSACTION = extensions.TRANSACTION_STATUS_INTRANS
_UNKNOWN = extensions.TRANSACTION_STATUS_UNKNOWN


class SessionAttributes(NamedTuple):
    """What psycopg2 and libpq know of a session.

    ``notices`` and ``notifies`` are psycopg2's own lists, ``string_types`` and
    ``binary_types`` copies of the type casters registered on the connection, and
    ``type_casters`` their ids. ``pinned`` has names and values of settings that Django
    and psycopg2 rely on: see ``pin``.
    """

    autocommit: bool
    isolation_level: Any
    readonly: Any
    deferrable: Any
    cursor_factory: Any
    encoding: str
    string_types: dict[Any, Any]
    binary_types: dict[Any, Any]
    type_casters: list[int]
    notices: Any
    notifies: Any
    pinned: tuple[tuple[str, str], ...]


def session_attributes(connection: Connection) -> SessionAttributes:
    """Return what the client knows of a session; no round trip."""
    return SessionAttributes(
        connection.autocommit,
        connection.isolation_level,
        connection.readonly,
        connection.deferrable,
        connection.cursor_factory,
        connection.encoding,
        dict(connection.string_types),
        dict(connection.binary_types),
        _type_casters(connection),
        connection.notices,
        connection.notifies,
        _reported(connection),
    )


def _type_casters(connection: Any) -> list[int]:
    """Return which type casters a connection has; psycopg2's ``==`` looks at less."""
    return [
        *map(id, connection.string_types.values()),
        *map(id, connection.binary_types.values()),
    ]


def _reported(connection: Connection) -> tuple[tuple[str, str], ...]:
    """Return the values of the pinned settings, as the server reported them."""
    reported = ((name, connection.get_parameter_status(name)) for name in PINNED)
    return tuple((name, value) for name, value in reported if value is not None)


def is_clean(connection: Any, initial: SessionAttributes) -> bool:
    """Tell whether another holder can use a connection just as it is.

    Reads libpq's and psycopg2's memory: no round trip, and may be called under a lock.
    """
    return (
        connection.get_transaction_status() == IDLE
        and not connection.maybe_dirty
        and connection.autocommit == initial.autocommit
        and not initial.notices
        and not initial.notifies
        and _type_casters(connection) == initial.type_casters
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

    One round trip, and one more for each characteristic that was set through psycopg2's
    attributes. What Django and the application set up when the connection was opened is
    gone as well, but for what is pinned: the caller has to do it again. Raises
    psycopg2.Error when the connection is broken, or when a statement did what no reset
    undoes.
    """
    if connection.not_resettable is not None:
        raise psycopg2.NotSupportedError(f"no reset undoes {connection.not_resettable}")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(reset_statement(initial.pinned))
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


def pin(connection: Connection) -> None:
    """Set what Django and psycopg2 rely on for the session; one round trip.

    A value that comes from the server's configuration changes with a reload of that
    configuration, in the middle of a session: then moments are read in another time
    zone than Django's, and dates not at all. One that was set in the session stays.
    """
    reported = _reported(connection)
    if reported:
        with connection.cursor() as cursor:
            cursor.execute(set_statement(reported))


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
    if connection.get_transaction_status() == _IN_TRANSACTION:
        connection.commit()
    mark_clean(connection)


def accept(connection: Any, initial: SessionAttributes) -> None:
    """Take a session for a clean one, with psycopg2's half put back; no round trip.

    Not in a transaction. For a session that is clean, or that was reset.
    """
    connection.autocommit = initial.autocommit
    connection.notices, connection.notifies = initial.notices, initial.notifies
    for types, of_fresh in (
        (connection.string_types, initial.string_types),
        (connection.binary_types, initial.binary_types),
    ):
        types.clear()
        types.update(of_fresh)
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
