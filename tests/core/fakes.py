"""A driver without a server that fails on demand, a manual clock, and helpers."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from dbpool_mw.core.config import PoolConfig
from dbpool_mw.core.driver import Change
from dbpool_mw.core.entry import PoolEntry
from dbpool_mw.core.pool import ConnectionPool

#: The session attributes of every fresh connection.
INITIAL = (True,)

#: What others may write into a path, a thread's name or an error.
HOSTILE = [
    "two\nlines",
    "carriage\rreturn",
    "next\x85line\u2028and\u2029more",
    "terminal\x1b[2J\x1b]0;title\x07",
    "nul\0",
    "backwards\u202eevil",
    "surrogate\udce9\ud83d",
    "percent%s%d%%",
    "long" * 250_000,
    "\n" * 1_000_000,
    "\x1b" * 1_000_000,
]


class DriverError(Exception):
    """An error that the client library raises."""


class FakeConnection:
    """A connection whose state the tests set.

    ``answers`` is what a ping returns; with ``stays_dirty`` a rollback has no effect.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False
        self.alive = True
        self.answers = True
        self.transaction = "idle"  # or "open", "busy", "unknown"
        self.dirty = False
        self.dirtied_by = ""
        self.not_resettable: str | None = None
        self.stays_dirty = False
        self.aborted: Exception | None = None
        self.statement: str | None = None
        self.lease = 0

    def __repr__(self) -> str:
        return f"<connection {self.number}>"


class Holder:
    def __init__(self, name: str = "someone") -> None:
        self.name = name
        self.route: str | None = f"{name}/"
        self.thread_id = threading.get_ident()
        #: Whether it holds what it has checked out; False is a holder that lost it.
        self.has_it = True
        #: Whether anybody is to check in what it has.
        self.returns = True
        self.cancelled = False

    def holds(self, entry: PoolEntry) -> bool:
        return self.has_it

    def will_return(self) -> bool:
        return self.returns

    def let_go(self, entry: PoolEntry, since: float) -> bool:
        had_it, self.has_it = self.has_it, False
        return had_it

    def describe(self) -> dict[str, Any]:
        return {
            "thread": self.name,
            "method": "GET",
            "path": f"/{self.name}/",
            "route": self.route,
        }

    def holds_another(self) -> bool:
        return False

    def cancellation(self) -> Callable[[], bool]:
        return lambda: self.cancelled


class FakeDriver:
    """A ``dbpool_mw.core.driver.Driver`` that records what the pool has it do.

    An ``*_error`` that is set is raised by the method of that name.
    """

    Error = DriverError

    def __init__(self) -> None:
        self.connections: list[FakeConnection] = []
        self.most_open = 0
        self.connect_error: BaseException | None = None
        self.reset_error: BaseException | None = None
        self.ping_error: BaseException | None = None
        self.on_connect: Callable[[], None] = lambda: None
        self.on_close: Callable[[FakeConnection], None] = lambda connection: None
        self.resets: list[FakeConnection] = []
        self.reset_for: list[Any] = []
        self.aborted: list[FakeConnection] = []
        self.shut_downs: list[FakeConnection] = []
        self.round_trips = 0
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    # The functions that the pool is given.

    def connect(self, entry: PoolEntry, holder: Any) -> None:
        self.on_connect()
        if self.connect_error is not None:
            raise self.connect_error
        with self._lock:
            connection = FakeConnection(next(self._numbers))
            self.connections.append(connection)
            self.most_open = max(self.most_open, len(self.open))
        entry.connection = connection

    def reset(self, entry: PoolEntry) -> None:
        assert entry.initial == INITIAL
        self.reset_for.append(entry.holder)
        self.round_trips += 1
        if self.reset_error is not None:
            raise self.reset_error
        self.resets.append(entry.connection)
        entry.connection.dirty = False

    # The Driver protocol.

    def liveness(self, connection: FakeConnection) -> Callable[[], bool]:
        return lambda: connection.alive and not connection.closed

    def has_ended(self, connection: FakeConnection) -> bool:
        return not connection.alive or connection.closed

    def session_attributes(self, connection: FakeConnection) -> tuple[Any, ...]:
        assert connection in self.open
        return INITIAL

    def in_transaction(self, connection: FakeConnection) -> bool:
        return connection.transaction in ("open", "busy") and not connection.closed

    def statement(self, connection: FakeConnection) -> str | None:
        return connection.statement

    def shown(self, statement: str) -> str:
        return f"shown: {statement}"

    def is_clean(self, connection: FakeConnection, initial: Any) -> bool:
        assert initial == INITIAL
        # libpq reports the status "unknown" for a closed connection.
        usable = connection.transaction == "idle" and not connection.closed
        return usable and not connection.dirty

    def why_unusable(self, connection: FakeConnection) -> str | None:
        if connection.closed:
            return "closed"
        return {"busy": "busy", "unknown": "dead"}.get(connection.transaction)

    def roll_back(self, connection: FakeConnection) -> bool:
        was_open = connection.transaction == "open"
        if was_open:
            self.round_trips += 1
            if not connection.stays_dirty:
                connection.transaction = "idle"
        return was_open

    def is_dirty(self, connection: FakeConnection) -> bool:
        return connection.dirty

    def change(self, connection: FakeConnection) -> Change | None:
        if not connection.dirty:
            return None
        return Change(connection.dirtied_by, connection.not_resettable)

    def accept(self, connection: FakeConnection, initial: Any) -> None:
        assert initial == INITIAL
        connection.dirty = False

    def ping(self, connection: FakeConnection) -> bool:
        self.round_trips += 1
        if self.ping_error is not None:
            raise self.ping_error
        return connection.answers

    def close(self, *connections: FakeConnection) -> None:
        with ExitStack() as closes:
            for connection in connections:
                closes.callback(self._close, connection)

    def _close(self, connection: FakeConnection) -> None:
        self.on_close(connection)
        with self._lock:
            connection.closed = True

    def socket_number(self, connection: FakeConnection) -> int:
        return 5000 + connection.number

    def abort(self, connection: FakeConnection, error: Exception) -> None:
        connection.aborted = error
        self.aborted.append(connection)

    def shut_down(self, connection: FakeConnection, socket_number: int | None) -> None:
        assert socket_number == self.socket_number(connection)
        self.shut_downs.append(connection)

    def backend_pid(self, connection: FakeConnection) -> int:
        return 1000 + connection.number

    # For assertions.

    @property
    def open(self) -> list[FakeConnection]:
        return [c for c in self.connections if not c.closed]


