"""Open connections before the first request: for the hooks of servers."""

from __future__ import annotations

import threading
import time

from django.db import OperationalError, connections

from dbpool_mw import conf
from dbpool_mw.binding import registry, testing
from dbpool_mw.binding.errors import PoolTimeout
from dbpool_mw.binding.scope import Scope
from dbpool_mw.core.background import sent_signals_blocked


def warm_up(*aliases: str, timeout: float = 10.0) -> None:
    """Open MIN_CONNS connections of each alias, at least one; return when they are.

    ``aliases`` are by default those of ``EAGER``. For a hook that a server calls in
    each worker: the workers' first requests then find idle connections. A connect that
    fails is tried again for ``timeout`` seconds, which bound the whole call. Never
    opens more than MAX_CONNS, and waits for connections that others have.

    Returns at once for an alias without a pool, under a drain or a pause, in a test
    run, and in a process of uWSGI that only loads the application. May be called in a
    coroutine, whose event loop it blocks.

    Raises PoolTimeout, which is a django.db.OperationalError, when the time is up: it
    says how many connections there were, and its ``__cause__`` why not more. Raises
    ConnectionDoesNotExist for an alias that DATABASES doesn't have, and
    ImproperlyConfigured when the settings are wrong.
    """
    deadline = time.monotonic() + timeout
    pooled = conf.pooled_aliases()
    for alias in aliases or conf.for_request().eager:
        if alias not in pooled:
            connections[alias]  # raises for an unknown one
        elif not testing.is_test_run() and registry.keeps_connections(alias):
            number = max(1, conf.config_for(alias).min_conns)
            _Opening(alias, number, deadline).wait(timeout)


#: Seconds between an attempt that failed and the next.
_PAUSE = 0.1


class _Opening:
    """Connections that are opened together, each in a thread that holds it meanwhile.

    Threads of their own, because the caller may be in a coroutine, and must not wait
    for longer than it wants to, whatever a connect waits for.
    """

    def __init__(self, alias: str, number: int, deadline: float) -> None:
        self.alias = alias
        self.number = number
        self.deadline = deadline
        self.opened = 0
        self.errors: list[Exception] = []
        self.all_are_open = threading.Barrier(number + 1)

    def wait(self, timeout: float) -> None:
        """Open the connections and give them to the pool; see ``warm_up``."""
        threads = [
            threading.Thread(target=self._open, name="dbpool_mw-warm-up", daemon=True)
            for _ in range(self.number)
        ]
        with sent_signals_blocked():
            for thread in threads:
                thread.start()
        if self._meet():
            for thread in threads:
                thread.join()
            return
        error = self.errors[-1] if self.errors else None
        if error is not None and not isinstance(error, OperationalError):
            raise error
        raise PoolTimeout(
            self.alias,
            f"pool {self.alias!r}: {self.opened} of {self.number} connections were "
            f"open within {timeout:g} s",
        ) from error

    def _open(self) -> None:
        scope = Scope([self.alias], method="warm_up")
        try:
            scope.begin()
            self._connect()
            self._meet()
        except Exception as error:
            self.errors.append(error)
            self.all_are_open.abort()
        finally:
            scope.end()

    def _connect(self) -> None:
        while True:
            try:
                connections[self.alias].ensure_connection()
                self.opened += 1
                return
            except OperationalError as error:
                left = self.deadline - time.monotonic()
                if left <= 0:
                    raise
                self.errors[:] = [error]
                # The pool may refuse at once, as with MAX_WAITING.
                time.sleep(min(left, _PAUSE))

    def _meet(self) -> bool:
        """Wait until all connections are open; tell whether they are."""
        try:
            self.all_are_open.wait(max(0.0, self.deadline - time.monotonic()))
        except threading.BrokenBarrierError:
            return False
        return True
