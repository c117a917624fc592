"""A pool's errors as Django code meets them.

Each is what the pool raised and a ``django.db.OperationalError`` as well, so that code
catches either. Django's own wrapping of database errors leaves them as they are: it
wraps errors of the database library only.
"""

from __future__ import annotations

import builtins
from typing import Any

from django.db import OperationalError

from dbpool_mw.core import errors


class PoolError(errors.PoolError, OperationalError):
    """A pool could not do what was asked of it."""


class PoolTimeout(errors.PoolTimeout, PoolError):
    """No connection became free within the time that the caller would wait."""


class TooManyRequests(errors.TooManyRequests, PoolError):
    """MAX_WAITING callers are waiting, so this one was refused at once."""


class ConnectFailed(errors.ConnectFailed, PoolError):
    """No connection could be opened."""


class PoolClosed(errors.PoolClosed, PoolError):
    """The pool is closed and gives no connection any more."""


_KINDS: dict[type[errors.PoolError], type[PoolError]] = {
    errors.PoolTimeout: PoolTimeout,
    errors.TooManyRequests: TooManyRequests,
    errors.ConnectFailed: ConnectFailed,
    errors.PoolClosed: PoolClosed,
}


def for_django(error: errors.PoolError, more: str = "") -> PoolError:
    """Return a pool's error as one of Django's, to be raised from the first.

    ``more`` is added to its details.
    """
    kind = _KINDS.get(type(error), PoolError)
    details = "; ".join(filter(None, (error.details, more)))
    return kind(error.alias, error.summary, details)


#: What an exception group is an instance of; nothing in Python 3.10, which has none.
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())


def find_pool_error(exception: BaseException) -> PoolError | None:
    """Return the pool's error that an exception is, the first one of a group's.

    None for an exception of the project's, and for a group that has one: in it or in a
    group inside of it, as ``asyncio.TaskGroup`` nests them. The causes don't count:
    whoever raises another error from a pool's means the other one.
    """
    if isinstance(exception, PoolError):
        return exception
    if not isinstance(exception, _GROUP):
        return None
    first, *others = map(find_pool_error, exception.exceptions)
    return None if None in others else first
