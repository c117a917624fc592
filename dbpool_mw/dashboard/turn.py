"""What a request asks outside of the pools: in turn, and with an end to every wait.

Its connections have the pool's limits for a network that doesn't respond, unless the
project sets its own. A query that gets no answer is ended as the pool ends those that
it makes itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.db import OperationalError, connections

from dbpool_mw import conf
from dbpool_mw.binding.logs import outside_pools
from dbpool_mw.core.background import spawn
from dbpool_mw.drivers import Driver

#: Seconds that a new connection has at least, however long its request has waited.
#: libpq takes no less for connecting.
_LEAST_SECONDS = 2.0

#: One request of a process at a time, so that nobody can open many connections.
_turn = threading.BoundedSemaphore(1)


class Busy(OperationalError):
    """Other requests had the turn for as long as this one may wait."""


class Turn:
    """A request's turn to connect: it begins with a connection, and may do so again."""

    def __init__(self) -> None:
        self._wrappers: list[Any] = []
        self._opened: list[tuple[Driver, Any, int | None]] = []
        self._ended: threading.Event | None = None
        self._deadline = 0.0

    def begin(self, seconds: float) -> float:
        """Wait for the turn unless it has begun; return the seconds for connecting.

        ``seconds`` is for all of it: the wait, the connection and its queries.
        """
        if self._ended is None:
            self._deadline = time.monotonic() + seconds
            if not _turn.acquire(timeout=seconds):
                raise Busy("Another request for this page is being served.")
            self._ended = threading.Event()
            spawn(self._watch, self._ended, self._opened)
        self._extend()
        return self._deadline - time.monotonic()

    def note(self, wrapper: Any, driver: Driver, connection: Any) -> None:
        """Have a connection that was just opened shut down when its time is over."""
        driver.track(connection)
        self._wrappers.append(wrapper)
        self._opened.append((driver, connection, driver.socket_number(connection)))
        # The project's own connect_timeout may be longer.
        self._extend()

    def end(self) -> None:
        """Close what was connected, and let the next request have its turn."""
        ended = self._ended
        if ended is None:
            return
        try:
            while self._wrappers:
                self._wrappers.pop().close()
        finally:
            self._opened, self._ended = [], None
            ended.set()
            _turn.release()

    def _extend(self) -> None:
        self._deadline = max(self._deadline, time.monotonic() + _LEAST_SECONDS)

    def _watch(
        self, ended: threading.Event, opened: list[tuple[Driver, Any, int | None]]
    ) -> None:
        """Shut the connections down that are waited for when the time is over."""
        while not ended.wait(max(self._deadline - time.monotonic(), _LEAST_SECONDS)):
            if time.monotonic() >= self._deadline:
                for driver, connection, number in tuple(opened):
                    driver.shut_down(connection, number)


@contextmanager
def outside_in_turn() -> Iterator[Turn]:
    """Have this thread's wrappers connect without a pool in the block, in turn.

    What queries in the block may get Busy, which is an OperationalError.
    """
    turn = Turn()
    with ExitStack() as stack:
        stack.enter_context(outside_pools())
        for alias in conf.pooled_aliases():
            stack.enter_context(_limited(connections[alias], turn))
        stack.callback(turn.end)
        yield turn


@contextmanager
def _limited(wrapper: Any, turn: Turn) -> Iterator[None]:
    """Have a wrapper connect in a turn, with the pool's limits, in the block."""
    driver = conf.driver_for(wrapper.alias)
    assert driver is not None, "config_for() has refused the alias"
    seconds = max(conf.config_for(wrapper.alias).timeout, _LEAST_SECONDS)
    engine: Any = type(wrapper)

    def get_connection_params() -> dict[str, Any]:
        params = engine.get_connection_params(wrapper)
        return driver.connection_params(params, turn.begin(seconds))

    def get_new_connection(params: dict[str, Any]) -> Any:
        try:
            connection = engine.get_new_connection(wrapper, params)
        except BaseException as error:
            driver.end_attempt(error)
            raise
        turn.note(wrapper, driver, connection)
        return connection

    hooks = {
        "get_connection_params": get_connection_params,
        "get_new_connection": get_new_connection,
    }
    vars(wrapper).update(hooks)
    try:
        yield
    finally:
        for name in hooks:
            vars(wrapper).pop(name, None)
