"""The cancels that wait for an answer, and how many may at once.

libpq's ``PQcancel`` waits until the server closes the connection of the request,
without a limit: whatever takes a request and never closes its connection keeps a thread
as long.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_MOST = 100

_unanswered: set[object] = set()

# The threads are the parent's.
os.register_at_fork(after_in_child=_unanswered.clear)


class TooManyUnanswered(Exception):
    """So many cancels wait for an answer that no other one is sent."""


@contextmanager
def unanswered() -> Iterator[None]:
    """Count a cancel while it waits for its answer.

    Raises TooManyUnanswered. Waits for no lock: for threads in which no greenlet runs.
    """
    if len(_unanswered) >= _MOST:
        raise TooManyUnanswered(f"{len(_unanswered)} cancels before have got no answer")
    request = object()
    _unanswered.add(request)
    try:
        yield
    finally:
        _unanswered.discard(request)
