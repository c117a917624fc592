"""The errors of a pool. They know no driver and no Django.

Django code meets them as ``django.db.OperationalError``: see
``dbpool_mw.binding.errors``. The first three kinds are those of psycopg_pool.
"""

from __future__ import annotations


class PoolError(Exception):
    """A pool could not do what was asked of it.

    ``alias`` is the pool's name. ``summary`` is the first sentence of the text and may
    be shown to a client; ``details`` names holders and their paths, and may not.
    """

    def __init__(self, alias: str, summary: str, details: str = "") -> None:
        super().__init__(f"{summary}; {details}" if details else summary)
        self.alias = alias
        self.summary = summary
        self.details = details

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the three arguments: task queues carry errors between processes."""
        return type(self), (self.alias, self.summary, self.details)


class PoolTimeout(PoolError):
    """No connection became free within the time that the caller would wait."""


class TooManyRequests(PoolError):
    """MAX_WAITING callers are waiting, so this one was refused at once."""


class ConnectFailed(PoolError):
    """No connection could be opened; the text ends with the client library's."""


class PoolClosed(PoolError):
    """The pool is closed and gives no connection any more."""


class HoldTooLong(Exception):
    """A connection was held longer than MAX_HOLD, and its statement was cancelled.

    It is no PoolError: the holder had its connection.
    """
