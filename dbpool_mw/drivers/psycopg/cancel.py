"""Cancel what a connection runs, without blocking the process.

psycopg's ``cancel_safe()`` waits for the server as psycopg does, and encrypts the
request as the connection is encrypted. It needs psycopg 3.2 and libpq 17. With older
ones psycopg calls libpq's ``PQcancel``, in a thread of its own.
"""

from __future__ import annotations

import _thread
import contextlib
import time
from typing import Any
from weakref import ref

import psycopg

from dbpool_mw.drivers.postgresql.original import original

#: Seconds that a request may take.
_TIMEOUT = 5.0


def _is_safe() -> bool:
    """Tell whether psycopg and its libpq can cancel without blocking other threads."""
    capabilities = getattr(psycopg, "capabilities", None)
    return capabilities is not None and bool(capabilities.has_cancel_safe())


class Canceller:
    """Cancels the statements of one connection.

    ``refused`` is what was said of the last request that could not be sent, "" if all
    were sent. Whether the server, or what stands before it, did as it was asked, nobody
    knows.
    """

    __slots__ = ("_connection", "refused")

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.refused = ""
        self._connection = ref(connection)

    def start(self, delay: float = 0.0) -> None:
        """Ask the server to end what runs, after ``delay`` seconds; wait for nothing.

        Called from any thread and any greenlet.
        """
        start_new_thread, sleep = _thread.start_new_thread, time.sleep
        if not _is_safe():
            # A greenlet would stop all others.
            start_new_thread = original("_thread", "start_new_thread")
            sleep = original("time", "sleep")
        # Where no thread can be started, the statement isn't cancelled.
        with contextlib.suppress(RuntimeError):
            start_new_thread(self._run, (delay, sleep))

    def _run(self, delay: float, sleep: Any) -> None:
        if delay:
            sleep(delay)
        connection = self._connection()
        if connection is None:
            return
        try:
            if _is_safe():
                connection.cancel_safe(timeout=_TIMEOUT)
            else:
                connection.cancel()
        except Exception as error:
            self.refused = str(error).strip()
