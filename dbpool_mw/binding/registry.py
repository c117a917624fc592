"""What this process owns: its pools by alias, its threads, its control socket.

The threads start with the first pool, and so does the control socket: a management
command, which makes no pool, has neither.

A fork gives the child an empty house. ``after_fork_in_child`` forgets everything
without closing it, because the sockets are the parent's; psycopg2 leaves alone what
another process opened.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from django.apps import apps
from django.db import connections

from dbpool_mw import conf
from dbpool_mw.control import protocol
from dbpool_mw.control.server import ControlServer
from dbpool_mw.core.background import Maintenance
from dbpool_mw.core.entry import Owner
from dbpool_mw.core.pool import ConnectionPool
from dbpool_mw.drivers.psycopg2.driver import Character

Connect = Callable[["Owner | None"], Any]
Reset = Callable[["Owner | None", Any, Character], None]


class _House:
    """Everything that a fork must leave behind."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pools: dict[str, ConnectionPool] = {}
        self.maintenance: Maintenance | None = None
        self.control: ControlServer | None = None
        self.began: float | None = None


_house = _House()

_serves = False


def serve() -> None:
    """Note that this process serves: requests, tasks, or blocks of ``pooled()``."""
    global _serves
    _serves = True


def serves() -> bool:
    """Tell whether an ENGINE of ours is to pool what this thread connects.

    Not in the main thread of a process that serves nothing, as a management command: it
    must start no thread and keep no connection by being run. Nor while the apps are
    being loaded: the process may be about to make a test database, and to fork.
    """
    return apps.ready and (
        _serves or threading.current_thread() is not threading.main_thread()
    )


#: The database of each alias as the project configured it; see ``remember_databases``.
_configured: dict[str, str] = {}


def remember_databases() -> None:
    """Note which database each alias is configured for; called once, at start.

    Django's test runner changes the names later. A pool made after that never keeps a
    connection, so that the test database can be dropped; see also ``_is_test_run``.
    """
    _configured.update(
        (alias, values["NAME"]) for alias, values in connections.settings.items()
    )


def pool(alias: str, database: str) -> ConnectionPool | None:
    """Give the pool of an alias, None if there is none for this database yet.

    Called at every checkout, from any thread.
    """
    found = _house.pools.get(alias)
    return found if found is not None and found.database == database else None


def make_pool(
    alias: str, database: str, connect: Connect, reset: Reset
) -> ConnectionPool:
    """Make the pool of an alias, in the place of one for another database.

    ``database`` is what the alias is called on the server now. Of several threads that
    come at once, all get the same pool. Raises ImproperlyConfigured when the settings
    are wrong.
    """
    config, directory = conf.config_for(alias), conf.control_dir()
    house = _house
    with house.lock:
        old = house.pools.get(alias)
        if old is not None and old.database == database:
            return old
        new = ConnectionPool(
            alias, config, database=database, connect=connect, reset=reset
        )
        house.pools[alias] = new
        house.began = house.began or time.monotonic()
        if database != _configured.get(alias, database) or _is_test_run():
            new.drain()
        elif house.maintenance is None:
            _start_threads(house, directory)
    if old is not None:
        old.close()
    return new


def is_untested(alias: str, database: str) -> bool:
    """Tell whether this is a test run, and no test database was made for the alias."""
    return _is_test_run() and database == _configured.get(alias)


def _is_test_run() -> bool:
    """Tell whether a test runner is at work: Django's own, or pytest-django.

    A test database may have the configured name; and tests that need none, or are
    being imported, still have the configured one.
    """
    tests = sys.modules.get("django.test.utils")
    # Where setup_test_environment() keeps what it changed (read in 4.2 to 6.1).
    return hasattr(getattr(tests, "_TestState", None), "saved_data")


def _start_threads(house: _House, control_dir: Path) -> None:
    """Start what runs beside the requests. The house's lock is held.

    These threads take no signal, which their starter's mask says: one that the main
    thread blocks must wait. billiard blocks SIGTERM, for one, while it holds the lock
    that all of a Celery worker's children share, and a child that died of it then would
    stop them all.
    """
    house.maintenance = Maintenance(lambda: list(house.pools.values()))
    house.control = ControlServer(control_dir, handle)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        house.maintenance.start()
        house.control.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


#: What somebody sends; the others are a thread's own faults.
_SIGNALS = signal.valid_signals() - {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
}


def pools() -> list[ConnectionPool]:
    """Give the pools that this process has now."""
    return list(_house.pools.values())


def close() -> None:
    """Close the pools, end the threads and remove the control socket.

    Connections in use close at their checkin. A later checkout starts all anew.
    """
    global _house
    old, _house = _house, _House()
    if old.control is not None:
        old.control.stop()
    if old.maintenance is not None:
        old.maintenance.stop()
    for each in old.pools.values():
        each.close()


def after_fork_in_child() -> None:
    """Forget the parent's pools, threads and socket without touching them."""
    global _house
    old, _house = _house, _House()
    _inherited.append(old)
    if old.control is not None:
        old.control.forget()


#: What a parent left to its forks: kept, because a finaliser must not run on it.
_inherited: list[_House] = []


def handle(request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a request of the control socket; runs on the control thread."""
    wanted = request.get("aliases")
    chosen = [p for p in pools() if wanted is None or p.name in wanted]
    verb = request["verb"]
    if verb != "stats":
        for each in chosen:
            getattr(each, verb)()
    reply: dict[str, Any] = {
        "version": protocol.VERSION,
        "ok": True,
        "pid": os.getpid(),
        "command": _command(),
        "uptime": time.monotonic() - (_house.began or time.monotonic()),
        "pools": [each.stats() for each in chosen],
    }
    if request.get("holders"):
        reply["holders"] = [holder for each in chosen for holder in each.holders()]
    return reply


def _command() -> str:
    """Say what this process runs as, in the words it was started with."""
    program, *arguments = sys.argv or [""]
    directory, name = os.path.split(program)
    if name == "__main__.py":  # python -m celery, say
        name = os.path.basename(directory)
    return " ".join([name or "python", *arguments])[:200]
