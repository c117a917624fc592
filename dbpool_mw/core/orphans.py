"""Find the entries that nobody has any more, whatever went wrong between two lines.

An exception of a signal, a time limit or a debugger can come between any two lines of
Python. So no order of lines makes it certain that an entry, once taken, is either held
or given back. What is certain is the pool's own record, which says who has an entry,
and the interpreter's, which says what each thread is executing: an entry that its
holder doesn't hold, and whose threads execute no checkout, checkin or close, is lost. A
thread that waits in the queue has none yet.

Which entry a thread works on could be read from the variables of its frames, but not
safely: CPython crashes when the thread leaves a frame whose variables are being read.

Not found is what a dead thread's lock keeps: a tracer can raise on the way out of a
``with`` on the pool's lock, where no signal is handled.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Container, Iterable, Sequence
from types import FrameType
from typing import NamedTuple

from .entry import IDLE, IN_USE, PoolEntry
from .stack import Call, of_threads

#: The modules in which a thread can be about to hold an entry, or to give it back.
_POOL = "dbpool_mw.core.pool"
_WORKING = frozenset({_POOL, "dbpool_mw.binding.binding"})


class Stamp(NamedTuple):
    """What tells one taking of an entry from the next."""

    state: str
    worker: int
    checked_out_at: float
    deadline: float


class Suspects:
    """What one search found, held against what the search before it found."""

    def __init__(self) -> None:
        self._before: dict[PoolEntry, Stamp] = {}

    def confirm(self, found: dict[PoolEntry, Stamp]) -> list[tuple[PoolEntry, Stamp]]:
        """Return what the search before found with the same stamp."""
        before, self._before = self._before, found
        return [
            (entry, seen) for entry, seen in found.items() if before.get(entry) == seen
        ]


class Orphans:
    """The search for entries that nobody has. Called by one thread at a time.

    An entry counts when two searches in a row find it lost in the same state. One
    search alone could look at the holder before, and at the thread after, the moment
    when one handed the entry to the other.
    """

    def __init__(self) -> None:
        self._suspects = Suspects()

    def find(
        self,
        entries: Iterable[PoolEntry],
        idle: Sequence[PoolEntry],
        waiting: Container[int],
    ) -> list[tuple[PoolEntry, Stamp]]:
        """Return the entries that are lost, each with its stamp.

        ``entries`` is a copy, ``idle`` the pool's list, and ``waiting`` has the idents
        of the threads in the queue; call without the lock. Where threads are greenlets,
        nothing is found: what they execute isn't known, and no exception comes between
        two lines there.
        """
        if _threads_are_greenlets():
            return []
        taken = [(entry, stamp(entry)) for entry in entries]
        suspects = {
            entry: seen
            for entry, seen in taken
            if not _is_held(entry) and entry not in idle
        }
        if suspects:
            being_worked_on = _find_worked_on(suspects, waiting)
            # It may have come to be held before its thread was looked at.
            suspects = {
                entry: seen
                for entry, seen in suspects.items()
                if not (entry in being_worked_on or _is_held(entry) or entry in idle)
            }
        return self._suspects.confirm(suspects)


def stamp(entry: PoolEntry) -> Stamp:
    """Return what an entry has as long as it isn't given to, or taken by, another."""
    return Stamp(entry.state, entry.worker, entry.checked_out_at, entry.deadline)


def _is_held(entry: PoolEntry) -> bool:
    """Tell whether the holder that the pool knows of has the entry."""
    holder = entry.holder
    return entry.state is IN_USE and holder is not None and holder.holds(entry)


def _find_worked_on(
    suspects: Collection[PoolEntry], waiting: Container[int]
) -> set[PoolEntry]:
    """Return the entries whose threads execute a checkout, a checkin or a close."""
    calls = of_threads()
    # Of the running thread, what called the search.
    ident = threading.get_ident()
    calls[ident] = _callers_of("maintain", calls.get(ident, []))
    innermost = {ident: _innermost(found) for ident, found in calls.items()}
    working = {
        ident
        for ident, call in innermost.items()
        if call is not None and ident not in waiting
    }
    found = {e for e in suspects if not working.isdisjoint(_threads_of(e))}
    # Whoever takes an idle entry without the lock isn't noted in it for a moment.
    if any(call and call.code.co_name == "checkout" for call in innermost.values()):
        found.update(entry for entry in suspects if entry.state is IDLE)
    return found


def _innermost(calls: list[Call]) -> Call | None:
    """Return the innermost of a thread's calls that is such a call, if any."""
    return next((call for call in calls if call.module in _WORKING), None)


def _threads_of(entry: PoolEntry) -> set[int]:
    """Return the idents of the threads that may be about to get or return an entry."""
    holder = entry.holder
    return {entry.worker} if holder is None else {entry.worker, holder.thread_id}


def _callers_of(name: str, calls: list[Call]) -> list[Call]:
    """Return what called the innermost function of a name."""
    names = [call.code.co_name for call in calls]
    return calls[names.index(name) + 1 :] if name in names else []


def is_in_pool(frame: FrameType | None) -> bool:
    """Tell whether a frame, or one that called it, executes a method of a pool."""
    while frame is not None and frame.f_globals.get("__name__") != _POOL:
        frame = frame.f_back
    return frame is not None


def _threads_are_greenlets() -> bool:
    gevent, eventlet = map(sys.modules.get, ("gevent.monkey", "eventlet.patcher"))
    return (gevent is not None and gevent.is_module_patched("threading")) or (
        eventlet is not None and eventlet.is_monkey_patched("thread")
    )
