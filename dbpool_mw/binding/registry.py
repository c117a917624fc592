"""The pools, the threads and the control socket of this process.

The threads and the socket start with the first pool. A management command makes no pool
and so has neither.

After a fork the child starts with an empty state. It drops the parent's pools without
closing their connections, because the sockets are the parent's.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from django.apps import apps

from dbpool_mw import conf
from dbpool_mw.binding import testing
from dbpool_mw.control import protocol
from dbpool_mw.control.arguments import masked
from dbpool_mw.control.server import ControlServer
from dbpool_mw.core.background import Maintenance, sent_signals_blocked
from dbpool_mw.core.config import PoolConfig
from dbpool_mw.core.entry import Holder, PoolEntry
from dbpool_mw.core.logs import get_logger
from dbpool_mw.core.pool import ConnectionPool
from dbpool_mw.drivers import Driver

Connect = Callable[[PoolEntry, "Holder | None"], None]
Reset = Callable[[PoolEntry], None]


logger = get_logger("dbpool_mw.pool")


class _ProcessState:
    """What belongs to this process, and not to its children."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pools: dict[str, ConnectionPool] = {}
        self.maintenance: Maintenance | None = None
        self.control: ControlServer | None = None
        #: When the first pool was made, by ``time.monotonic()``.
        self.started_at: float | None = None


_state = _ProcessState()

#: The states of parent processes. They are kept, because their finalisers would close
#: what is the parents'.
_inherited: list[_ProcessState] = []

_is_serving = False


def note_serving() -> None:
    """Note that this process serves requests, tasks, or blocks of ``pooled()``."""
    global _is_serving
    _is_serving = True


def is_serving() -> bool:
    """Tell whether an ENGINE of this package uses the pool in the running thread.

    The main thread does so once its process serves something: a management command
    starts no thread and keeps no connection. No thread does so while Django loads the
    apps: a test runner may make its database after that, and a server may fork.
    """
    return apps.ready and (
        _is_serving or threading.current_thread() is not threading.main_thread()
    )


def get_pool(alias: str, database: str) -> ConnectionPool | None:
    """Return the pool of an alias, None if there is none for this database yet.

    Called at every checkout, from any thread.
    """
    pool = _state.pools.get(alias)
    return pool if pool is not None and pool.database == database else None


def make_pool(
    alias: str,
    config: PoolConfig,
    database: str,
    driver: Driver,
    connect: Connect,
    reset: Reset,
) -> ConnectionPool:
    """Make the pool of an alias; one for another database is replaced and closed.

    ``database`` is the name of the database that the alias has now. Threads that call
    this at the same time get the same pool. Raises ImproperlyConfigured when the
    settings are wrong.
    """
    directory = conf.control_dir()
    state = _state
    with state.lock:
        old = state.pools.get(alias)
        if old is not None and old.database == database:
            return old
        new = ConnectionPool(
            alias,
            config,
            driver=driver,
            connect=connect,
            reset=reset,
            database=database,
        )
        state.pools[alias] = new
        state.started_at = state.started_at or time.monotonic()
        if testing.must_keep_no_idle_connection(alias, database):
            new.drain()
        elif state.maintenance is None:
            _start_threads(state, directory)
    if old is not None:
        old.close()
    return new


def _start_threads(state: _ProcessState, control_dir: Path | None) -> None:
    """Start the maintenance and control threads. Call it with the state's lock held.

    Without a control directory there is no control thread.
    """
    maintenance = Maintenance(lambda: list(state.pools.values()))
    try:
        with sent_signals_blocked():
            maintenance.start()
            state.maintenance = maintenance
            if control_dir is not None:
                control = ControlServer(control_dir, handle)
                control.start()
                state.control = control
    except RuntimeError as error:
        # No thread is to be had. The next pool that is made tries again.
        logger.warning(
            "no maintenance thread, so idle connections are not watched: %s", error
        )


def pools() -> list[ConnectionPool]:
    """Return the pools that this process has now."""
    return list(_state.pools.values())


def stats() -> list[dict[str, Any]]:
    """Return the figures of each pool of this process, as plain data at one moment.

    One dict a pool, under the keys that ``dbpool_stats --format json`` has too; see
    ``core.metrics.METRICS``. Empty before the first checkout. May be called from any
    thread; makes no round trip.
    """
    return [pool.stats() for pool in pools()]


def close() -> None:
    """Close the pools, end the threads and remove the control socket.

    Connections in use are closed at their checkin. A later checkout makes a new pool
    and starts new threads.
    """
    global _state
    old, _state = _state, _ProcessState()
    if old.control is not None:
        old.control.stop()
    if old.maintenance is not None:
        old.maintenance.stop()
    for pool in old.pools.values():
        pool.close()


def after_fork_in_child() -> None:
    """Start with an empty state; the parent's pools and socket stay as they are."""
    global _state
    old, _state = _state, _ProcessState()
    _inherited.append(old)
    if old.control is not None:
        old.control.forget()


def handle(request: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out a request of the control socket and return the reply.

    Runs in the control thread.
    """
    aliases = request.get("aliases")
    chosen = [pool for pool in pools() if aliases is None or pool.name in aliases]
    verb = request["verb"]
    for pool in chosen:
        if verb == "drain":
            pool.drain()
        elif verb == "pause":
            pool.pause()
        elif verb == "recycle":
            pool.recycle()
        elif verb == "resume":
            pool.resume()
    reply: dict[str, Any] = {
        "version": protocol.VERSION,
        "ok": True,
        "pid": os.getpid(),
        "command": _command(),
        "uptime": time.monotonic() - (_state.started_at or time.monotonic()),
        "pools": [pool.stats() for pool in chosen],
    }
    if request.get("holders"):
        reply["holders"] = [holder for pool in chosen for holder in pool.holders()]
    return reply


def _command() -> str:
    """Return the command line of this process, masked, at most 200 characters."""
    program, *arguments = sys.argv or [""]
    directory, name = os.path.split(program)
    if name == "__main__.py":  # as with python -m celery
        name = os.path.basename(directory)
    return " ".join([name or "python", *masked(arguments)])[:200]
