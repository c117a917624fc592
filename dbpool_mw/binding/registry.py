"""The pools, the threads and the control socket of this process.

The threads and the socket start when the process begins to serve, which is when a
server loads the middleware, or else with the first request, task, block of ``pooled()``
or thread that checks a connection out. A management command does none of that: with an
ENGINE of this package its main thread has pools without them. Should it serve after
all, those pools are replaced.

After a fork the child starts with an empty state. It drops the parent's pools without
closing their connections, because the sockets are the parent's. A process that loaded
the middleware and forks before it served anything, such as gunicorn's master with
``--preload``, has its children serve: they begin in its place.
"""

from __future__ import annotations

import _thread
import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from django.db import connections

from dbpool_mw import conf
from dbpool_mw.binding import parameters, testing, uwsgi
from dbpool_mw.binding.parameters import Parameters
from dbpool_mw.binding.pools import Build, Pools
from dbpool_mw.control.server import ControlServer
from dbpool_mw.control.worker import Worker
from dbpool_mw.core.background import Maintenance, sent_signals_blocked
from dbpool_mw.core.listener import Listener
from dbpool_mw.core.logs import get_logger
from dbpool_mw.core.pool import ConnectionPool
from dbpool_mw.core.slots import DRAINING, PAUSED, RUNNING

logger = get_logger("dbpool_mw.pool")

#: Seconds until what could not start is tried again: the maintenance thread, and the
#: control socket, for which the pause doubles up to the most.
_RETRY_SECONDS = 1.0
_RETRY_CONTROL_SECONDS = 30.0
_RETRY_CONTROL_MOST = 600.0

#: The first state of a pool that is made under an order.
_FIRST = {"drain": DRAINING, "pause": PAUSED}


class _ProcessState:
    """What belongs to this process, and not to its children.

    Nothing is logged and no thread started while ``lock`` is held: a log handler may
    wait for a connection, in a thread that waits for this lock.
    """

    #: The name of what ``maintain`` does, for the maintenance thread.
    name = "registry"

    def __init__(self) -> None:
        # Re-entrant for finalisers, which may check out in the middle of anything.
        self.lock = threading.RLock()
        self.starting = threading.Lock()
        self.closed = threading.Event()
        self.pid = os.getpid()
        self.pools = Pools()
        self.worker = Worker(conf.control_dir, lambda: self.pools.all(), lock=self.lock)
        self.maintenance: Maintenance | None = None
        self.control: ControlServer | None = None
        #: When to start what doesn't run: infinity while nothing is missing.
        self.maintenance_due = math.inf
        self.control_due = math.inf
        self.control_pause = _RETRY_CONTROL_SECONDS

    def maintain(self) -> None:
        """Close the pools that nobody needs any more; see to the socket and the orders.

        The maintenance thread calls it.
        """
        databases = connections.settings
        with self.lock:
            for alias in self.pools.aliases():
                if alias not in databases:
                    conf.forget_alias(alias)
            removed = self.pools.remove_unused(databases)
        for pool in removed:
            pool.close()
        self.start_control()
        self.worker.maintain()

    def will_start(self) -> bool:
        """Have the threads start unless they run or were to start; tell whether so."""
        with self.lock:
            if self.maintenance is not None or self.maintenance_due != math.inf:
                return False
            self.maintenance_due = self.control_due = 0.0
            return True

    def start_maintenance(self) -> None:
        """Start the maintenance thread if it is missing and due.

        Where it can't start, its work is done here, in the thread of a checkout.
        """
        if not self.starting.acquire(blocking=False):
            return  # another thread is at it
        try:
            was_due = self.maintenance_due
            if self.closed.is_set() or time.monotonic() < was_due:
                return
            if self.maintenance is not None and self.maintenance.is_alive():
                # An exception had come after its start.
                self.maintenance_due = math.inf
                return
            maintenance = Maintenance(lambda: [self, *self.pools.all()])
            self.maintenance = maintenance
            try:
                with sent_signals_blocked():
                    maintenance.start()
            except RuntimeError as error:
                self.maintenance = None
                if was_due == 0 and not _has_ended():
                    logger.warning(
                        "no maintenance thread: until there is one, checkouts do its "
                        "work, once in %g s (%s)",
                        _RETRY_SECONDS,
                        error,
                    )
                maintenance.do_round()
                self.maintenance_due = time.monotonic() + _RETRY_SECONDS
                return
            self.maintenance_due = math.inf
            if was_due > 0:
                logger.info("the maintenance thread runs now")
        finally:
            self.starting.release()
        if self.closed.is_set():  # meanwhile
            maintenance.stop()

    def start_control(self) -> None:
        """Open the control socket if it is missing and due; it logs why it can't."""
        if self.maintenance is None and _has_ended():
            return
        with self.lock:
            now = time.monotonic()
            if self.closed.is_set() or now < self.control_due:
                return
            self.control_due = now + self.control_pause
            self.control_pause = min(2 * self.control_pause, _RETRY_CONTROL_MOST)
            directory = conf.control_dir()
            if directory is None:
                self.control_due = math.inf
                return
            if self.control is None:
                self.control = ControlServer(directory, self.worker.handle)
            control = self.control
        with sent_signals_blocked():
            if not control.start():
                self.control = None
                return
        self.control_due = math.inf
        if self.closed.is_set():
            control.stop()

    def stop(self) -> None:
        """End the threads and remove the control socket, for good."""
        with self.lock:
            # From here on no pool is added, and no thread started.
            self.closed.set()
        self.pools.are_dropped = True
        if self.control is not None:
            self.control.stop()
        if self.maintenance is not None and self.maintenance.is_alive():
            self.maintenance.stop()


