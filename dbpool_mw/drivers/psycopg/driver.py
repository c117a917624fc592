"""The driver for psycopg 3: ``dbpool_mw.drivers.Driver`` as a module."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

import psycopg

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

from .connection import track
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

Error = psycopg.Error
OperationalError = psycopg.OperationalError

track_all_cursors()


def connection_params(params: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return an ENGINE's parameters as those of a connection for the pool.

    Limits for an unresponsive network are added where the parameters set none;
    ``seconds`` is how long connecting may take then.
    """
    return with_network_limits(params, seconds)


def end_attempt(error: BaseException | None) -> None:
    """Close the socket of an attempt that timed out or was interrupted.

    psycopg leaves that to the end of a local variable of its own.
    """
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals.get("__name__", "").startswith("psycopg."):
                frame.clear()
        error = error.__cause__
