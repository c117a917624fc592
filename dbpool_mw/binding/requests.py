"""The beginning and the end of a request, in the thread that serves it."""

from __future__ import annotations

from collections.abc import Container, Iterable
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
from dbpool_mw.binding.streams import is_streaming, streams
from dbpool_mw.binding.testing import (
    DJANGO_ENSURE_CONNECTION,
    connect_if_allowed,
    may_forbid_connecting,
)
from dbpool_mw.core.errors import ConnectFailed, PoolClosed
from dbpool_mw.core.stack import frames

#: The functions that are on the stack of a thread while it serves a request: the
#: middleware's, or where that is a coroutine under WSGI, because one behind it is
#: asynchronous only, the handler's.
_SERVING = (
    ("dbpool_mw.middleware", "__call__"),
    ("django.core.handlers.base", "get_response"),
)


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
            going_on = _going_on(binding)
            binding.inside = tuple(work for work in going_on if work is not request)
        is_again, binding.request = binding.request is request, request
        if wrapper.connection is not None:
            if (
                wrapper.in_atomic_block
                or not binding.held
                or binding.inside
                or is_again
            ):
                # The test's transaction goes on, or the connection isn't the pool's,
                # or this request runs inside of another one, whose connection it is,
                # or it has the connection already: middleware has it served again.
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
    """Return what this thread holds for requests that go on no more, however they went.

    Also the receiver of ``request_finished``, which doesn't say which request ended: it
    may be one inside of another, or of a scope, that goes on and keeps what it has, and
    one that never came to the middleware. What is held outside of requests and scopes,
    with one of this package's ENGINEs, is for Django's own receiver to close.
    """
    ended: Any = None
    for binding in thread_state.bindings.values():
        request = binding.request
        if request is None:
            continue
        # The aliases nearly always have the same one, and it is nearly always over.
        is_over = request is ended or (is_answered(request) and not streams(request))
        if (binding.inside or not is_over) and _going_on(binding):
            continue
        if binding.held:
            give_back(binding)
        binding.forget_work()
        ended = request
    if ended is None:
        elsewhere.end_request()


def _going_on(binding: Binding) -> tuple[Any, ...]:
    """Return the requests, or the scope, that go on in this thread, outermost first."""
    work = binding.request
    if not binding.inside:
        return (work,) if _goes_on(binding, work) else ()
    works = (*binding.inside, work)
    return tuple(work for work in works if _goes_on(binding, work))


def _goes_on(binding: Binding, work: Any) -> bool:
    """Tell whether a request is served still, or a scope has not ended.

    A request that did not end looks like one that goes on where an exception came
    before its middleware could note that. So the stack has to tell, where it can: the
    thread of an ASGI request serves no other, and its stack isn't that of the task.
    """
    if is_answered(work):
        return is_streaming(work)
    if isinstance(work, ScopeLabel):
        return binding.in_scope()
    return isinstance(work, ASGIRequest) or _is_on_stack(work)


def _is_on_stack(request: Any) -> bool:
    return any(
        (frame.f_globals.get("__name__"), frame.f_code.co_name) in _SERVING
        and frame.f_locals.get("request") is request
        for frame in frames()
    )
