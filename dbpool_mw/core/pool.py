"""The pool: who gets which connection, and when.

Rules that hold everywhere in this file:

- Decide under the lock, do I/O outside it. ``_lock`` is held for a few microseconds;
  nothing that can block, or call code of others, runs while it is held.
- ``_entries`` holds every place taken: connections and those being opened. Its length
  never exceeds MAX_CONNS. A place is taken out only after its connection was closed.
- An entry that is IDLE is in ``_idle``, and nowhere else is one.
- ``_idle`` and ``_waiters`` are never both non-empty, unless the pool is paused, when
  ``_idle`` is empty.

The hand-over to the oldest waiter follows psycopg_pool, the short list of states with
verbs that refuse the wrong one puddle, the reason for every close HikariCP.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import math
import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import Any

from dbpool_mw.drivers.psycopg2 import driver as psycopg2_driver

from .config import PoolConfig
from .entry import BUSY, CLOSED, CONNECTING, IDLE, IN_USE, Owner, PoolEntry
from .errors import (
    ConnectFailed,
    HoldTooLong,
    PoolClosed,
    PoolError,
    PoolTimeout,
    TooManyRequests,
)
from .metrics import Histogram
from .stack import capture, lines
from .waiter import Waiter

logger = logging.getLogger("dbpool_mw.pool")

# The states of a pool.
RUNNING = "running"
DRAINING = "draining"
PAUSED = "paused"
SHUT = "closed"

#: In these, connections are opened.
_OPENING = (RUNNING, DRAINING)

#: Lifetimes are shortened by up to this share, at random, so that connections opened
#: together don't all expire together.
_LIFETIME_JITTER = 0.1

#: After a failed connect the next attempt waits so many seconds, twice as many each
#: time up to a limit, less up to half at random: workers must not come all at once.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0

#: Seconds that a round trip of the pool's own may take, and that a holder whose
#: statement was cancelled may go on waiting for its answer.
_ROUND_TRIP = 10.0

#: How many holders the text of an error names, the longest first.
_NAMED_HOLDERS = 5


class ConnectionPool:
    """At most ``config.max_conns`` connections, each with one holder at a time.

    ``name`` stands in every message, ``database`` in the reports. ``connect(owner)``
    opens a physical connection on behalf of whoever asked, or of nobody (None: a
    refill); ``reset(owner, connection, origin)`` makes a touched session as good as
    new. Both run outside the lock, in the thread that checks out or in, and may raise
    anything.

    Every public method may be called from any thread.
    """

    def __init__(
        self,
        name: str,
        config: PoolConfig,
        *,
        database: str = "",
        connect: Callable[[Owner | None], Any],
        reset: Callable[[Owner | None, Any, psycopg2_driver.Character], None],
        driver: Any = psycopg2_driver,
        clock: Callable[[], float] = time.monotonic,
        make_waiter: Callable[[], Waiter] = Waiter,
    ) -> None:
        self.name = name
        self.database = database
        self.config = config
        self._check_after_idle = config.check_after_idle
        self._connect = connect
        self._reset = reset
        self._driver = driver
        self._looks_for_leaks = config.leak_after < math.inf
        passes_untouched = config.reset in ("auto", "never")
        self._is_clean = driver.is_clean if passes_untouched else _never
        self._clock = clock
        self._make_waiter = make_waiter

        self._pid = os.getpid()
        # Lost by their holders; needs no lock.
        self._lost: deque[PoolEntry] = deque()
        self._lock = threading.Lock()
        # All below belongs to the lock.
        self._state = RUNNING
        self._generation = 0
        self._stale_reason = "recycled"
        self._entries: set[PoolEntry] = set()
        self._idle: list[PoolEntry] = []
        self._waiters: deque[Waiter] = deque()
        self._wait_time = Histogram()
        self._hold_time = Histogram()
        self._connect_time = Histogram()
        self._found_at_once = 0
        self._opened = 0
        # Failed connects in a row, what the last one said, and when to try again.
        self._failures = 0
        self._failure = ""
        self._retry_at = 0.0
        # Entries that the pool itself may be waiting for, and since when.
        self._round_trips: dict[PoolEntry, float] = {}
        self._counts: Counter[str] = Counter()
        self._discarded: Counter[str] = Counter()

    # --- Checkout --------------------------------------------------------------------

    def checkout(self, owner: Owner, timeout: float | None = None) -> PoolEntry:
        """Give the caller a connection of its own until it checks it in.

        Waits its turn for at most ``timeout`` seconds (None: as configured). Raises
        PoolTimeout, TooManyRequests or PoolClosed, or what ``connect`` raised.
        """
        began = self._clock()
        with self._lock:
            entry = self._idle.pop() if self._idle else None
            if entry is not None:
                entry.state = IN_USE
        # A checkout that finds a living idle connection waits for nothing.
        waited = 0.0
        try:
            at_hand = (
                entry is not None
                and entry.alive()
                and began - entry.idle_since < self._check_after_idle
            )
        except BaseException:
            assert entry is not None
            self._give_up(entry)
            raise
        if entry is None or not at_hand:
            entry = self._find(entry, owner, timeout, began)
            waited = self._clock() - began
        entry.checked_out_at = began + waited
        entry.waited = waited
        if self._looks_for_leaks:
            entry.stack = capture()
        # Last: reports take an entry with an owner for one whose times are right.
        entry.owner = owner
        return entry

    def _find(
        self, entry: PoolEntry | None, owner: Owner, timeout: float | None, began: float
    ) -> PoolEntry:
        """Check out what isn't at hand; ``entry`` is an idle one, if there was one."""
        seconds = self.config.timeout if timeout is None else timeout
        now, failed = began, False
        while True:
            if entry is None:
                entry = self._place_or_wait(owner, seconds, began, failed)
                # It may have been laid by or handed over just now.
                now = self._clock()
            try:
                while entry is not None and entry.state is IN_USE:
                    if self._is_good(entry, now):
                        return entry
                    entry = self._replace(entry)
                if entry is not None:
                    self._open(entry, owner)
                    return entry
            except BaseException as error:
                assert entry is not None
                self._give_up(entry)
                if not isinstance(error, ConnectFailed) or not self._entries:
                    raise
                # There are others, which may come back in time.
                entry, failed = None, True

    def _place_or_wait(
        self, owner: Owner, seconds: float, began: float, again: bool
    ) -> PoolEntry:
        """Find a connection or a place for one, or queue for either.

        Waits until so many seconds have gone since it ``began``. One who had a place,
        and could not connect in it, goes before those who came later.
        """
        waiter = None
        passes = owner.holds_another()
        with self._lock:
            shut = self._state is SHUT
            limit = self.config.max_waiting
            if self._idle:
                entry = self._idle.pop()
                entry.state = IN_USE
                return entry
            # While connecting is put off, some may wait for the next attempt.
            self._grant()
            if self._may_open(passes):
                return self._reserve()
            full = 0 < limit <= len(self._waiters) and not again
            if full and not shut:
                self._counts["refused"] += 1
            elif not shut:
                waiter = self._make_waiter()
                waiter.passes = passes
                waiter.since = began if again else self._clock()
                self._queue_up(waiter, again)
        if waiter is not None:
            return self._wait(waiter, seconds, began + seconds)
        if shut:
            raise PoolClosed(self.name, f"pool {self.name!r} is closed")
        raise TooManyRequests(
            self.name,
            f"pool {self.name!r}: MAX_WAITING ({limit}) callers wait already",
            self._explain(),
        )

    def _queue_up(self, waiter: Waiter, again: bool) -> None:
        """Put a waiter in its place in the queue. The lock is held."""
        if not again:
            self._counts["waits"] += 1
            self._waiters.append(waiter)
            return
        older = takewhile(lambda other: other.since < waiter.since, self._waiters)
        self._waiters.insert(sum(1 for _ in older), waiter)

    def _may_open(self, passes: bool = False) -> bool:
        """Tell whether a place is free and may be filled. The lock is held.

        Not in a pause, but for one who passes it.
        """
        if (
            not (self._state in _OPENING or (passes and self._state is PAUSED))
            or len(self._entries) >= self.config.max_conns
        ):
            return False
        if not self._failures:
            return True
        # One attempt at a time, until one succeeds.
        return self._clock() >= self._retry_at and all(
            entry.state is not CONNECTING for entry in self._entries
        )

    def _reserve(self) -> PoolEntry:
        """Take a place for a connection to be opened. The lock is held."""
        entry = PoolEntry(self._generation)
        self._entries.add(entry)
        return entry

    def _wait(self, waiter: Waiter, seconds: float, deadline: float) -> PoolEntry:
        """Wait for a hand-over, and leave the queue if none comes."""
        timed_out = False
        left = deadline - self._clock()
        try:
            while not timed_out:
                nap = min(left, self._nap())
                if not waiter.wait(nap):
                    left -= nap
                left = min(left, deadline - self._clock())
                with self._lock:
                    # Time for another attempt to connect, maybe this waiter's own.
                    self._grant()
                    if waiter.gift is not None or waiter.error is not None:
                        break
                    timed_out = left <= 0
                    if timed_out:
                        self._leave_queue(waiter)
                        self._counts["timeouts"] += 1
        except BaseException:
            with self._lock:
                if waiter in self._waiters:
                    self._leave_queue(waiter)
            if waiter.gift is not None:
                self._give_up(waiter.gift)
            raise
        if timed_out:
            raise PoolTimeout(
                self.name,
                f"pool {self.name!r}: no connection within {seconds:g} s",
                self._explain(),
            )
        if waiter.error is not None:
            raise waiter.error
        assert waiter.gift is not None
        return waiter.gift

    def _leave_queue(self, waiter: Waiter) -> None:
        """Take a waiter that got nothing out of the queue. The lock is held."""
        self._waiters.remove(waiter)
        self._wake_for_retry()

    def _nap(self) -> float:
        """Give the seconds to sleep before another attempt to connect may be due."""
        with self._lock:
            if not self._failures:
                return math.inf
            # Not less than a little: the attempt may be under way, by another caller.
            return max(self._retry_at - self._clock(), _FIRST_PAUSE / 2)

    def _wake_for_retry(self) -> None:
        """Have the oldest waiter look when to connect again. The lock is held."""
        if self._failures and (first := self._first_waiter()):
            first.wake()

    def _is_good(self, entry: PoolEntry, now: float) -> bool:
        """Look whether an idle connection still lives; ask only after a long sleep."""
        if not entry.alive():
            return False
        if now - entry.idle_since < self._check_after_idle:
            return True
        with self._lock:
            self._counts["checks"] += 1
        return bool(self._driver.ping(entry.connection))

    def _replace(self, dead: PoolEntry) -> PoolEntry | None:
        """Close a dead connection; go on with another idle one, or with its place.

        None if it may not be filled now: the caller has to wait like any other.
        """
        with self._lock:
            dead.state = BUSY
        self._driver.close(dead.connection)
        logger.info("%s: a connection died while idle; replacing it", self.name)
        with self._lock:
            self._entries.remove(dead)
            dead.state = CLOSED
            self._discarded["dead"] += 1
            if self._idle:
                # With a connection idle nobody waits for the place of the dead one.
                entry = self._idle.pop()
                entry.state = IN_USE
                return entry
            if self._may_open():
                return self._reserve()
            # Some pass a pause that this caller has to wait for.
            self._grant()
            return None

    def _open(self, entry: PoolEntry, owner: Owner | None) -> None:
        """Open the connection of a reserved place. Raises what ``connect`` raises."""
        began = self._clock()
        connection = None
        try:
            connection = self._connect(owner)
            entry.alive = self._driver.liveness(connection)
            entry.origin = self._driver.character(connection)
            entry.socket = self._driver.socket_of(connection)
        except BaseException as error:
            with self._lock:
                self._counts["connect_errors"] += 1
                if isinstance(error, ConnectFailed):
                    self._put_off(error)
            if connection is not None:
                self._driver.close(connection)
            raise
        now = self._clock()
        shorter = 1 - random.random() * _LIFETIME_JITTER
        entry.expires_at = now + self.config.max_lifetime * shorter
        entry.connection = connection
        with self._lock:
            entry.state = IN_USE
            self._opened += 1
            self._connect_time.record(now - began)
            if self._failures:
                self._failures = 0
                self._grant()
            size, shut = len(self._entries), self._state is SHUT
        logger.info("%s: opened a connection (%d of %d)", self.name, size, self._max)
        if shut:
            raise PoolClosed(self.name, f"pool {self.name!r} was closed meanwhile")

    def _put_off(self, error: ConnectFailed) -> None:
        """Put the next attempt to connect off for a while. The lock is held."""
        self._failures += 1
        self._failure = str(error)
        pause = min(_FIRST_PAUSE * 2 ** min(self._failures - 1, 10), _LONGEST_PAUSE)
        self._retry_at = self._clock() + pause * (1 - random.random() / 2)
        self._wake_for_retry()

    def _give_up(self, entry: PoolEntry) -> None:
        """Free the place of an entry whose checkout failed half-way."""
        with self._lock:
            if entry.state is CONNECTING:
                self._forget(entry)
                return
            entry.state = BUSY
        self._close((entry, "interrupted"))

    # --- Checkin ---------------------------------------------------------------------

    def checkin(self, entry: PoolEntry) -> None:
        """Take a connection back from its holder. Never raises for what it finds.

        A clean connection goes to the oldest waiter, else to the idle ones, without a
        round trip. An open transaction is rolled back, a touched session is reset;
        what can't be cleaned is closed. Raises PoolError for an entry not in use.
        """
        now = self._clock()
        with self._lock:
            self._end_hold(entry, now)
            if self._is_clean(entry.connection, entry.origin):
                reason = self._keep(entry, now)
                if reason is None:
                    return
            else:
                reason = self._must_go(entry, now)
            entry.state = BUSY
        if reason is None:
            reason = self._clean(entry)
        if reason is None:
            with self._lock:
                reason = self._keep(entry, self._clock())
        if reason is not None:
            self._close((entry, reason))

    def discard(self, entry: PoolEntry, reason: str) -> None:
        """Take a connection back from its holder and close it, for a reason counted.

        Raises PoolError for an entry not in use.
        """
        with self._lock:
            self._end_hold(entry, self._clock())
            entry.state = BUSY
        self._close((entry, reason))

    def lose(self, entry: PoolEntry) -> None:
        """Have an entry reclaimed, soon, by somebody else.

        For finalisers, which run in any thread at any allocation, maybe with this
        pool's lock held there: it takes none, and to start a bare thread takes none.
        Nothing is lost in a forked child: there the parent's other threads seem to have
        ended, and they go on using their connections.
        """
        if os.getpid() != self._pid:
            return
        self._lost.append(entry)
        # The interpreter is at its end, or has no threads left.
        with contextlib.suppress(RuntimeError):
            _thread.start_new_thread(self._reclaim_lost, ())

    def _reclaim_lost(self) -> None:
        # A deque because popleft is atomic: two may do this at once.
        with contextlib.suppress(IndexError):
            while True:
                self.reclaim(self._lost.popleft())

    def reclaim(self, entry: PoolEntry) -> None:
        """Take back what a holder that no longer exists left checked out."""
        with self._lock:
            self._counts["reclaimed"] += 1
        owner = dict(entry.owner.describe()) if entry.owner is not None else {}
        logger.warning(
            "%s: reclaimed a connection from a holder that is gone (%s)",
            self.name,
            holder_text(owner),
        )
        self.checkin(entry)

    def _end_hold(self, entry: PoolEntry, now: float) -> None:
        """Book the end of a hold. The lock is held."""
        if entry.state is not IN_USE:
            raise PoolError(
                self.name,
                f"bug: pool {self.name!r} got an entry back that is {entry.state}",
            )
        if entry.waited:
            self._wait_time.record(entry.waited)
        else:
            self._found_at_once += 1
        self._hold_time.record(now - entry.checked_out_at)
        entry.leaked = False

    def _must_go(self, entry: PoolEntry, now: float) -> str | None:
        """Give the reason to close a connection given back, if any. Lock held."""
        if self._state is not RUNNING:
            return _REASONS[self._state]
        if entry.generation != self._generation:
            return self._stale_reason
        if now >= entry.expires_at:
            return "held too long" if entry.overdue else "expired"
        return None

    def _keep(self, entry: PoolEntry, now: float) -> str | None:
        """Hand a clean connection on or lay it by, unless it must go. Lock held."""
        if (
            self._state is not RUNNING
            or entry.generation != self._generation
            or now >= entry.expires_at
        ):
            return self._must_go(entry, now)
        entry.owner = None
        entry.idle_since = now
        if self._waiters:
            entry.state = IN_USE
            self._waiters.popleft().hand_over(entry)
        else:
            entry.state = IDLE
            self._idle.append(entry)
        return None

    def _clean(self, entry: PoolEntry) -> str | None:
        """Make a used connection fit for the next holder, or say why it can't be."""
        connection, driver = entry.connection, self._driver
        try:
            reason: str | None = driver.why_unusable(connection)
            if reason is not None:
                return reason
            rolled_back = driver.roll_back(connection)
            resets = self._clean_session(entry)
            with self._lock:
                self._counts["rollbacks"] += rolled_back
                self._counts["resets"] += resets
            if not driver.is_clean(connection, entry.origin):
                return "not clean"
        except Exception:
            logger.warning(
                "%s: could not clean a connection; closing it", self.name, exc_info=True
            )
            return "not clean"
        except BaseException:
            self._close((entry, "interrupted"))
            raise
        if rolled_back:
            logger.warning(
                "%s: rolled back a transaction left open (%s)",
                self.name,
                holder_text(entry.owner.describe() if entry.owner else {}),
            )
        return None

    def _clean_session(self, entry: PoolEntry) -> bool:
        """Do to a session what RESET says; tell whether it was reset."""
        connection, origin = entry.connection, entry.origin
        mode, touched = self.config.reset, self._driver.is_touched(connection)
        if mode == "always" or (mode == "auto" and touched):
            self._reset(entry.owner, connection, origin)
            return True
        self._driver.accept(connection, origin)
        if not callable(mode):
            return False
        mode(connection, touched)
        self._driver.accept(connection, origin)
        return True

    def _close(self, *victims: tuple[PoolEntry, str]) -> None:
        """Close the connections of entries that are BUSY, then free their places."""
        if not victims:
            return
        try:
            self._driver.close(*[entry.connection for entry, _ in victims])
        finally:
            with self._lock:
                for entry, reason in victims:
                    self._discarded[reason] += 1
                    self._forget(entry)
                size = len(self._entries)
        for _, reason in victims:
            logger.info(
                "%s: closed a connection: %s (%d of %d)",
                *(self.name, reason, size, self._max),
            )

    def _forget(self, entry: PoolEntry) -> None:
        """Free a place, for the oldest waiter if there is one. The lock is held."""
        entry.state = CLOSED
        entry.owner = None
        self._entries.remove(entry)
        self._grant()

    def _grant(self) -> None:
        """Let waiters connect in the places that are free. The lock is held."""
        while (first := self._first_waiter()) and self._may_open(first.passes):
            self._waiters.remove(first)
            first.hand_over(self._reserve())

    def _first_waiter(self) -> Waiter | None:
        """Give whose turn it is: in a pause, of those who pass it. Lock held."""
        if self._state is not PAUSED:
            return self._waiters[0] if self._waiters else None
        return next((waiter for waiter in self._waiters if waiter.passes), None)

    # --- Maintenance -----------------------------------------------------------------

    def maintain(self) -> None:
        """Close idle connections that are dead, too old or too long idle, and refill.

        The maintenance thread calls it from time to time. Never raises for a server
        that can't be reached: it logs, and tries again at the next call.
        """
        # Those for whom no thread could be started; or it was a greenlet, started in a
        # thread of gevent's own, where none ever runs.
        self._reclaim_lost()
        with self._lock:
            asleep = {entry: entry.idle_since for entry in self._idle}
        # A look does no harm to a connection that is checked out meanwhile, if it isn't
        # through the entry's own ``alive``, which is its holder's. What it saw counts
        # only for a connection that is found just as idle afterwards.
        look = self._driver.liveness
        dead = {entry for entry in asleep if not look(entry.connection)()}
        now = self._clock()
        victims: list[tuple[PoolEntry, str]] = []
        with self._lock:
            kept = []
            # The coldest come first.
            for entry in self._idle:
                reason = self._must_go(entry, now)
                if entry in dead and entry.idle_since == asleep[entry]:
                    reason = "dead"
                elif reason is None and self._is_spare(entry, now, len(victims)):
                    reason = "idle"
                if reason is None:
                    kept.append(entry)
                else:
                    entry.state = BUSY
                    victims.append((entry, reason))
            self._idle[:] = kept
        self._close(*victims)
        self._watch()
        self._refill()

    def _watch(self) -> None:
        """Look for leaks, for holds too long, and for round trips that are stuck."""
        now = self._clock()
        limit = self.config.max_hold
        leaked, overdue, deaf = [], [], []
        with self._lock:
            own = [e for e in self._entries if e.state is BUSY or self._is_checked(e)]
            self._round_trips = {e: self._round_trips.get(e, now) for e in own}
            deaf += [e for e in own if now - self._round_trips[e] >= _ROUND_TRIP]
            for entry in self._entries:
                if entry.state is not IN_USE or entry.owner is None:
                    continue
                held = now - entry.checked_out_at
                if held >= self.config.leak_after and not entry.leaked:
                    entry.leaked = True
                    self._counts["leaked"] += 1
                    leaked.append((entry.owner, entry.stack, held))
                if held >= limit and not entry.overdue:
                    entry.overdue = True
                    self._counts["overdue"] += 1
                    # Nobody else ever gets it: what is cancelled is this holder's.
                    entry.expires_at = -math.inf
                    overdue.append((entry, entry.owner))
                elif held >= limit + _ROUND_TRIP:
                    deaf.append(entry)
        for owner, stack, held in leaked:
            logger.warning(
                "%s: a connection is held for %.1f s (%s), checked out here:\n%s",
                self.name,
                held,
                holder_text(owner.describe()),
                "\n".join(lines(stack)),
            )
        for entry, owner in overdue:
            text = f"pool {self.name!r}: held longer than MAX_HOLD, {limit:g} s"
            logger.warning("%s; cancelling (%s)", text, holder_text(owner.describe()))
            self._driver.doom(entry.connection, HoldTooLong(text))
        for entry in deaf:
            self._driver.sever(entry.connection, entry.socket)

    def _is_checked(self, entry: PoolEntry) -> bool:
        """Tell whether an entry is being tried before its holder gets it."""
        return entry.state is IN_USE and entry.owner is None

    def _is_spare(self, entry: PoolEntry, now: float, leaving: int) -> bool:
        """Tell whether an entry slept too long and isn't needed. The lock is held."""
        return (
            now - entry.idle_since >= self.config.max_idle
            and len(self._entries) - leaving > self.config.min_conns
        )

    def _refill(self) -> None:
        """Open connections until there are MIN_CONNS."""
        while True:
            with self._lock:
                if (
                    self._state is not RUNNING
                    or len(self._entries) >= self.config.min_conns
                    or not self._may_open()
                ):
                    return
                entry = self._reserve()
            try:
                self._open(entry, None)
            except Exception as error:
                self._give_up(entry)
                logger.warning("%s: can't refill: %s", self.name, str(error).strip())
                return
            except BaseException:
                self._give_up(entry)
                raise
            with self._lock:
                reason = self._keep(entry, self._clock())
                if reason is not None:
                    entry.state = BUSY
            if reason is not None:
                self._close((entry, reason))

    # --- Control ---------------------------------------------------------------------

    def drain(self) -> None:
        """Close idle connections now and every other at its checkin, until resumed.

        Checkouts go on: each opens a connection, which is closed at its checkin.
        """
        self._turn(DRAINING, "drained")

    def pause(self) -> None:
        """Drain, and let checkouts wait in the queue until the pool is resumed.

        But for an owner that holds a connection of another pool: were that one paused
        too, each would wait for the other.
        """
        self._turn(PAUSED, "paused")

    def recycle(self) -> None:
        """Replace every connection by a new one, and go on pooling."""
        self._turn(RUNNING, "recycled")

    def resume(self) -> None:
        """End a drain or a pause."""
        self._turn(RUNNING, None)

    def close(self) -> None:
        """Close the pool for good: waiters get PoolClosed, holders finish first."""
        self._turn(SHUT, "pool closed")
        with self._lock:
            while self._waiters:
                self._waiters.popleft().fail(
                    PoolClosed(self.name, f"pool {self.name!r} was closed")
                )

    def _turn(self, state: str, stale_reason: str | None) -> None:
        """Change the state; with a reason, everything open now has become stale."""
        victims: list[tuple[PoolEntry, str]] = []
        with self._lock:
            if self._state is SHUT:
                return
            self._state = state
            if stale_reason is not None:
                self._generation += 1
                self._stale_reason = stale_reason
                for entry in self._idle:
                    entry.state = BUSY
                    victims.append((entry, stale_reason))
                self._idle.clear()
            self._grant()
            # Whoever is the first in this state may not know that connects fail.
            self._wake_for_retry()
        logger.info("%s: %s", self.name, stale_reason or "resumed")
        self._close(*victims)

    # --- Reports ---------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The pool's state: running, draining, paused or closed."""
        return self._state

    @property
    def _max(self) -> int:
        return self.config.max_conns

    def stats(self) -> dict[str, Any]:
        """Give everything the pool knows of itself, as plain data at one moment."""
        with self._lock:
            states = Counter(entry.state for entry in self._entries)
            wait_time = self._wait_time.as_dict()
            wait_time["count"] += self._found_at_once
            wait_time["buckets"][0] += self._found_at_once
            return {
                "alias": self.name,
                "database": self.database,
                "state": self._state,
                "min": self.config.min_conns,
                "max": self.config.max_conns,
                "size": len(self._entries),
                # What the pool is cleaning or closing is nobody else's yet.
                "in_use": states[IN_USE] + states[BUSY],
                "idle": states[IDLE],
                "connecting": states[CONNECTING],
                "waiting": len(self._waiters),
                "stale": sum(map(self._is_stale, self._entries)),
                # Each is booked when it ends; those in use have not ended.
                "checkouts": wait_time["count"]
                + sum(e.state is IN_USE and e.owner is not None for e in self._entries),
                **{
                    key: self._counts[key]
                    for key in (
                        "waits",
                        "timeouts",
                        "refused",
                        "connect_errors",
                        "checks",
                        "rollbacks",
                        "resets",
                        "reclaimed",
                        "leaked",
                        "overdue",
                    )
                },
                "opened": self._opened,
                "discarded": dict(self._discarded),
                "wait_seconds": wait_time,
                "hold_seconds": self._hold_time.as_dict(),
                "connect_seconds": self._connect_time.as_dict(),
            }

    def holders(self) -> list[dict[str, Any]]:
        """Give every connection in use now and who holds it, the longest first."""
        now = self._clock()
        with self._lock:
            held = [
                (now - e.checked_out_at, e, e.owner, self._is_stale(e), e.leaked)
                for e in self._entries
                if e.state is IN_USE and e.owner is not None
            ]
        held.sort(key=lambda hold: hold[0], reverse=True)
        return [
            {
                "alias": self.name,
                "backend_pid": self._driver.backend_pid(entry.connection),
                "seconds": seconds,
                "stale": stale,
                "leaked": leaked,
                "stack": lines(entry.stack) if leaked else [],
                **owner.describe(),
            }
            for seconds, entry, owner, stale, leaked in held
            if owner is not None
        ]

    def _is_stale(self, entry: PoolEntry) -> bool:
        """Tell whether a drain waits for this entry. The lock is held."""
        return self._state is PAUSED or entry.generation != self._generation

    def _explain(self) -> str:
        """Say why there is no connection: the counts, and who holds what."""
        stats = self.stats()
        text = (
            f"{stats['in_use']} in use, {stats['idle']} idle and "
            f"{stats['connecting']} connecting of at most {stats['max']}, "
            f"{stats['waiting']} waiting"
        )
        if self._state is not RUNNING:
            text += f", the pool is {self._state}"
        if self._failures:
            text += f"; {self._failures} failed connects, the last: {self._failure}"
        holders = self.holders()
        if holders:
            named = ", ".join(map(holder_text, holders[:_NAMED_HOLDERS]))
            more = len(holders) - _NAMED_HOLDERS
            text += f"; held by {named}" + (f" and {more} more" if more > 0 else "")
        return text


def _never(connection: Any, origin: Any) -> bool:
    return False


#: Why a connection given back to a pool in such a state is closed.
_REASONS = {DRAINING: "drained", PAUSED: "paused", SHUT: "pool closed"}


def holder_text(holder: Mapping[str, Any]) -> str:
    """Put a holder into words: who, and for how long if that is known."""
    what = f"{holder['method']} {holder['path']}" if holder.get("path") else ""
    who = f"thread {holder['thread']}" if holder.get("thread") else "unknown"
    text = f"{what} in {who}" if what else who
    return f"{text} for {holder['seconds']:.1f} s" if "seconds" in holder else text
