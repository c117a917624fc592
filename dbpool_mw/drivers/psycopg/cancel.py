"""Cancel what a connection runs, without blocking the process.

Since version 17 libpq sends a request step by step, encrypted as the connection is; in
psycopg since 3.2. Older ones have ``PQcancel`` only, which goes to a thread of its own.
"""

from __future__ import annotations

import _thread
import contextlib
import select
import time
from collections.abc import Callable
from typing import Any
from weakref import ref

import psycopg
from psycopg.pq import PollingStatus

from dbpool_mw.drivers.postgresql.original import original
from dbpool_mw.drivers.postgresql.unanswered import unanswered

#: Seconds that a request may take.
_TIMEOUT = 5.0

_WAITS_FOR = {
    PollingStatus.READING: select.POLLIN,
    PollingStatus.WRITING: select.POLLOUT,
}


def _is_safe() -> bool:
    """Tell whether psycopg and its libpq can cancel without blocking other threads."""
    capabilities = getattr(psycopg, "capabilities", None)
    return capabilities is not None and bool(capabilities.has_cancel_safe())


class Canceller:
    """Cancels the statements of one connection, even if it is closed meanwhile.

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
        connection = self._connection()
        if connection is None:
            return
        # The request is made here: the caller may close the connection at once. Where
        # it is closed, or no thread can be started, nothing is cancelled.
        with contextlib.suppress(psycopg.Error, RuntimeError):
            if _is_safe():
                request = connection.pgconn.cancel_conn()
                arguments = (lambda: _send(request), delay, time.sleep)
                _thread.start_new_thread(self._run, arguments)
            else:
                # It would stop all other greenlets.
                cancel = connection.pgconn.get_cancel().cancel
                arguments = (unanswered()(cancel), delay, original("time", "sleep"))
                original("_thread", "start_new_thread")(self._run, arguments)

    def _run(
        self, send: Callable[[], None], delay: float, sleep: Callable[[float], None]
    ) -> None:
        if delay:
            sleep(delay)
        try:
            send()
        except Exception as error:
            self.refused = str(error).strip() or type(error).__name__


def _send(request: Any) -> None:
    """Send a request, and wait until it was taken; raise an error if it wasn't."""
    deadline = time.monotonic() + _TIMEOUT
    request.start()
    while (status := request.poll()) in _WAITS_FOR:
        poller = select.poll()
        poller.register(request.socket, _WAITS_FOR[status])
        left = deadline - time.monotonic()
        if left <= 0 or not poller.poll(left * 1000):
            raise TimeoutError(f"the request was not taken within {_TIMEOUT:g} s")
    if status != PollingStatus.OK:
        raise psycopg.OperationalError(request.get_error_message())
