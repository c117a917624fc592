"""psycopg2 under greenlets: what its wait callback leaves to be done.

With a wait callback, which psycogreen sets, psycopg2 lets other greenlets run while it
waits for the server. Three things are then different. Whoever waits can be ended there,
by a time-out or a kill: psycopg2 closes the connection, but the server goes on with the
statement for as long as it takes. libpq's ``connect_timeout`` is not heeded. And a
``close()`` from another greenlet waits for a lock that is held until the statement
ends: for ever, because nothing else runs meanwhile. (Read in psycopg2 2.9; tried.)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from inspect import signature
from typing import Any

import psycopg2
from psycopg2 import extensions


def original(module: str, name: str) -> Any:
    """Give what Python itself has there, whatever gevent has put in its place."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return getattr(sys.modules[module], name)
    return monkey.get_original(module, name)


def guard_waits() -> bool:
    """Put a guard around the wait callback; tell whether there is a callback.

    Called whenever a connection is about to be opened: somebody may have set another.
    """
    callback: Any = extensions.get_wait_callback()
    if callback is None:
        return False
    if not isinstance(callback, _Guard):
        extensions.set_wait_callback(_Guard(callback))
    return True


class _Guard:
    """A wait callback that does what another does, and looks after our connections.

    Ours have the attributes ``waits``, ``connect_seconds`` and ``canceller``: see
    ``tracked.TrackedConnection``.
    """

    def __init__(self, callback: Callable[..., object]) -> None:
        self._callback = callback
        # psycogreen's take one, for each time they wait.
        self._takes_timeout = "timeout" in signature(callback).parameters

    def __call__(self, connection: Any) -> None:
        if not hasattr(connection, "waits"):
            self._callback(connection)
            return
        connection.waits = True
        try:
            if connection.connect_seconds is None:
                self._wait(connection)
            else:
                self._wait_to_connect(connection)
        finally:
            connection.waits = False

    def _wait(self, connection: Any) -> None:
        try:
            self._callback(connection)
        except psycopg2.Error:
            raise
        except BaseException:
            if connection.canceller is not None:
                self._cancel(connection)
            raise

    def _wait_to_connect(self, connection: Any) -> None:
        if not self._takes_timeout:
            self._callback(connection)
            return
        try:
            self._callback(connection, timeout=connection.connect_seconds)
        except TimeoutError as error:
            raise psycopg2.OperationalError("timeout expired") from error

    def _cancel(self, connection: Any) -> None:
        """Cancel what the server runs, and wait a moment until it has ended that.

        When the place is free, the server must be as well. The first request may come
        before the server began: it reads a statement, and then doesn't look again.
        """
        for seconds in _PATIENCE:
            connection.canceller.start()
            if not self._takes_timeout:
                return
            try:
                self._callback(connection, timeout=seconds)
            except TimeoutError:
                continue
            except psycopg2.Error:
                pass
            except BaseException:
                # Ended again. Nobody will see whether the first request did it.
                connection.canceller.start(seconds)
                raise
            return


#: Seconds to wait for the end of what was cancelled, before it is cancelled again.
_PATIENCE = (0.1, 0.3, 1.0)
