"""The errors of a pool.

They are psycopg2 ``OperationalError``, so that Django's ``DatabaseErrorWrapper`` turns
them into ``django.db.OperationalError`` like any other failure to get a connection. The
three kinds are those of psycopg_pool.
"""

from __future__ import annotations

import psycopg2


class PoolError(psycopg2.OperationalError):
    """A pool could not do what was asked of it.

    ``alias`` is the pool's name. ``summary`` is the first sentence of the text: fit for
    the eyes of a client, where the whole text names holders and their paths.
    """

    def __init__(self, alias: str, summary: str, details: str = "") -> None:
        super().__init__(f"{summary}; {details}" if details else summary)
        self.alias = alias
        self.summary = summary


class PoolTimeout(PoolError):
    """No connection became free within the time that the caller would wait."""


class TooManyRequests(PoolError):
    """MAX_WAITING callers wait already: this one is refused at once."""


class ConnectFailed(PoolError):
    """No connection could be opened; the text ends with what libpq said."""


class HoldTooLong(psycopg2.extensions.QueryCanceledError):
    """A connection was held longer than MAX_HOLD: what its holder ran was cancelled.

    Like what the server sends for a statement that was cancelled; not a PoolError,
    because it isn't that there is no connection.
    """


class PoolClosed(PoolError):
    """The pool was closed; it gives no connection any more."""
