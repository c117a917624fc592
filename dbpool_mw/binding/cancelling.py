"""End the wait for a connection of a request, or of a block, that was cancelled.

A task of asyncio that is cancelled while ``sync_to_async`` runs a function for it goes
on at once; the function goes on too, in its thread. One that waits in a pool's queue
would wait for nobody until TIMEOUT, be served before others, and count for MAX_WAITING.

*Work* is what a connection is wanted for: a request, a ``Scope``, or None.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from dbpool_mw.binding import registry

#: The work of the running task, where that isn't the holder's own: several blocks of
#: ``async with pooled()`` may share a thread and its connection. ``sync_to_async``
#: copies it into the thread.
current_work: ContextVar[Any] = ContextVar("dbpool_mw_work", default=None)

#: The attribute of work that was cancelled and has not ended yet.
_KEY = "_dbpool_mw_cancelled"


def cancel_waits(work: Any) -> None:
    """Mark work as cancelled, and end its waits; it begins no other until it ends.

    Blocks on nothing: may be called in an event loop, and in a finaliser.
    """
    setattr(work, _KEY, True)
    # Only now: a checkout that has not queued yet looks at the mark before it does.
    for pool in registry.pools():
        pool.cancel_waits()


def is_cancelled(work: Any) -> bool:
    """Tell whether work was cancelled; in any thread."""
    return getattr(work, _KEY, False)


def forget(work: Any) -> None:
    """Remove the mark: the work has ended, and tasks that it began may go on."""
    vars(work).pop(_KEY, None)
