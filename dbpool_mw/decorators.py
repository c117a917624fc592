"""Views that need no database."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from inspect import iscoroutinefunction
from typing import Any

from django.urls import Resolver404, resolve

#: The attribute that marks a view; Django's ``as_view()`` copies it from ``dispatch``.
_MARK = "dbpool_mw_no_pool"

#: Whether any view of this process was decorated so far.
used = False


def no_pool(view: Callable[..., Any]) -> Callable[..., Any]:
    """Serve a view, sync or async, without checking a connection out for it.

    It then works while the pool is exhausted or the database is down. A query in the
    view still works: it gets a connection when it asks for one. For a class-based view,
    decorate what ``as_view()`` returns, or ``dispatch`` with ``method_decorator``.
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

    setattr(wrapped, _MARK, True)
    return wrapped


@lru_cache(maxsize=512)
def serves(path: str) -> bool:
    """Tell whether a path leads to a view decorated with ``no_pool``.

    Resolving a path costs more than all else at the start of a request, hence the
    cache; a change of ROOT_URLCONF must clear it.
    """
    try:
        match: Any = resolve(path)
    except Resolver404:
        return False
    return getattr(match.func, _MARK, False)
