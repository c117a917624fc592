"""End a request whose response is closed in another thread than the request's.

Some servers call the application in one thread and close the response in another. There
``request_finished`` arrives where nothing is held, and doesn't say which request ended.
The response that is being closed has the ``id()`` of its request, a number, because it
may be kept and pickled.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from types import FrameType

from django.http.response import HttpResponseBase

from dbpool_mw.binding.binding import Binding, all_bindings, is_answered


def end_request() -> None:
    """Return what another thread holds for the request that ends in this thread."""
    ended = _closing_id()
    if ended is None:
        return
    for binding in all_bindings():
        request = binding.request
        if id(request) == ended and is_answered(request):
            _give_back(binding)


def _closing_id() -> int | None:
    """Return the id of the request whose response is being closed by this thread."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "close":
            response = frame.f_locals.get("self")
            if isinstance(response, HttpResponseBase):
                return getattr(response, "_dbpool_mw_request", None)
        frame = frame.f_back
    return None


def _give_back(binding: Binding) -> None:
    for pool, entry in tuple(binding.held):
        clean = pool.is_clean(entry)
        if not binding.let_go(entry):
            continue  # its thread has begun another request
        if not clean:
            # A thread with an event loop, where servers close responses, can't query.
            with contextlib.suppress(RuntimeError):
                threading.Thread(target=pool.checkin, args=(entry,)).start()
                continue
        pool.checkin(entry)
