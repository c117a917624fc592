"""The errors of a pool. They know no driver and no Django.

Django code meets them as ``django.db.OperationalError``: see
``dbpool_mw.binding.errors``. PoolTimeout, TooManyRequests and PoolClosed have the names
that psycopg_pool gives them.
"""

from __future__ import annotations

from .text import one_line


class PoolError(Exception):
    """A pool could not do what was asked of it.

    ``alias`` is the pool's name. ``summary`` is the first sentence of the text and may
    be shown to a client; ``details`` names holders and their paths, and may not. The
    three are its ``args``, by which pickle and Celery rebuild an error elsewhere. Both
    texts are made one printable line: what they quote comes from outside.
    """

    def __init__(self, alias: str, summary: str, details: str = "") -> None:
        summary, details = one_line(summary), one_line(details)
        super().__init__(alias, summary, details)
        self.alias = alias
        self.summary = summary
        self.details = details

    def __str__(self) -> str:
        """Return the summary, and the details if there are any."""
        return f"{self.summary}; {self.details}" if self.details else self.summary


class PoolTimeout(PoolError):
    """No connection became free within the time that the caller would wait."""


class TooManyRequests(PoolError):
    """MAX_WAITING callers are waiting, so this one was refused at once."""


class ConnectFailed(PoolError):
    """No connection could be opened; the text ends with the client library's.

    ``may_wait`` tells a caller that was eager, and now needs the connection, to wait as
    others do: little time has gone, and connections or other attempts may help.
    """

    may_wait = False


class PoolClosed(PoolError):
    """The pool is closed and gives no connection any more."""


class ResetFailed(Exception):
    """A session could not be reset, so that its connection has to be closed.

    It is no PoolError: nobody asked the pool for anything.
    """


class ResetRefused(ResetFailed):
    """No session of this server or database can be reset; the text says why.

    The statements of a reset are refused, or don't bring back what a new session has.
    """


class HoldEnded(Exception):
    """A holder's statement was cancelled, and every later one raises this.

    It is no PoolError: the holder had its connection.
    """


class HoldTooLong(HoldEnded):
    """A connection was held longer than MAX_HOLD, and its statement was cancelled."""


class HoldCancelled(HoldEnded):
    """An operator cancelled this hold: ``dbpool_drain --cancel``."""
