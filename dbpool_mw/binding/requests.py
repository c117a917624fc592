"""The beginning and the end of a request, in the thread that serves it."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable
from types import FrameType
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.db.backends.base.base import BaseDatabaseWrapper

from dbpool_mw.binding import elsewhere
from dbpool_mw.binding.binding import (
    Binding,
    ScopeLabel,
    bind_all,
    give_back,
    is_answered,
    thread_state,
)
from dbpool_mw.binding.testing import (
    DJANGO_ENSURE_CONNECTION,
    connect_if_allowed,
    may_forbid_connecting,
)
from dbpool_mw.core.errors import ConnectFailed, PoolClosed


def begin_request(request: Any, aliases: Iterable[str], eager: Container[str]) -> None:
    """Check a connection out for each alias that is in ``eager``.

    All ``aliases`` are bound to their pools, on this thread's wrappers: the others
    check one out at their first query, and so does an eager one whose pool can't
    connect, because the request may not need that database. ``request`` has a
    ``method`` and a ``path``, for the reports. Raises an error of ``binding.errors``
    when a pool is exhausted; the aliases before that one keep their connections.
    """
    in_test = (
        BaseDatabaseWrapper.ensure_connection is not DJANGO_ENSURE_CONNECTION
        and may_forbid_connecting()
    )
    bindings = thread_state.bindings
    bindings.requests = 1
    for alias in aliases:
        binding: Binding | None = bindings.get(alias)
        wrapper: Any = None if binding is None else binding.wrapper()
        if binding is None or wrapper is None or wrapper.connect is not binding.connect:
            # Bind all aliases first: receivers of connection_created may query another
            # alias while the connection of this one is being opened.
            binding = bind_all(aliases).get(alias)
            wrapper = None if binding is None else binding.wrapper()
        if binding is None:
            continue
        if binding.request is not None:
            binding.inside = _going_on(binding)
            if binding.inside:
                bindings.requests = 2
        binding.request = request
        if wrapper.connection is not None:
            is_inside = bindings.requests == 2 and binding.inside != ()
            if wrapper.in_atomic_block or not binding.held or is_inside:
                # The test's transaction goes on, or the connection isn't the pool's,
                # or this request runs inside of another one, whose connection it is.
                continue
            wrapper.close()  # an earlier request of this thread didn't end
        if alias not in eager:
            continue
        try:
            if in_test:
                connect_if_allowed(wrapper)
            else:
                binding.checkout(wrapper, eager=True)
        except (ConnectFailed, PoolClosed):
            pass  # the first query says why, if there is one
        except Exception:
            # Not around checkout(): entering the block costs time in each request.
            with wrapper.wrap_database_errors:
                raise


def return_refused(request: Any) -> None:
    """Return what a request holds that gets no connection of another alias.

    Nothing has run on it, so there is no session to keep.
    """
    for binding in thread_state.bindings.values():
        if binding.held and binding.owner is request:
            give_back(binding)


def end_request(**signal: Any) -> None:
    """Return what this thread's request holds, and end the request, however it went.

    Also the receiver of ``request_finished``. Where the request runs inside of another
    one, or of a scope, what this thread holds for that one stays.
    """
    bindings = thread_state.bindings
    is_alone = bindings.requests == 1
    bindings.requests = 0
    for binding in bindings.values():
        if not is_alone and _is_inside(binding):
            bindings.requests = 2
            continue
        if binding.held:
            give_back(binding)
        binding.request = binding.connect_error = None
    if not is_alone and not bindings.requests:
        elsewhere.end_request()


def _going_on(binding: Binding) -> tuple[Any, ...]:
    """Return the requests, or the scope, that go on in this thread, outermost first."""
    works = (*binding.inside, binding.request)
    return tuple(work for work in works if _goes_on(binding, work))


def _goes_on(binding: Binding, work: Any) -> bool:
    """Tell whether a request is served still, or a scope has not ended.

    A request that did not end looks like one that goes on where an exception came
    before its middleware could note that. So the stack has to tell, where it can: the
    thread of an ASGI request serves no other, and its stack isn't that of the task.
    """
    if isinstance(work, ScopeLabel):
        return binding.in_scope()
    if work is None or is_answered(work):
        return False
    return isinstance(work, ASGIRequest) or _is_on_stack(work)


def _is_on_stack(request: Any) -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if (
            frame.f_globals.get("__name__") == "dbpool_mw.middleware"
            and frame.f_code.co_name == "__call__"
            and frame.f_locals.get("request") is request
        ):
            return True
        frame = frame.f_back
    return False


def _is_inside(binding: Binding) -> bool:
    """Tell whether requests of this thread run inside of another, or of a scope."""
    if not binding.inside:
        return False
    binding.inside = binding.inside if _going_on(binding) else ()
    return binding.inside != ()
