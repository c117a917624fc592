"""What is asked of a session alike, whatever library it was opened with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbpool_mw.core.driver import Change
from dbpool_mw.core.errors import ResetRefused
from dbpool_mw.core.text import REQUEST, one_line

from .failover import takes_writes
from .libpq import ACTIVE, IDLE, UNKNOWN
from .reset import PINNED


def reported(connection: Any) -> tuple[tuple[str, str], ...]:
    """Return the values of the pinned settings, as the server reported them."""
    known = ((name, connection.get_parameter_status(name)) for name in PINNED)
    return tuple((name, value) for name, value in known if value is not None)


def in_transaction(connection: Any) -> bool:
    """Tell whether a transaction goes on, also that of a single statement."""
    return connection.get_transaction_status() not in (IDLE, UNKNOWN)


def statement(connection: Any) -> str | None:
    """Return the text of the statement that runs now, None if none does."""
    text: str | None = connection.statement
    return text if connection.get_transaction_status() == ACTIVE else None


def is_dirty(connection: Any) -> bool:
    """Tell whether the session has to be reset before another holder gets it."""
    return bool(connection.dirty)


def change(connection: Any) -> Change | None:
    """Return what changed a dirty session first, None for one that is clean."""
    if not connection.dirty:
        return None
    stays = connection.not_resettable
    if stays is None and connection.login_triggers is not None:
        stays = f"a login trigger ({connection.login_triggers})"
    return Change(one_line(connection.dirtied_by, REQUEST), stays)


def refuse_in_vain(connection: Any) -> None:
    """Raise an error where no reset makes the session like a new one.

    The library's NotSupportedError for what a statement did, ResetRefused for what is
    true of every session of this server.
    """
    if connection.not_resettable is not None:
        raise connection.NotSupportedError(
            f"no reset undoes {connection.not_resettable}"
        )
    if connection.login_triggers is not None:
        raise ResetRefused(
            f"no reset repeats what a login trigger does ({connection.login_triggers})"
        )


def on_failover(connection: Any, call: Callable[[str], None]) -> None:
    """Have a function called once the server no longer is the one to use; see Driver.

    That is when it took writes at the time of this call and reports that it takes none,
    or says in an error that it shuts down.
    """
    connection.opened_writable = takes_writes(connection.get_parameter_status)
    connection.on_failover = call
