"""The slots of a pool: which are taken, which connections are idle, and who waits.

These are the decisions of a pool, apart from its lock and its I/O. Every method that
doesn't say otherwise is called with the lock held, takes microseconds, blocks on
nothing and calls no code of others. What always holds:

- ``entries`` has every slot taken, from the moment that a connection is to be opened
  until it was closed. Its length never exceeds MAX_CONNS.
- An entry in ``idle`` is IDLE and belongs to nobody; who takes it out has it. Checkouts
  and checkins do that without the lock: so ``idle`` is always the same list, nothing
  but its ``pop``, ``append`` and ``remove`` changes it, and what was read of it may be
  out of date.
- ``idle`` and ``waiters`` are not both non-empty for longer than a checkin takes. While
  the pool is draining, paused or closed, ``idle`` is as good as empty.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping
from itertools import takewhile
from threading import get_ident

from .backoff import Backoff
from .config import PoolConfig
from .entry import BUSY, CLOSED, CONNECTING, IDLE, IN_USE, Holder, PoolEntry
from .errors import ConnectFailed
from .waiter import Waiter

# The states of a pool.
RUNNING = "running"
DRAINING = "draining"
PAUSED = "paused"
SHUT = "closed"

#: The states in which every checkout may open a connection.
_OPENING = (RUNNING, DRAINING)

#: Why a connection that comes back to a pool in such a state is closed.
_REASONS = {DRAINING: "drained", PAUSED: "paused", SHUT: "pool closed"}

#: Seconds that a round trip of the pool's own may take.
ROUND_TRIP_SECONDS = 10.0

#: Seconds up to which an eager caller has waited so little that it may wait once more.
SHORT_WAIT_SECONDS = 1.0

#: An entry that has to be closed, and why.
Victim = tuple[PoolEntry, str]


class Slots:
    """The bookkeeping of one pool.

    ``generation`` grows with each drain, pause and recycle: an entry of an older one is
    stale, and is closed instead of kept. ``clock`` returns seconds.
    """

    def __init__(
        self,
        config: PoolConfig,
        clock: Callable[[], float],
        make_waiter: Callable[[], Waiter] = Waiter,
        state: str = RUNNING,
    ) -> None:
        self.config = config
        self.make_waiter = make_waiter
        self.clock = clock
        self.state = state
        self.generation = 0
        #: The generation of connections that become idle again when they come back; -1
        #: while none does.
        self.keeps = self._kept_generation()
        self.stale_reason = "recycled"
        self.entries: set[PoolEntry] = set()
        self.idle: list[PoolEntry] = []
        self.waiters: deque[Waiter] = deque()
        self.backoff = Backoff(clock)
        self._freed_at = clock()
        self._checkouts = 0  # of the entries that are gone
        # Since the peaks were taken last, of what can't be seen any more.
        self._peaks_since = -math.inf
        self._most_in_use = 0
        self._most_waiting = 0

    # --- Slots -----------------------------------------------------------------------

    def take(
        self,
        holder: Holder | None = None,
        bypasses_pause: bool = False,
        eager: bool = False,
    ) -> PoolEntry | None:
        """Take an idle connection for a holder, or else a free slot to connect in.

        None if there is neither, or the holder may open no connection in it now.
        """
        entry = self._pop_idle()
        if entry is not None:
            self.give(entry, holder, self.clock())
            return entry
        # Waiters may not have noticed that the next attempt to connect is due.
        self.grant()
        may_open = self.may_open(bypasses_pause, eager)
        return self.reserve(holder) if may_open else None

    def give(self, entry: PoolEntry, holder: Holder | None, now: float) -> None:
        """Record that a connection is a holder's from now on."""
        entry.deadline = math.inf
        entry.checked_out_at = now
        entry.holder = holder
        entry.state = IN_USE

    def own(self, entry: PoolEntry, seconds: float = ROUND_TRIP_SECONDS) -> None:
        """Record that an entry is the running thread's, for I/O of the pool's own.

        ``seconds`` is how long the server may take for it.
        """
        entry.worker = get_ident()
        entry.deadline = self.clock() + seconds
        entry.state = BUSY

    def may_open(self, bypasses_pause: bool = False, eager: bool = False) -> bool:
        """Tell whether a slot is free and a connection may be opened in it.

        After a failed connect there is one attempt at a time, until one succeeds, and
        no eager caller's: it may take long, for a connection that nobody needs.
        """
        if (
            not (self.state in _OPENING or (bypasses_pause and self.state is PAUSED))
            or len(self.entries) >= self.config.max_conns
        ):
            return False
        return not self.backoff.failures or (
            not eager
            and self.backoff.is_due()
            and all(entry.state is not CONNECTING for entry in self.entries)
        )

    def reserve(self, holder: Holder | None = None) -> PoolEntry:
        """Take a free slot for a connection to be opened, for a holder or a refill."""
        entry = PoolEntry(self.generation)
        entry.holder = holder
        entry.worker = get_ident() if holder is None else holder.thread_id
        self.entries.add(entry)
        return entry

    def reserve_for_refill(self) -> PoolEntry | None:
        """Take a slot if there are fewer than MIN_CONNS and one may be filled.

        One at a time: None while another refill connects.
        """
        if (
            self.state is not RUNNING
            or len(self.entries) >= self.config.min_conns
            or not self.may_open()
            or any(e.state is CONNECTING and e.holder is None for e in self.entries)
        ):
            return None
        return self.reserve()

    def take_over(self, entry: PoolEntry) -> bool:
        """Make a reserved slot the running thread's; tell if it is still reserved."""
        if entry.state is not CONNECTING:
            return False
        entry.worker = get_ident()
        return True

    def free(self, entry: PoolEntry) -> None:
        """Free a slot without a connection; a waiter that may connect gets it."""
        self._forget(entry)
        entry.holder = None
        self._freed_at = self.clock()
        self.grant()

    def replace(
        self, dead: PoolEntry, holder: Holder, eager: bool = False
    ) -> PoolEntry | None:
        """Free the slot of a dead connection for the caller that found it.

        Returns another idle connection, or the slot to connect in. None if the caller
        may open no connection in it now, and has to wait.
        """
        self.note_peak()
        self._forget(dead)
        if self.idle:
            entry = self.take(holder, eager=eager)
            self.grant()  # the slot, if somebody queues up just now
            return entry
        if self.may_open(eager=eager):
            # The caller came before all who wait: it found a connection, which died.
            return self.reserve(holder)
        # In a pause, a waiter that bypasses it may have the slot.
        self.grant()
        return None

    def _forget(self, entry: PoolEntry) -> None:
        entry.state = CLOSED
        # First: if an exception comes in between, the sum doesn't fall.
        self._checkouts += entry.checkouts
        self.entries.remove(entry)

    def checkouts(self) -> int:
        """Return how many checkouts there were."""
        return self._checkouts + sum(entry.checkouts for entry in self.entries)

    def unused_seconds(self) -> float:
        """Return how long nothing has been in use, being opened or waited for.

        May be called without the lock.
        """
        if self.waiters or len(self.idle) < len(self.entries):
            return 0.0
        idle = list(self.idle)
        last = max((entry.idle_since for entry in idle), default=self._freed_at)
        return self.clock() - last

    def stuck_seconds(self) -> float:
        """Return for how long every connection has been in use, and none came back.

        0.0 while one is idle or being opened, or may be opened: then the next checkout
        needs nobody's checkin. No counter is kept for this. In a full pool without an
        idle connection, each one that comes back is checked out again at once.
        """
        # BUSY is one that is cleaned after its hold, or closed after it was idle.
        held_since = [
            entry.checked_out_at
            for entry in self.entries
            if entry.state is IN_USE
            or (entry.state is BUSY and entry.checked_out_at > entry.idle_since)
        ]
        if self.idle or len(held_since) < self.config.max_conns:
            return 0.0
        return self.clock() - max(held_since)

    # --- Peaks -----------------------------------------------------------------------

    # ``idle`` is a stack: its bottom stays as it is while fewer connections are needed.
    # What has been in use since a time is therefore as many connections as were in use
    # at once since then. So checkouts and checkins count nothing.

    def peaks(self) -> tuple[int, int]:
        """Return how many were in use, and waited, at once since they were taken."""
        return max(self._most_in_use, self._in_use_since()), self._most_waiting

    def take_peaks(self) -> tuple[int, int]:
        """Return the peaks; they begin anew."""
        peaks = self.peaks()
        self._peaks_since = self.clock()
        self._most_in_use, self._most_waiting = 0, len(self.waiters)
        return peaks

    def note_peak(self) -> None:
        """Keep the peak of now. Call before entries are removed that were in use."""
        self._most_in_use = max(self._most_in_use, self._in_use_since())

    def _in_use_since(self) -> int:
        """Return how many of the connections have been in use since the last peaks."""
        since = self._peaks_since
        return sum(
            entry.state is not CONNECTING
            and (
                entry.holder is not None
                or (entry.idle_since > since and entry.checkouts > 0)
            )
            for entry in self.entries
        )

    # --- The queue -------------------------------------------------------------------

    def is_full(self) -> bool:
        """Tell whether MAX_WAITING callers wait; 0 sets no limit."""
        return 0 < self.config.max_waiting <= len(self.waiters)

    def queue_up(
        self, holder: Holder, bypasses_pause: bool, since: float | None = None
    ) -> Waiter:
        """Put a caller at the end of the queue and return its Waiter.

        With ``since``, put it in front of all that came later: a caller whose connect
        failed keeps its original position.
        """
        waiter = self.make_waiter()
        waiter.holder = holder
        waiter.bypasses_pause = bypasses_pause
        if since is None:
            waiter.since = self.clock()
            self.waiters.append(waiter)
        else:
            waiter.since = since
            older = takewhile(lambda other: other.since < since, self.waiters)
            self.waiters.insert(sum(1 for _ in older), waiter)
        self._most_waiting = max(self._most_waiting, len(self.waiters))
        return waiter

    def leave_queue(self, waiter: Waiter) -> None:
        """Remove a waiter, which may have left already, from the queue."""
        with contextlib.suppress(ValueError):
            self.waiters.remove(waiter)
        self.wake_for_retry()

    def oldest_wait_seconds(self) -> float:
        """Return how long the oldest waiter has waited, 0.0 without any."""
        came = [w.since for w in self.waiters if not w.is_served()]
        return max(0.0, self.clock() - min(came)) if came else 0.0

    def first_waiter(self) -> Waiter | None:
        """Return whose turn it is; in a pause, of those who bypass it."""
        is_paused = self.state is PAUSED
        for waiter in self.waiters:
            if not waiter.is_served() and (waiter.bypasses_pause or not is_paused):
                return waiter
        return None

    # A waiter leaves the queue after it was given something. If an exception comes in
    # between, it is in the queue and served: see ``repair_queue``. In the other order
    # nobody would know it any more, and it would sleep until its deadline.

    def hand_over(self, waiter: Waiter, entry: PoolEntry) -> None:
        """Give a waiter an entry; it leaves the queue."""
        waiter.hand_over(entry)
        self.waiters.remove(waiter)

    def fail(self, waiter: Waiter, error: Exception) -> None:
        """End a waiter's wait with an error; it leaves the queue."""
        waiter.fail(error)
        self.waiters.remove(waiter)

    def connect_failed(self, error: ConnectFailed) -> None:
        """Record that an attempt to connect failed.

        That ends the waits of eager callers. The first of the others has to see to the
        next attempt.
        """
        self.backoff.failed(str(error))
        for waiter in [waiter for waiter in self.waiters if waiter.eager]:
            # An exception of its own: it is raised in another thread.
            own = type(error)(*error.args)
            own.__cause__ = error.__cause__
            own.may_wait = self.clock() - waiter.since < SHORT_WAIT_SECONDS
            self.fail(waiter, own)
        self.wake_for_retry()

    def sends_on(self, bypasses_pause: bool = False) -> bool:
        """Tell whether an eager caller that finds no connection is to go on without.

        From a failed attempt to connect until one succeeds. In a pause it waits as at
        an exhausted pool: whoever ends the pause knows more than the last attempt.
        """
        return self.backoff.failures > 0 and (
            bypasses_pause or self.state is not PAUSED
        )

    def is_unreachable(self) -> bool:
        """Tell whether attempts to connect fail now, and no connection can come back.

        Not for long after the next attempt was due, if nobody made it.
        """
        return (
            self.backoff.failures > 0
            and all(entry.state is CONNECTING for entry in self.entries)
            and (bool(self.entries) or self.backoff.was_recent())
        )

    def wake_for_retry(self) -> None:
        """After a failed connect, have the first waiter see to the next attempt."""
        if self.backoff.failures and (first := self.first_waiter()):
            first.wake()

    def serve(self) -> None:
        """Hand idle connections to waiters: they came back while those queued up."""
        while first := self.first_waiter():
            entry = self._pop_idle()
            if entry is None:
                return
            self.give(entry, first.holder, self.clock())
            self.hand_over(first, entry)
            # Another waiter is the first now, and has to see to the next connect.
            self.wake_for_retry()

    def _pop_idle(self) -> PoolEntry | None:
        if self.idle:
            with contextlib.suppress(IndexError):  # a checkout may have been faster
                return self.idle.pop()
        return None

    def grant(self) -> None:
        """Hand free slots to waiters to connect in, in their order."""
        while (first := self.first_waiter()) and self.may_open(first.bypasses_pause):
            self.hand_over(first, self.reserve(first.holder))

    # --- Coming back -----------------------------------------------------------------

    def keep(self, entry: PoolEntry, now: float) -> str | None:
        """Hand a clean connection to the oldest waiter, else make it idle.

        Returns None, or the reason why it has to be closed instead.
        """
        reason = self.reason_to_close(entry, now)
        if reason is not None:
            return reason
        entry.deadline = math.inf
        entry.idle_since = now
        waiter = self.first_waiter() if self.waiters else None
        if waiter is not None:
            self.give(entry, waiter.holder, now)
            self.hand_over(waiter, entry)
            # Another waiter is the first now, and has to see to the next connect.
            self.wake_for_retry()
        else:
            entry.holder = None
            entry.state = IDLE
            self.idle.append(entry)
        return None

    def reason_to_close(self, entry: PoolEntry, now: float) -> str | None:
        """Return why a connection can't stay in the pool, None if it can."""
        if self.state is not RUNNING:
            return _REASONS[self.state]
        if entry.generation != self.generation:
            return self.stale_reason
        if now >= entry.expires_at:
            return entry.cancelled or "expired"
        return None

    def is_stale(self, entry: PoolEntry) -> bool:
        """Tell whether a drain waits for this entry."""
        return self.state is PAUSED or entry.generation != self.generation

    # --- Idle connections ------------------------------------------------------------

    def remove_unfit(
        self, dead: Collection[PoolEntry], idle_since: Mapping[PoolEntry, float]
    ) -> list[Victim]:
        """Take what must not stay idle out of ``idle``; return it, to be closed.

        That is what died, expired or became stale, and above MIN_CONNS what is idle
        longer than MAX_IDLE. An entry in ``dead`` counts only if it has not been used
        since it was looked at: its ``idle_since`` is still the same.
        """
        now = self.clock()
        spare = len(self.entries) - self.config.min_conns
        victims: list[Victim] = []
        # The list begins with those that are idle longest.
        for entry in list(self.idle):
            since = entry.idle_since
            reason = self.reason_to_close(entry, now)
            if entry in dead and since == idle_since[entry]:
                reason = "dead"
            elif reason is None and (
                now - since >= self.config.max_idle and len(victims) < spare
            ):
                reason = "idle"
            if reason is not None and self._take_out(entry, since):
                victims.append((entry, reason))
        return victims

    def remove_stale(self) -> list[Victim]:
        """Take out of ``idle`` what has become stale."""
        now = self.clock()
        return [
            (entry, self.reason_to_close(entry, now) or "dead")
            for entry in list(self.idle)
            if entry.generation != self.keeps
            and self._take_out(entry, entry.idle_since)
        ]

    def remove_suspects(self) -> list[Victim]:
        """Take out of ``idle`` the connections that would have to be pinged.

        For when one of them has not answered in time: asked one by one, the others
        would cost the next checkouts as much.
        """
        now, limit = self.clock(), self.config.check_after_idle
        return [
            (entry, "dead")
            for entry in list(self.idle)
            if now - (since := entry.idle_since) >= limit
            and self._take_out(entry, since)
        ]

    def _take_out(self, entry: PoolEntry, since: float) -> bool:
        """Take an entry out of ``idle`` as the caller's own, unless it was used since.

        ``since`` is its ``idle_since`` of before.
        """
        try:
            self.idle.remove(entry)
        except ValueError:
            return False
        if entry.idle_since == since:
            self.own(entry)
            return True
        self.idle.append(entry)
        self.serve()
        return False

    def repair_queue(self) -> None:
        """Serve whom an exception in between kept waiting.

        That is who was given something and didn't leave the queue, and the first ones
        if a slot was freed, or a connection came back, for nobody. A change of the
        state may have been interrupted too.
        """
        self.keeps = self._kept_generation()
        for waiter in [waiter for waiter in self.waiters if waiter.is_served()]:
            waiter.wake()
            self.leave_queue(waiter)
        self.serve()
        self.grant()

    def _kept_generation(self) -> int:
        return self.generation if self.state is RUNNING else -1

    def change_state(self, state: str, stale_reason: str | None) -> list[Victim]:
        """Change the pool's state; return the idle connections that have to be closed.

        With a reason, every connection that is open now becomes stale.
        """
        self.state = state
        if stale_reason is not None:
            self.generation += 1
            self.stale_reason = stale_reason
        self.keeps = self._kept_generation()
        victims = self.remove_stale()
        self.grant()
        # Another waiter may be the first now, and has to see to the retry.
        self.wake_for_retry()
        return victims
