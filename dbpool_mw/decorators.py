"""Views that need no database."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from inspect import iscoroutinefunction
from typing import Any

from django.urls import Resolver404, resolve

#: The attribute of decorated views; Django's ``as_view()`` copies it from ``dispatch``.
_NO_POOL = "dbpool_mw_no_pool"

#: Whether a view was decorated in this process so far.
used = False


def no_pool(view: Callable[..., Any]) -> Callable[..., Any]:
    """Serve a view, sync or async, without checking a connection out for it.

    The view then works while the pool is exhausted or the database is down. A query in
    the view still works: it checks a connection out. For a class-based view, decorate
    what ``as_view()`` returns, or ``dispatch`` with ``method_decorator``.
    """
    global used
    used = True

    if iscoroutinefunction(view):

        @wraps(view)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            return await view(*args, **kwargs)

    else:

        @wraps(view)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return view(*args, **kwargs)

    setattr(wrapped, _NO_POOL, True)
    return wrapped


@lru_cache(maxsize=512)
def needs_no_pool(path: str) -> bool:
    """Tell whether a path leads to a view decorated with ``no_pool``.

    The cache is there because resolving a path costs more than everything else at the
    start of a request. A change of ROOT_URLCONF must clear it.
    """
    try:
        match: Any = resolve(path)
    except Resolver404:
        return False
    return getattr(match.func, _NO_POOL, False)