def _has_ended() -> bool:
    """Tell whether no thread can start because the process ends: nothing is missing.

    The main thread of an embedded interpreter may have ended long before.
    """
    return not threading.main_thread().is_alive()


_state = _ProcessState()

#: The states of parent processes. They are kept, because their finalisers would close
#: what is the parents'.
_inherited: list[_ProcessState] = []

_is_serving = False

#: What makes the listener of each pool, None where nobody listens.
_make_listener: Callable[[ConnectionPool], Listener] | None = None

#: Whether this process forks those that serve; see ``before_fork``.
_children_serve = False

#: Whether the interpreter ends: no thread is started and no connection kept any more.
_is_ending = False


def is_serving() -> bool:
    """Tell whether ``note_serving`` was called in this process or in a parent."""
    return _is_serving


def note_serving() -> None:
    """Note that this process serves requests, tasks, blocks or threads of its own.

    From now on new pools have threads. A pool that was made before is closed: what the
    main thread took from it before the process served takes no place from those whom it
    serves. Called before their first checkout, in any thread. Does nothing in a process
    that only loads the application for others.
    """
    global _is_serving
    if is_serving() or uwsgi.is_loading():
        return
    state = _state
    with state.lock:
        if is_serving():
            return
        before, state.pools = state.pools, Pools()
        before.are_dropped = True
        _is_serving = True
    for pool in before.all():
        pool.close()


def current_pools() -> Pools:
    """Return the pools of this process: others after ``close()`` and after a fork."""
    return _state.pools


def start_threads() -> bool:
    """Start what is missing and due; tell whether nothing is missing.

    What could not start is tried again at the checkouts that call this.
    """
    state = _state
    if state.maintenance_due != math.inf or state.control_due == 0:
        state.start_maintenance()
        state.start_control()
    return state.maintenance_due == math.inf and not uwsgi.is_loading()


def begin() -> None:
    """Begin to serve: from now on the commands see this process.

    Starts the maintenance thread, and with its first round, about a second later, the
    control socket; the first checkout opens it at once. The second is for servers that
    load the application, fork, and have the children serve under another user. Does
    nothing during a test run, without a pooled alias, and where ``CONTROL_DIR`` is
    False. Raises ImproperlyConfigured when the settings are wrong.
    """
    if testing.is_test_run() or not conf.pooled_aliases() or not conf.control_dir():
        return
    global _children_serve
    if uwsgi.is_loading():
        _children_serve = True
        return
    state = _state
    if not _is_ending and state.will_start():
        state.start_maintenance()


