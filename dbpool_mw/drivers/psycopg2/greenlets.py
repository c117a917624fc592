"""psycopg2 under greenlets.

With a wait callback, which psycogreen sets, psycopg2 lets other greenlets run while it
waits for the server. Three things are different then (read in psycopg2 2.9, and tried):

- A time-out or a kill can end a greenlet while it waits. psycopg2 closes the
  connection, but the server runs the statement to its end.
- libpq's ``connect_timeout`` has no effect.
- ``close()`` from another greenlet blocks on a lock that is held until the statement
  ends: for ever, because no other greenlet runs meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import psycopg2
from psycopg2 import extensions


def guard_waits() -> bool:
    """Put a guard around the wait callback; return whether there is a callback.

    To be called before each connect: the project may have set another callback.
    """
    callback: Any = extensions.get_wait_callback()
    if callback is None:
        return False
    if not isinstance(callback, _Guard):
        extensions.set_wait_callback(_Guard(callback))
    return True


class _Guard:
    """A wait callback around another one, for the sake of tracked connections.

    A ``TrackedConnection`` is one with the attribute ``waits``; its ``connect_seconds``
    limit a wait, and its ``canceller`` cancels a statement whose greenlet was ended.
    """

    def __init__(self, callback: Callable[..., object]) -> None:
        self._callback = callback
        # psycogreen's callbacks take a time-out for each wait.
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

        The slot may be used again at once, and the server must be free then. A cancel
        can come before the server began with the statement, and has no effect then: so
        it is repeated.
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
                # The greenlet was ended again, so that nobody would see whether the
                # first cancel had an effect.
                connection.canceller.start(seconds)
                raise
            return


#: Seconds to wait for the end of a cancelled statement before each repetition.
_PATIENCE = (0.1, 0.3, 1.0)