class Clock:
    """A monotonic clock that the tests advance; in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def make_pool(**config: Any) -> tuple[ConnectionPool, FakeDriver, Clock]:
    """Return a pool with these settings, its driver and its clock."""
    driver, clock = FakeDriver(), Clock()
    pool = ConnectionPool(
        "default",
        PoolConfig(**{"max_conns": 2, "timeout": 0.01, **config}),
        database="app",
        connect=driver.connect,
        reset=driver.reset,
        driver=driver,
        clock=clock,
        spawn=at_once,
    )
    return pool, driver, clock


def at_once(function: Callable[..., object], *arguments: object) -> bool:
    """Do in the caller's thread what the pool would do in one of its own."""
    function(*arguments)
    return True


def check(pool: ConnectionPool, driver: FakeDriver) -> None:
    """Assert what holds whenever no call of the pool is running."""
    stats = pool.stats()
    assert stats["size"] == stats["idle"] + stats["in_use"] + stats["connecting"]
    assert stats["size"] <= stats["max"]
    assert stats["size"] == len(driver.open)
    assert stats["opened"] == stats["size"] + sum(stats["discarded"].values())
    assert driver.most_open <= stats["max"]
    assert not (stats["idle"] and stats["waiting"])


def use(
    pool: ConnectionPool, holder: Holder | None = None, **attributes: Any
) -> FakeConnection:
    """Check a connection out, set attributes of it, check it in; return it."""
    entry = pool.checkout(holder or Holder())
    connection: FakeConnection = entry.connection
    for name, value in attributes.items():
        setattr(connection, name, value)
    pool.checkin(entry)
    return connection


def end_hold(pool: ConnectionPool, entry: Any, verb: str) -> None:
    """End a hold by the method ``verb``; ``reclaim_soon`` acts in this thread."""
    if verb == "discard":
        pool.discard(entry, "on purpose")
    elif verb == "reclaim_soon":
        pool._deferred.append(lambda: pool.reclaim(entry))
        pool._call_deferred()
    else:
        getattr(pool, verb)(entry)


def traced(call: Callable[[], object], trace: Callable[..., Any]) -> None:
    """Make a call with a trace function, and put the one before back."""
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)


class InThread(threading.Thread):
    """Run a function in a thread; ``result()`` returns or raises what it did."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._call = (function, arguments)
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        function, arguments = self._call
        try:
            self._result = function(*arguments)
        except BaseException as error:
            self._error = error

    def result(self, timeout: float = 20) -> Any:
        self.join(timeout)
        assert not self.is_alive(), "the thread hangs"
        if self._error is not None:
            raise self._error
        return self._result


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until a condition holds that another thread, or a server, brings about."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.001)):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError(f"the condition did not hold within {seconds:g} s")
