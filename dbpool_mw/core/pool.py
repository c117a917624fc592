"""The pool: who gets which connection, and when.

``ConnectionPool`` has the lock and does the I/O; its decisions are in ``slots``. The
lock is held for microseconds: nothing that can block, or call code of others, runs
meanwhile, but for finalisers, which the garbage collector runs at any allocation. A
slot is freed only after its connection was closed.

The checkout of an idle connection and the checkin of a clean one take no lock, which
would cost them a third of their time. What they rely on:

- ``idle.pop()`` and ``idle.append()`` are atomic: an entry that is in ``idle`` belongs
  to nobody, and whoever takes it out has it alone.
- Whoever queues up looks at ``idle`` afterwards, and whoever has put an entry into
  ``idle`` looks at the queue afterwards: one of the two sees the other. The same goes
  for a change of the pool's state.
- A checkin makes the entry BUSY before it looks at anything else, and a checkout makes
  it IN_USE after it has noted holder and time: what is IN_USE is a hold that goes on,
  with its own holder and time.
- A hold is ended by one caller: holders see to that (``Binding.held``).

Borrowed: the hand-over to the oldest waiter (psycopg_pool), few states of an entry
(puddle), a reason for every close (HikariCP).
"""

from __future__ import annotations

import _thread
import contextlib
import math
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from . import report
from .background import spawn
from .cleaning import Cleaner, Foreseen
from .config import PoolConfig
from .driver import Driver
from .entry import BUSY, CONNECTING, IDLE, IN_USE, Holder, PoolEntry, hold_id
from .errors import ConnectFailed, PoolClosed, PoolError, PoolTimeout, TooManyRequests
from .history import MOST, History
from .listener import Listener
from .logs import get_logger
from .metrics import PoolMetrics
from .orphans import Orphans, is_in_pool, stamp
from .routes import Routes
from .slots import (
    DRAINING,
    PAUSED,
    ROUND_TRIP_SECONDS,
    RUNNING,
    SHORT_WAIT_SECONDS,
    SHUT,
    Slots,
    Victim,
)
from .stack import capture
from .unreturned import Unreturned
from .waiter import Waiter
from .watch import Watch, goes_on

logger = get_logger("dbpool_mw.pool")

#: Seconds that an attempt to connect may take at least, whatever TIMEOUT says, because
#: libpq's own limit can't be less; and those that a ping has at least.
_LEAST_CONNECT_SECONDS = 2.0
_LEAST_PING_SECONDS = 0.5

#: Seconds that opening a connection ahead may take.
_REFILL_SECONDS = 30.0

#: How many holds may have ended without being counted.
_MOST_ENDED = 256

#: The lock of each process. All its pools share it: a finaliser may use a pool in a
#: thread that has the lock for another one, and two such threads would wait for each
#: other. Re-entrant, so that a finaliser can find out that its thread has the lock:
#: nothing here takes it twice. A child of a fork has its own, whatever the fork ran.
_locks: dict[int, threading.RLock] = {}

#: Lifetimes are shortened by up to this share, at random, so that connections opened
#: together don't all expire together.
_LIFETIME_JITTER = 0.1


