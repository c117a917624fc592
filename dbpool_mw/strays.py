"""Error pages that are rendered in another thread than their request's.

Under ASGI, Django renders the response to an unhandled exception in a thread of the
event loop's executor (``sync_to_async(response_for_exception, thread_sensitive=False)``
in ``django.core.handlers.exception``). That thread serves anybody, and nothing tells
when the page is done. So the page gets wrappers of its own, that work only in its
context: whatever runs next in the thread is in another context and finds them retired.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.db import connections

from dbpool_mw import conf, wrapper

_failed_request: ContextVar[Any] = ContextVar("dbpool_mw_failed_request", default=None)


def admit(request: Any) -> None:
    """Give this thread fresh wrappers for the error page of a request.

    Only under ASGI, in another thread than the request's own, and where that thread's
    own wrapper isn't connected. The strays of the page before, whose end nobody told,
    are replaced.
    """
    own = (each.request is request for each in wrapper.here.attachments.values())
    if not isinstance(request, ASGIRequest) or any(own):
        return
    admitted = vars(request).setdefault(wrapper.STRAYS, [])
    _failed_request.set(request)
    for alias in conf.pooled_aliases():
        present: Any = connections[alias]
        if present.connection is not None and "ensure_connection" not in vars(present):
            continue
        fresh: Any = connections.create_connection(alias)
        attachment = wrapper.Attachment(fresh)
        attachment.request = request
        wrapper.install(fresh, attachment)
        fresh.ensure_connection = partial(_ensure_connection, fresh, attachment)
        connections[alias] = fresh
        # The wrapper too: it must not be collected before it is given back.
        admitted.append((fresh, attachment))


def release(request: Any) -> None:
    """Give back what the error pages of a request held.

    Called when the response is there, so the pages are done, and once more at the end
    of the request, for pages rendered outside of the middleware; from any thread.
    """
    for _, attachment in vars(request).get(wrapper.STRAYS, ()):
        # The wrapper is its thread's, which may be using it for somebody else by now.
        held = attachment.take()
        if held is not None:
            pool, entry = held
            pool.checkin(entry)


def _ensure_connection(stray: Any, attachment: wrapper.Attachment) -> None:
    """Stand in for ``ensure_connection`` on a stray; runs in the stray's thread."""
    if _failed_request.get() is not attachment.request:
        # The page is done, and this is somebody else: Django's own ways from here on.
        held = attachment.take()
        if held is not None:
            pool, entry = held
            pool.checkin(entry)
        stray.connection = None
        for name in ("ensure_connection", "connect", "_close", wrapper.KEY):
            del vars(stray)[name]
    type(stray).ensure_connection(stray)
