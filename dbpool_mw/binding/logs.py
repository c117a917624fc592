"""Keep a project's log handlers out of the pools while the pools log.

A handler that writes to the database would check a connection out in the middle of a
checkout, without end, or wait for the place that its own thread holds. Meanwhile each
query runs on a connection of Django's own instead, which is closed after the record.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

from django.db import connections

from dbpool_mw.binding.binding import thread_state
from dbpool_mw.core import logs


class _Block:
    """A block of ``outside_pools()``, as long as it lasts."""


@contextlib.contextmanager
def outside_pools() -> Iterator[None]:
    """Have this thread's wrappers connect without a pool in the block.

    What they connect is closed at its end. A wrapper that has a connection keeps it.
    """
    if thread_state.is_outside_pools:
        yield
        return
    connected = _connected()
    # Dies with this frame if an exception comes before the ``try``.
    block: _Block | None = _Block()
    thread_state.outside_pools = weakref.ref(block)
    try:
        yield
    finally:
        # Twice, because an exception may come before the first: the exception would
        # keep this frame.
        try:
            block = None
        finally:
            block = None
            _close_all_but(connected)


def _connected() -> list[Any]:
    return [
        wrapper
        for wrapper in connections.all(initialized_only=True)
        if wrapper.connection is not None
    ]


def _close_all_but(wrappers: list[Any]) -> None:
    for wrapper in _connected():
        if wrapper not in wrappers:
            wrapper.close()


def install() -> None:
    """Guard every record of the package; called once, when the app is ready."""
    logs.around_handlers = outside_pools