class ConnectionPool:
    """At most ``config.max_conns`` connections, each with one holder at a time.

    ``name`` is the alias. ``label`` stands in log lines, and tells the pools of one
    alias apart; ``database`` and ``address``, which says where it is, stand in reports.
    ``state`` is the first: running, draining or paused.

    ``connect(entry, holder)`` opens a connection and sets ``entry.connection``, for a
    holder or for a refill (None). ``reset(entry)`` makes a dirty session as good as a
    new one, or raises ResetFailed. Both are called outside the lock, in the thread that
    checks out or in or in one of the background, and may raise anything.

    Every public method may be called from any thread.
    """

    def __init__(
        self,
        name: str,
        config: PoolConfig,
        *,
        driver: Driver,
        connect: Callable[[PoolEntry, Holder | None], None],
        reset: Callable[[PoolEntry], None],
        database: str = "",
        address: str = "",
        label: str | None = None,
        state: str = RUNNING,
        clock: Callable[[], float] = time.monotonic,
        make_waiter: Callable[[], Waiter] = Waiter,
        spawn: Callable[..., bool] = spawn,
    ) -> None:
        self.name = name
        self.label = label or name
        self.database = database
        self.address = address
        self.config = config
        self._driver = driver
        self._connect = connect
        self._clock = clock
        self._timeout = config.timeout
        self._check_after_idle = config.check_after_idle
        self._captures_stacks = config.leak_after < math.inf
        # With RESET "always", or a function, every session is cleaned.
        trusts_driver = config.reset in ("auto", "never")
        self._is_clean = driver.is_clean if trusts_driver else _never_clean
        self._cleaner = Cleaner(self.label, driver, config.reset, reset)

        self._spawn = spawn

        self._listener: Listener | None = None

        self._pid = os.getpid()
        # What is to be done soon, by another thread. Needs no lock: a deque's methods
        # are atomic.
        self._deferred: deque[Callable[[], object]] = deque()
        self._orphans = Orphans()
        self._unreturned = Unreturned()
        self._lock = _locks.setdefault(os.getpid(), threading.RLock())
        # The lock guards what these three hold, but for the two below.
        self._slots = Slots(config, clock, make_waiter, state)
        self._watch = Watch(self.label, config, driver)
        self._metrics = PoolMetrics()
        self._history = History(clock())
        self._routes: Routes | None = None
        if config.routes:
            self._routes = Routes(config.routes)
            # Of this pool alone: without ROUTES a checkin asks for nothing.
            self._end_hold = self._end_hold_of_route  # type: ignore[method-assign]
        # For checkout and checkin: parts of the two above.
        self._idle = self._slots.idle
        self._ended = self._metrics.ended

    # --- Checkout --------------------------------------------------------------------

    def checkout(
        self, holder: Holder, timeout: float | None = None, eager: bool = False
    ) -> PoolEntry:
        """Return an entry whose connection is the holder's until it checks it in.

        Takes at most ``timeout`` seconds (None: TIMEOUT), queueing, looks at idle
        connections and connecting together; but an attempt to connect has two. Raises
        PoolTimeout, TooManyRequests, PoolClosed, or what ``connect`` raises, and
        PoolError if it was cancelled meanwhile: see ``cancel_waits``. A caller whose
        connect failed waits for connections in use, if there are any.

        ``eager`` says that the holder may not need the connection at all: then an
        attempt to connect that fails, also another caller's while this one waits, ends
        the checkout with ConnectFailed. From then on no eager caller makes an attempt,
        or waits for one, until another caller's has succeeded.
        """
        began = self._clock()
        entry = fit = None
        try:
            if self._idle:
                entry = self._idle.pop()
                entry.checked_out_at = began
                entry.holder = holder
                entry.state = IN_USE
                fit = entry.generation == self._slots.generation and entry.alive()
                if fit and began - entry.idle_since < self._check_after_idle:
                    if self._captures_stacks:
                        entry.stack = () if eager else capture()
                    entry.checkouts += 1
                    return entry
        except IndexError:
            pass  # another thread took it
        except BaseException:
            if entry is not None and self._is_reentered():
                self._defer(partial(self._abandon, entry))
            elif entry is not None:
                self._abandon(entry)
            raise
        deadline = began + (self._timeout if timeout is None else timeout)
        return self._check_out(entry, fit, holder, began, deadline, eager)

    def _check_out(
        self,
        entry: PoolEntry | None,
        fit: bool | None,
        holder: Holder,
        began: float,
        deadline: float,
        eager: bool,
    ) -> PoolEntry:
        """Go on with a checkout that has no connection, or one that may be of no use.

        ``entry``, if there is one, is the holder's already, and ``fit`` says what was
        seen of it. That counts: what was said to a connection can be read once.
        """
        if self._is_reentered(3):
            if entry is not None:
                self._defer(partial(self._abandon, entry))
            raise PoolError(
                self.name,
                f"pool {self.name!r} was used by a finaliser while its thread used "
                "it or another one",
            )
        try:
            return self._obtain(entry, fit, holder, began, deadline, eager)
        except Exception as error:
            if self._listener is not None:
                self._listener.waited(self._clock() - began, error)
            raise

    def _obtain(
        self,
        entry: PoolEntry | None,
        fit: bool | None,
        holder: Holder,
        began: float,
        deadline: float,
        eager: bool,
    ) -> PoolEntry:
        """Return an entry that is ready for use: see ``_check_out``."""
        now = began
        took_time = queued = pinged = connect_failed = False
        while True:
            try:
                if entry is None:
                    took_time, fit = True, None
                    entry, waited = self._acquire(
                        holder, began, deadline, connect_failed, eager
                    )
                    queued = queued or waited
                    now = self._clock()
                if entry.state is CONNECTING:
                    if pinged and now > deadline:
                        raise self._timed_out(began, deadline)
                    self._open(entry, holder, deadline)
                    break
                if fit is None:
                    fit = entry.generation == self._slots.generation and entry.alive()
                if fit:
                    if now - entry.idle_since < self._check_after_idle:
                        break
                    took_time = pinged = True
                    if self._ping(entry, holder, deadline):
                        break
                took_time, fit = True, None
                entry = self._replace(entry, holder, eager)
                now = self._clock()
            except BaseException as error:
                if entry is not None:
                    self._abandon(entry)
                is_own = self._is_own_failure(error)
                if not is_own or not self._slots.entries:
                    if is_own and not eager:
                        self._count_refusal("connect")
                    raise
                if eager:
                    if entry is not None and isinstance(error, ConnectFailed):
                        took = self._clock() - began
                        error.may_wait = took < SHORT_WAIT_SECONDS
                    raise
                # Connections in use may come back in time: wait for one.
                entry, connect_failed = None, True
        if took_time:
            now = self._clock()
            entry.waited = now - began
            entry.checked_out_at = now
            if holder.cancellation()():
                entry.waited = 0.0
                self._keep_or_close(entry)
                with self._lock:
                    raise self._cancelled()
            if queued and self._listener is not None:
                self._listener.waited(entry.waited, None)
        if self._captures_stacks:
            entry.stack = () if eager else capture()
        entry.checkouts += 1
        return entry

    def _acquire(
        self,
        holder: Holder,
        began: float,
        deadline: float,
        connect_failed: bool,
        eager: bool,
    ) -> tuple[PoolEntry, bool]:
        """Return an idle connection or a slot to connect in; wait in the queue for it.

        Tells too whether it waited. A caller whose connect failed keeps its original
        position in the queue.
        """
        bypasses_pause = holder.holds_another()
        is_cancelled = holder.cancellation()
        slots = self._slots
        waiter = None
        with self._lock:
            if slots.state is SHUT:
                self._metrics.refused["closed"] += 1
                raise PoolClosed(self.name, f"pool {self.name!r} is closed")
            if is_cancelled():
                raise self._cancelled()
            slots.serve()
            entry = slots.take(holder, bypasses_pause, eager)
            if entry is not None:
                return entry, False
            if eager and slots.sends_on(bypasses_pause):
                failed = ConnectFailed(
                    self.name, f"pool {self.name!r} can't connect now"
                )
                failed.may_wait = self._clock() - began < SHORT_WAIT_SECONDS
                raise failed
            if connect_failed:
                waiter = slots.queue_up(holder, bypasses_pause, since=began)
            elif slots.is_full():
                self._metrics.refused["max_waiting"] += 1
            else:
                waiter = slots.queue_up(holder, bypasses_pause)
                self._metrics.count["waits"] += 1
            if waiter is not None:
                waiter.is_cancelled = is_cancelled
                waiter.eager = eager
                slots.serve()
        if waiter is None:
            raise TooManyRequests(
                self.name,
                f"pool {self.name!r}: MAX_WAITING ({self.config.max_waiting}) callers "
                "wait already",
                self._explain(),
            )
        self._wait(waiter, deadline)
        if waiter.entry is None and is_cancelled():
            with self._lock:
                raise self._cancelled()
        if waiter.error is not None:
            raise waiter.error
        if waiter.entry is None:
            raise self._timed_out(began, deadline)
        return waiter.entry, True

    def _timed_out(self, began: float, deadline: float) -> PoolTimeout:
        """Count a time-out, and return the error that says what it was waited for."""
        self._count_refusal("timeout")
        return PoolTimeout(
            self.name,
            f"pool {self.name!r}: no connection within {deadline - began:g} s",
            self._explain(),
        )

    def _count_refusal(self, reason: str) -> None:
        with self._lock:
            self._metrics.refused[reason] += 1

    def cancel_waits(self) -> None:
        """End the waits of all who have been cancelled: their checkouts raise.

        One that has been cancelled and doesn't wait yet, or connects, finds out itself.
        Blocks on nothing but the lock: an event loop may call this.
        """
        if self._is_reentered():
            self._defer(self.cancel_waits)
            return
        self._end_waits()

    def _end_waits(self) -> None:
        """End the waits that are for nothing: cancelled, or the pool is closed."""
        with self._lock:
            is_shut = self._slots.state is SHUT
            for waiter in list(self._slots.waiters):
                is_cancelled = waiter.is_cancelled()
                if is_shut or is_cancelled:
                    self._metrics.refused["closed"] += not is_cancelled
                    # If it was cancelled, its checkout says so instead.
                    error = PoolClosed(self.name, f"pool {self.name!r} was closed")
                    self._slots.fail(waiter, error)
            self._slots.wake_for_retry()

    def _cancelled(self) -> PoolError:
        """Count a checkout that was cancelled, and return its error.

        Call with the lock held.
        """
        self._metrics.count["cancelled"] += 1
        return PoolError(self.name, f"pool {self.name!r}: the checkout was cancelled")

    def _is_reentered(self, frames: int = 2) -> bool:
        """Tell whether this thread has the lock and is in the middle of its use.

        Then a finaliser has called. Otherwise, if this thread has the lock, an
        exception came between the last line of a ``with`` block and its exit, as a
        trace function can raise one, and a signal's handler can't: the lock, which
        nobody uses any more, is released. A thread that ends before its next call keeps
        the lock for good. ``frames`` is how many frames up the pool was called.
        """
        if not self._lock._is_owned():  # type: ignore[attr-defined]
            return False
        if is_in_pool(sys._getframe(frames)):
            return True
        while self._lock._is_owned():  # type: ignore[attr-defined]
            self._lock.release()
        return False

    def _wait(self, waiter: Waiter, deadline: float) -> None:
        """Block until a waiter is given an entry or an error, or the deadline is over.

        A waiter that is given nothing has left the queue when this returns. While
        connecting is put off, it wakes up to see whether the next attempt is due.
        """
        slots = self._slots
        left = deadline - self._clock()
        try:
            while True:
                with self._lock:
                    nap = min(left, slots.backoff.seconds())
                if not waiter.wait(nap):
                    # Naps count as well as the clock: a wait must end even if the
                    # clock stands still.
                    left -= nap
                left = min(left, deadline - self._clock())
                with self._lock:
                    slots.serve()
                    slots.grant()
                    if waiter.is_served():
                        return
                    if left <= 0:
                        slots.leave_queue(waiter)
                        return
        except BaseException:
            with self._lock:
                slots.leave_queue(waiter)
            if waiter.entry is not None:
                self._abandon(waiter.entry)
            raise

    def _open(self, entry: PoolEntry, holder: Holder | None, deadline: float) -> None:
        """Open the connection of a reserved slot. Raises what ``connect`` raises."""
        began = self._clock()
        try:
            entry.worker = threading.get_ident()
            entry.deadline = max(deadline, began + _LEAST_CONNECT_SECONDS)
            self._connect(entry, holder)
            entry.alive = self._driver.liveness(entry.connection)
            entry.initial = self._driver.session_attributes(entry.connection)
            entry.socket_number = self._driver.socket_number(entry.connection)
        except BaseException as error:
            with self._lock:
                self._metrics.count["connect_errors"] += 1
                if isinstance(error, ConnectFailed) and self._is_own_failure(error):
                    self._slots.connect_failed(error)
            if entry.connection is not None:
                self._driver.close(entry.connection)
                entry.connection = None
            raise
        now = self._clock()
        shorter = 1 - random.random() * _LIFETIME_JITTER
        entry.expires_at = now + self.config.max_lifetime * shorter
        with self._lock:
            self._metrics.record_connect(now - began)
            self._slots.give(entry, holder, now)
            if self._slots.backoff.succeeded():
                self._slots.grant()
            size, shut = len(self._slots.entries), self._slots.state is SHUT
        logger.info("%s: opened a connection (%d of %d)", self.label, size, self._max)
        if shut:
            if holder is not None:
                self._count_refusal("closed")
            raise PoolClosed(
                self.name, f"pool {self.name!r} was closed while connecting"
            )

    def _is_own_failure(self, error: BaseException) -> bool:
        """Tell whether this pool could not connect.

        What is called while a connection is opened may use another pool, and that one's
        failure is none of this pool's.
        """
        return isinstance(error, ConnectFailed) and error.alias == self.name

    def _ping(self, entry: PoolEntry, holder: Holder, deadline: float) -> bool:
        """Ask the server of a connection that was idle for long; return if it answers.

        One round trip, for which there is half of the time that is left: the rest is
        for connecting. Without an answer in time, the connections that are idle for as
        long are closed unasked.
        """
        with self._lock:
            self._metrics.count["checks"] += 1
            began = self._clock()
            seconds = max((deadline - began) / 2, _LEAST_PING_SECONDS)
            self._slots.own(entry, min(seconds, ROUND_TRIP_SECONDS))
        answered = self._driver.ping(entry.connection)
        suspects: list[Victim] = []
        with self._lock:
            now = self._clock()
            if answered:
                self._slots.give(entry, holder, now)
            elif now >= entry.deadline:
                suspects = self._slots.remove_suspects()
        self._close_in_background(suspects)
        return answered

    def _replace(
        self, useless: PoolEntry, holder: Holder, eager: bool
    ) -> PoolEntry | None:
        """Close a dead or stale connection; return another idle one, or its slot.

        None if the caller may open no connection in it now, and has to wait.
        """
        with self._lock:
            self._slots.own(useless)
            is_stale = useless.generation != self._slots.generation
            reason = self._slots.stale_reason if is_stale else "dead"
        self._driver.close(useless.connection)
        if not is_stale:
            logger.info("%s: a connection died while idle; replacing it", self.label)
        with self._lock:
            self._metrics.discarded[reason] += 1
            return self._slots.replace(useless, holder, eager)

    def _abandon(self, entry: PoolEntry) -> None:
        """Free the slot of an entry whose checkout failed half-way."""
        with self._lock:
            if entry.connection is None:
                self._slots.free(entry)
                return
            self._slots.own(entry)
        self._close((entry, "interrupted"))

    def _keep_or_close(self, entry: PoolEntry) -> None:
        """Put a connection into the pool that was made ready and that nobody used."""
        with self._lock:
            reason = self._slots.keep(entry, self._clock())
            if reason is not None:
                self._slots.own(entry)
        if reason is not None:
            self._close((entry, reason))

    # --- Checkin ---------------------------------------------------------------------

    def checkin(self, entry: PoolEntry) -> None:
        """Take a connection back from its holder.

        A clean connection goes to the oldest waiter, else to the idle ones, without a
        round trip. An open transaction is rolled back, a dirty session is reset; a
        connection that can't be cleaned is closed, which is no error. Raises PoolError
        for an entry that is not in use.
        """
        now = self._clock()
        self._end_hold(entry, now)
        is_clean = self._is_clean(entry.connection, entry.initial)
        slots = self._slots
        if (
            is_clean
            and entry.generation == slots.keeps
            and now < entry.expires_at
            and not slots.waiters
        ):
            entry.idle_since = now
            entry.holder = None
            entry.state = IDLE
            self._idle.append(entry)
            if (
                slots.waiters
                or entry.generation != slots.keeps
                or len(self._ended) >= _MOST_ENDED
            ):
                self._settle()
        else:
            self._check_in(entry, is_clean)

    def _check_in(self, entry: PoolEntry, is_clean: bool) -> None:
        """Hand a connection to a waiter, clean it, close it, or keep it."""
        if self._is_reentered(3):
            self._defer(partial(self._check_in, entry, is_clean))
            return
        with self._lock:
            now = self._clock()
            self._fold()
            if is_clean:
                reason = self._slots.keep(entry, now)
                if reason is None:
                    return
            else:
                reason = self._slots.reason_to_close(entry, now)
            self._slots.own(entry)
        if reason is None:
            reason = self._clean(entry)
        if reason is not None:
            self._close((entry, reason))

    def _settle(self) -> None:
        """Do what a checkin without the lock has left.

        Somebody queued up, or changed the pool's state, after the checkin had looked
        and before its connection was idle; or many ended holds are to be counted.
        """
        if self._is_reentered(3):
            self._defer(self._settle)
            return
        with self._lock:
            self._fold()
            victims = self._slots.remove_stale()
            self._slots.serve()
        self._close(*victims)

    def is_clean(self, entry: PoolEntry) -> bool:
        """Tell whether a checkin has nothing to clean; no round trip.

        Call it in the holder's thread. With RESET "always", or a function, no session
        is taken for clean.
        """
        return self._is_clean(entry.connection, entry.initial)

    def foresee(self, entry: PoolEntry) -> Foreseen:
        """Tell what a checkin would do to the session as it is now; no round trip."""
        return self._cleaner.foresee(entry)

    def has_ended(self, entry: PoolEntry) -> bool:
        """Tell whether a connection is closed, at either side; no round trip."""
        return self._driver.has_ended(entry.connection)

    def discard(self, entry: PoolEntry, reason: str) -> None:
        """Take a connection back from its holder and close it; ``reason`` is counted.

        Raises PoolError for an entry that is not in use.
        """
        if self._is_reentered():
            self._defer(partial(self.discard, entry, reason))
            return
        with self._lock:
            self._end_hold(entry, self._clock())
            self._slots.own(entry)
        self._close((entry, reason))

    def reclaim_soon(self, entry: PoolEntry) -> None:
        """Have another thread reclaim an entry whose holder is gone.

        For finalisers: they run in any thread, at any allocation, perhaps while that
        thread holds the pools' lock. So this takes no lock, and starting a bare thread
        takes none. Does nothing in a forked child, where the parent's other threads
        look as if they had ended while they go on using their connections.
        """
        self._defer(partial(self.reclaim, entry))

    def _defer(self, call: Callable[[], object]) -> None:
        """Have a bare thread make a call; takes no lock."""
        if os.getpid() != self._pid:
            return
        self._deferred.append(call)
        # At the interpreter's end, or with no thread left, ``maintain`` makes the call.
        with contextlib.suppress(RuntimeError):
            _thread.start_new_thread(self._call_deferred, ())

    def _call_deferred(self) -> None:
        while True:
            # Two threads may do this at once: popleft gives each call to one of them.
            try:
                call = self._deferred.popleft()
            except IndexError:
                return
            call()

    def reclaim(self, entry: PoolEntry) -> None:
        """Check in a connection whose holder no longer exists; log and count it."""
        with self._lock:
            self._metrics.count["reclaimed"] += 1
        holder = _describe(entry)
        try:
            self.checkin(entry)
        finally:
            logger.warning(
                "%s: reclaimed a connection from a holder that is gone (%s)",
                self.label,
                holder,
            )

    def _end_hold(self, entry: PoolEntry, now: float) -> None:
        """Record the end of a hold, which makes the entry the caller's."""
        if entry.state is not IN_USE:
            raise PoolError(
                self.name,
                f"bug: pool {self.name!r} got an entry back that is {entry.state}",
            )
        entry.state = BUSY
        # From now on cursors that this holder opened are of no use any more.
        entry.connection.lease += 1
        if entry.waited:
            wait_and_hold = (entry.waited, now - entry.checked_out_at)
            self._metrics.ended_after_wait.append(wait_and_hold)
            entry.waited = 0.0
        else:
            self._ended.append(now - entry.checked_out_at)
        entry.leaked = False

    def _end_hold_of_route(self, entry: PoolEntry, now: float) -> None:
        """Record the end of a hold, also by the name of its work."""
        holder, wait, hold = entry.holder, entry.waited, now - entry.checked_out_at
        ConnectionPool._end_hold(self, entry, now)
        assert self._routes is not None
        self._routes.note(holder, wait, hold)

    def _fold(self) -> None:
        """Count the holds that have ended; call with the lock held."""
        self._metrics.fold()
        if self._routes is not None:
            self._routes.fold()

    def _clean(self, entry: PoolEntry) -> str | None:
        """Clean a BUSY entry and keep it, or return the reason to close it."""
        try:
            reason, rolled_back, was_reset = self._cleaner.clean(entry)
        except BaseException:
            self._close((entry, "interrupted"))
            raise
        holder = _describe(entry) if rolled_back else ""
        with self._lock:
            self._metrics.count["rollbacks"] += rolled_back
            self._metrics.count["resets"] += was_reset
            cleaned = reason is None
            reason = reason or self._slots.keep(entry, self._clock())
        # Only now: a log handler may wait for a connection.
        if rolled_back and cleaned:
            logger.warning(
                "%s: rolled back a transaction left open (%s)", self.label, holder
            )
        return reason

    def _close_in_background(self, victims: list[Victim]) -> None:
        """Close connections on another thread; they keep their slots until then."""
        if victims and not self._spawn(self._close, *victims):
            self._deferred.append(partial(self._close, *victims))

    def _close(self, *victims: Victim) -> None:
        """Close the connections of BUSY entries, then free their slots."""
        if not victims:
            return
        for entry, _ in victims:
            entry.worker = threading.get_ident()
        connections = [entry.connection for entry, _ in victims]
        try:
            self._driver.close(*connections)
        except BaseException:
            # It may have come before the call; closing twice does no harm.
            self._driver.close(*connections)
            raise
        finally:
            with self._lock:
                self._slots.note_peak()
                for entry, reason in victims:
                    if entry in self._slots.entries:
                        self._slots.free(entry)
                        self._metrics.discarded[reason] += 1
                size = len(self._slots.entries)
        for _, reason in victims:
            logger.info(
                "%s: closed a connection: %s (%d of %d)",
                self.label,
                reason,
                size,
                self._max,
            )

    # --- Maintenance -----------------------------------------------------------------

    def maintain(self) -> None:
        """Close what died, expired or is idle too long; watch the holds; refill.

        The maintenance thread calls it from time to time, one call at a time. It
        decides and waits for no server: what has to wait runs on threads of its own.
        Never raises for a server that can't be reached.
        """
        if self._is_reentered():
            return
        # Calls for which no thread could be started, or one that never runs: a greenlet
        # of gevent's in a thread of gevent's own.
        self._call_deferred()
        self._sample()
        self._end_waits()
        self._reclaim_orphans()
        self._reclaim_unreturned()
        self._close_unfit()
        now = self._clock()
        with self._lock:
            sighting = self._watch.look(self._slots.entries, now)
            self._metrics.count["leaked"] += len(sighting.leaks)
            self._metrics.count["overdue"] += len(sighting.overdue)
            reserved = self._slots.reserve_for_refill()
        self._watch.act(sighting)
        if reserved is not None and not self._spawn(self._refill, reserved):
            self._abandon(reserved)

    def _sample(self) -> None:
        """Add what happened since the last round to the history."""
        now = self._clock()
        if not self._history.is_due(now):
            return
        with self._lock:
            figures = self._figures(now)
            maxima = self._metrics.take_maxima()
            peaks = self._slots.take_peaks()
        self._history.add(now, figures, maxima, peaks)

    def _reclaim_orphans(self) -> None:
        """Take back the entries that nobody has: see ``orphans``."""
        with self._lock:
            self._fold()
            self._slots.repair_queue()
            entries = list(self._slots.entries)
            holders = [waiter.holder for waiter in self._slots.waiters]
        waiting = {holder.thread_id for holder in holders if holder is not None}
        for entry, seen in self._orphans.find(entries, self._slots.idle, waiting):
            holder = _describe(entry)
            with self._lock:
                if stamp(entry) != seen or entry not in self._slots.entries:
                    continue
                self._metrics.count["reclaimed"] += 1
                self._slots.own(entry)
            logger.warning(
                "%s: reclaimed a connection that nobody held any more (%s)",
                self.label,
                holder,
            )
            if entry.connection is None:
                with self._lock:
                    self._slots.free(entry)
            else:
                self._close_in_background([(entry, "interrupted")])
        with self._lock:
            self._metrics.reconcile(
                sum(e.state is not CONNECTING for e in self._slots.entries)
            )

    def _reclaim_unreturned(self) -> None:
        """Take back the entries that nobody is to check in: see ``unreturned``."""
        with self._lock:
            entries = list(self._slots.entries)
        for entry in self._unreturned.take(entries):
            holder = _describe(entry)
            with self._lock:
                self._metrics.count["reclaimed"] += 1
                self._end_hold(entry, self._clock())
                self._slots.own(entry)
            self._close_in_background([(entry, "interrupted")])
            logger.warning(
                "%s: reclaimed a connection that nobody was to return any more (%s)",
                self.label,
                holder,
            )

    def _close_unfit(self) -> None:
        """Close idle connections that died, expired or are idle too long."""
        with self._lock:
            idle_since = {entry: entry.idle_since for entry in list(self._idle)}
        dead = {
            entry for entry in idle_since if self._driver.has_ended(entry.connection)
        }
        with self._lock:
            victims = self._slots.remove_unfit(dead, idle_since)
        self._close_in_background(victims)

    def _refill(self, reserved: PoolEntry) -> None:
        """Open a connection in a reserved slot, and more until there are MIN_CONNS."""
        with self._lock:
            # This thread may begin so late that the slot was reclaimed.
            entry = reserved if self._slots.take_over(reserved) else None
        while entry is not None:
            try:
                self._open(entry, None, self._clock() + _REFILL_SECONDS)
            except Exception as error:
                self._abandon(entry)
                logger.warning("%s: can't refill: %s", self.label, error)
                return
            except BaseException:
                self._abandon(entry)
                raise
            self._keep_or_close(entry)
            with self._lock:
                entry = self._slots.reserve_for_refill()

    # --- Control ---------------------------------------------------------------------

    def drain(self) -> None:
        """Close idle connections and the rest at their checkin, until resumed.

        Returns at once: connections close in the background, and are stale until then.
        Checkouts go on: each opens a connection, which is closed at its checkin.
        """
        self._change_state(DRAINING, "drained")

    def pause(self) -> None:
        """Drain, and let checkouts wait in the queue until the pool is resumed.

        A holder with a connection of another pool is served all the same: with both
        pools paused, each would wait for the other.
        """
        self._change_state(PAUSED, "paused")

    def recycle(self) -> None:
        """Replace every connection by a new one, and go on pooling."""
        self._change_state(RUNNING, "recycled")

    def fail_over(self) -> None:
        """Replace every connection; a drain or a pause goes on."""
        self._change_state(None, "failed over")

    def cancel(self, holds: Collection[str]) -> list[str]:
        """Cancel holds by the ids that ``holders`` gave; return those that went on.

        What such a holder runs is cancelled, each later statement of its raises
        HoldCancelled, and its connection is closed when it comes back. A hold that has
        ended is left out, and no other hold is affected. Waits for no server.
        """
        names = frozenset(holds)
        with self._lock:
            doomed = self._watch.doom(self._slots.entries, names, self._clock())
        self._watch.cancel(doomed)
        return [name for name, _, _ in doomed]

    def resume(self) -> None:
        """End a drain or a pause."""
        self._change_state(RUNNING, None)

    def close(self) -> None:
        """Close the pool for good: waiters get PoolClosed, holders finish first."""
        self._change_state(SHUT, "pool closed")
        self._end_waits()

    def _change_state(self, state: str | None, stale_reason: str | None) -> None:
        """Change the state; with a reason, every connection open now becomes stale.

        None leaves the state as it is. A closed pool stays closed.
        """
        if self._is_reentered(3):
            self._defer(partial(self._change_state, state, stale_reason))
            return
        with self._lock:
            state = state or self._slots.state
            if self._slots.state is SHUT:
                return
            victims = self._slots.change_state(state, stale_reason)
        logger.info("%s: %s", self.label, stale_reason or "resumed")
        self._close_in_background(victims)

    # --- Reports ---------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The pool's state: running, draining, paused or closed."""
        return self._slots.state

    @property
    def _max(self) -> int:
        return self.config.max_conns

    def is_unreachable(self) -> bool:
        """Tell whether attempts to connect fail, and no connection can come back."""
        with self._lock:
            return self._slots.is_unreachable()

    def unused_seconds(self) -> float:
        """Return for how long nothing has been in use, being opened or waited for.

        Takes no lock. Its caller has one for which a finaliser may wait, in a thread
        that has the pools' lock.
        """
        return self._slots.unused_seconds()

    def listen(self, listener: Listener | None) -> None:
        """Tell a listener of each duration that is counted from now on; None: nobody.

        Takes no lock; may be called from any thread.
        """
        self._listener = self._metrics.listener = listener

    def is_stuck(self) -> bool:
        """Tell whether all connections are in use and none came back for STUCK_AFTER.

        Blocks on nothing but the lock: an event loop may call this.
        """
        with self._lock:
            return self._slots.stuck_seconds() >= self.config.stuck_after

    def stats(self) -> dict[str, Any]:
        """Return everything the pool knows of itself, as plain data at one moment.

        The recent figures end with the last round of maintenance.
        """
        now = self._clock()
        with self._lock:
            figures = self._figures(now)
        return {**figures, "recent": self._history.recent(now)}

    def history(
        self,
        seconds: float = math.inf,
        rows: int = MOST,
        columns: Iterable[str] | None = None,
        step: float | None = None,
    ) -> dict[str, Any]:
        """Return the samples of the last ``seconds``, at most ``rows``, as plain data.

        See ``History.rows``. They are taken once a second.
        """
        samples = self._history.rows(self._clock(), seconds, rows, columns, step)
        return {"alias": self.name, "address": self.address, **samples}

    def _figures(self, now: float) -> dict[str, Any]:
        """Return the figures of this moment; call with the lock held."""
        slots, metrics = self._slots, self._metrics
        # First: a hold that ends meanwhile belongs to a checkout counted below.
        figures = metrics.as_dict()
        held = [entry for entry in slots.entries if _is_held(entry)]
        snapshot = report.Snapshot(
            state=slots.state,
            states=[entry.state for entry in slots.entries],
            checkouts=slots.checkouts(),
            stale=sum(map(slots.is_stale, slots.entries)),
            waiting=len(slots.waiters),
            in_transaction=sum(
                self._driver.in_transaction(entry.connection) for entry in held
            ),
            in_use_peak=max(slots.peaks()[0], self._history.in_use_peak(now)),
            oldest_wait=slots.oldest_wait_seconds(),
            oldest_hold=max(
                (now - entry.checked_out_at for entry in held), default=0.0
            ),
            figures=figures,
        )
        return report.stats(
            self.name, self.database, self.config, snapshot, self.address
        )

    def holders(self, except_for: Holder | None = None) -> list[dict[str, Any]]:
        """Return every connection in use now and who holds it, the longest first.

        ``except_for`` is a holder to leave out.
        """
        shown = self._driver.shown
        holds = [
            hold
            if hold.statement is None
            else hold._replace(statement=shown(hold.statement))
            for hold in self._holds(except_for)
        ]
        return report.holders(self.name, holds, self.address)

    def _holds(self, except_for: Holder | None = None) -> list[report.Hold]:
        """Return every hold that goes on, with its statement as it is."""
        now = self._clock()
        slots, driver = self._slots, self._driver
        holds = []
        with self._lock:
            # The pool closes none of these meanwhile: that takes the lock.
            for entry in slots.entries:
                if not _is_held(entry):
                    continue
                # In this order: a checkout writes them in the other, without the lock.
                holder, since = entry.holder, entry.checked_out_at
                if holder is None or holder is except_for:
                    continue
                hold = report.Hold(
                    hold_id(entry, since),
                    now - since,
                    holder,
                    driver.backend_pid(entry.connection),
                    slots.is_stale(entry),
                    entry.leaked,
                    entry.cancelled is not None,
                    driver.in_transaction(entry.connection),
                    driver.statement(entry.connection),
                    entry.stack,
                )
                # If it has ended, some of this may be the next holder's.
                if goes_on(entry, since):
                    holds.append(hold)
        return holds

    def waiters(self) -> list[dict[str, Any]]:
        """Return every checkout that waits in the queue, the first to be served first.

        In a pause, those who hold another connection are served before.
        """
        now = self._clock()
        with self._lock:
            waits = [
                (now - waiter.since, waiter.holder)
                for waiter in self._slots.waiters
                if waiter.holder is not None
            ]
        return report.waiters(self.name, waits, self.address)

    def routes(self) -> list[dict[str, Any]]:
        """Return the waits and holds by name, none without ROUTES: see ``routes``."""
        with self._lock:
            rows = [] if self._routes is None else self._routes.rows()
        return [{"alias": self.name, **row} for row in rows]

    def settings(self) -> dict[str, Any]:
        """Return the settings that the pool was made with, as plain data."""
        return report.settings(self.name, self.config, self.address)

    def _explain(self) -> str:
        """Say why there is no connection: the counts, and who holds what."""
        backoff = self._slots.backoff
        with self._lock:
            figures = self._figures(self._clock())
        holders = report.holders(self.name, self._holds(), self.address)
        text = report.explain(figures, holders, backoff.failures, backoff.error)
        return text if self.label == self.name else f"{self.address}: {text}"


def _never_clean(connection: Any, initial: Any) -> bool:
    return False


def _is_held(entry: PoolEntry) -> bool:
    return entry.state is IN_USE and entry.holder is not None


def _describe(entry: PoolEntry) -> str:
    """Return an entry's holder in words."""
    holder = entry.holder
    return report.holder_text(holder.describe() if holder is not None else {})
