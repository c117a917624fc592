"""The driver for psycopg2: ``dbpool_mw.drivers.Driver`` as a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg2

from dbpool_mw.drivers.postgresql.libpq import with_network_limits
from dbpool_mw.drivers.postgresql.masking import shown
from dbpool_mw.drivers.postgresql.session import (
    change,
    in_transaction,
    is_dirty,
    on_failover,
    statement,
)
from dbpool_mw.drivers.postgresql.sockets import (
    abort,
    close,
    has_ended,
    liveness,
    shut_down,
    socket_number,
)

from .connection import TrackedConnection, tracked_connection
from .session import (
    accept,
    backend_pid,
    forget_session,
    is_clean,
    keep_set_up,
    pin,
    ping,
    roll_back,
    session_attributes,
    why_unusable,
)
from .tracking import track_all_cursors

__all__ = [
    "Error",
    "OperationalError",
    "abort",
    "accept",
    "backend_pid",
    "change",
    "close",
    "connection_params",
    "end_attempt",
    "forget_session",
    "has_ended",
    "in_transaction",
    "is_clean",
    "is_dirty",
    "keep_set_up",
    "liveness",
    "on_failover",
    "pin",
    "ping",
    "roll_back",
    "session_attributes",
    "shown",
    "shut_down",
    "socket_number",
    "statement",
    "track",
    "why_unusable",
]

Error = psycopg2.Error
OperationalError = psycopg2.OperationalError

track_all_cursors()


def connection_params(params: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return an ENGINE's parameters as those of a connection for the pool.

    The connection's class is a TrackedConnection. Limits for an unresponsive network
    are added where the parameters set none; ``seconds`` is how long connecting may take
    then. Raises TypeError for a ``connection_factory`` that is no class.
    """
    factory = tracked_connection(params.get("connection_factory"))
    return {**with_network_limits(params, seconds), "connection_factory": factory}


def track(connection: object) -> bool:
    """Tell whether a connection was made with the parameters of this driver.

    psycopg2's connections can't be made to remember anything later.
    """
    return isinstance(connection, TrackedConnection)


def end_attempt(error: BaseException) -> None:
    """Do nothing: a ``TrackedConnection`` that can't be opened closes itself."""