def make_pool(alias: str, wanted: Parameters, build: Build) -> ConnectionPool:
    """Make the pool of an alias for some connections, unless it has one by now.

    Threads that call this at the same time get the same pool. Raises PoolError if the
    alias has too many pools, ImproperlyConfigured when settings are wrong.
    """
    conf.control_dir()  # raises before anything is made
    own = connections.settings.get(alias)
    is_own = own is not None and parameters.read(own) == wanted
    database = parameters.as_settings(wanted)["NAME"]
    keeps_none = testing.must_keep_no_idle_connection(alias, database)
    follows_no_order = keeps_none or _is_ending or uwsgi.is_loading()
    while True:
        state = _state
        serves = is_serving()
        order: contextlib.AbstractContextManager[str | None]
        if follows_no_order:
            order = contextlib.nullcontext("drain")
        elif serves:
            order = state.worker.adopting(alias)
        else:  # orders are for those who serve
            order = contextlib.nullcontext()
        with order as verb, state.lock:
            if state.closed.is_set() or serves != is_serving():
                continue
            pool = state.pools.find(alias, wanted)
            if pool is not None:
                return pool
            first = None if verb is None else _FIRST[verb]
            pool, victim = state.pools.add(alias, wanted, is_own, build, first)
            if _make_listener is not None:
                pool.listen(_make_listener(pool))
            if serves and not follows_no_order:
                state.will_start()
            break
    if victim is not None:
        victim.close()
    if keeps_none:
        # Others of this alias may be from before the tests began.
        for other in pools():
            if other.name == alias and other.state == RUNNING:
                other.drain()
    return pool


def keeps_connections(alias: str) -> bool:
    """Tell whether the alias's pools may keep idle connections here and now.

    They don't under a drain or a pause, and in a process that loads for others.
    """
    with _state.worker.adopting(alias) as verb:
        return verb is None and not uwsgi.is_loading()


def state_ordered(alias: str) -> str | None:
    """Return the state that a drain or a pause gives an alias's pools, None if neither.

    Also where this process has no pool of the alias yet. From memory.
    """
    verb = _state.worker.verb(alias)
    return None if verb is None else _FIRST[verb]


def pools() -> list[ConnectionPool]:
    """Return the pools that this process has now."""
    return _state.pools.all()


def stats() -> list[dict[str, Any]]:
    """Return the figures of each pool of this process, as plain data at one moment.

    One dict a pool, under the keys that ``dbpool_stats --format json`` has too;
    docs/metrics.rst says what each means. Empty before the first checkout. May be
    called from any thread; makes no round trip.
    """
    return [pool.stats() for pool in pools()]


def listen(make_listener: Callable[[ConnectionPool], Listener] | None) -> None:
    """Have every pool of this process and its children tell a listener of its own.

    That holds for pools that are made later too. None ends it.
    """
    global _make_listener
    _make_listener = make_listener
    # A pool that is made meanwhile is here, or its maker has seen the change.
    for pool in pools():
        pool.stats()  # counts what ended before
        pool.listen(None if make_listener is None else make_listener(pool))


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this process answers a request of ``protocol.request``, in memory.

    May be called from any thread, also where there is no control socket.
    """
    return _state.worker.handle(request)


def close() -> None:
    """Close the pools, end the threads and remove the control socket.

    Connections in use are closed at their checkin. A later checkout makes a new pool
    and starts new threads.
    """
    global _state
    old, _state = _state, _ProcessState()
    old.stop()
    for pool in old.pools.all():
        pool.close()


def close_at_exit() -> None:
    """Close the pools when the interpreter ends.

    Daemon threads may go on until the very end: each of their checkouts opens a
    connection then, which is closed at its checkin.
    """
    global _is_ending
    _is_ending = True
    close()


def before_fork() -> None:
    """Leave serving to the children if this process has begun and served nothing.

    It ends its threads, so that it doesn't fork with threads and isn't seen as a
    worker. Should it serve after all, it begins again.
    """
    global _children_serve, _state
    state = _state
    with state.lock:
        has_begun = state.maintenance is not None
        _children_serve = not _is_serving and (has_begun or _children_serve)
        if not _children_serve or not has_begun:
            return
        new = _ProcessState()
        # The main thread keeps the pools that it has without serving.
        new.pools, state.pools = state.pools, new.pools
        _state = new
        state.closed.set()
    state.stop()


def after_fork_in_child() -> bool:
    """Start with an empty state; the parent's pools and socket stay as they are.

    Tells whether the state was the parent's. It isn't where uWSGI runs Python's hooks
    and its own, or has the process that loaded the application serve, too.
    """
    global _children_serve, _state, _is_ending
    is_inherited = _state.pid != os.getpid()
    if is_inherited:
        old, _state = _state, _ProcessState()
        _is_ending = False
        old.pools.are_dropped = True
        _inherited.append(old)
        if old.control is not None:
            old.control.forget()
    if _children_serve:
        _children_serve = False
        # In a thread, which runs when the fork is done: until then gevent's event loop
        # is the parent's.
        with contextlib.suppress(RuntimeError), sent_signals_blocked():
            _thread.start_new_thread(begin, ())
    return is_inherited
