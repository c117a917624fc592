"""End a request whose response is closed in another thread than the request's.

Some servers call the application in one thread and close the response in another. There
``request_finished`` arrives where nothing is held, and doesn't say which request ended.
Request and response have the same number, and no other ones have it: a response may be
kept, pickled and closed again.
"""

from __future__ import annotations

import contextlib
import threading

from django.http.response import HttpResponseBase

from dbpool_mw.binding.binding import Binding, all_bindings, number_of
from dbpool_mw.core.entry import PoolEntry
from dbpool_mw.core.pool import ConnectionPool
from dbpool_mw.core.stack import frames


def end_request() -> None:
    """Return what another thread holds for the request that ends in this thread."""
    ended = _closing_number()
    if ended is None:
        return
    for binding in all_bindings():
        # First: the other thread may begin another request at any moment.
        held = tuple(binding.held)
        if number_of(binding.owner) == ended:
            _give_back(binding, held)


def _closing_number() -> int | None:
    """Return the number of the request whose response this thread is closing."""
    for frame in frames():
        if frame.f_code.co_name == "close":
            response = frame.f_locals.get("self")
            if isinstance(response, HttpResponseBase):
                return getattr(response, "_dbpool_mw_request", None)
    return None


def _give_back(
    binding: Binding, held: tuple[tuple[ConnectionPool, PoolEntry, float], ...]
) -> None:
    for pool, entry, since in held:
        clean = pool.is_clean(entry)
        if not binding.let_go(entry, since):
            continue  # its thread has begun another request
        if not clean:
            # A thread with an event loop, where servers close responses, can't query.
            with contextlib.suppress(RuntimeError):
                threading.Thread(target=pool.checkin, args=(entry,)).start()
                continue
        pool.checkin(entry)
