"""Find the entries that nobody has any more, whatever went wrong between two lines.

An exception of a signal, a time limit or a debugger can come between any two lines of
Python. So no order of lines makes it certain that an entry, once taken, is either held
or given back. What is certain is the pool's own record, which says who has an entry,
and the interpreter's, which says what each thread is executing: an entry that its
holder doesn't hold, and that no call of a checkout, a checkin or a close has among its
local variables, is lost.

Not found is what a dead thread's lock keeps: a tracer can raise on the way out of a
``with`` on the pool's lock, where no signal is handled.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import cast

from .entry import IN_USE, PoolEntry
from .waiter import Waiter

#: The modules in which a thread can be about to hold an entry, or to give it back.
_WORKING = frozenset({"dbpool_mw.core.pool", "dbpool_mw.binding.binding"})

#: What tells one taking of an entry from the next.
Stamp = tuple[str, int, float, float]


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
        self, entries: Iterable[PoolEntry], idle: Sequence[PoolEntry]
    ) -> list[tuple[PoolEntry, Stamp]]:
        """Return the entries that are lost, each with its stamp.

        ``entries`` is a copy, ``idle`` the pool's list; call without the lock. Where
        threads are greenlets, nothing is found: what they execute isn't known, and no
        exception comes between two lines there.
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
            being_worked_on = _find_worked_on(suspects)
            # It may have come to be held before its thread was looked at.
            suspects = {
                entry: seen
                for entry, seen in suspects.items()
                if not (entry in being_worked_on or _is_held(entry) or entry in idle)
            }
        return self._suspects.confirm(suspects)


def stamp(entry: PoolEntry) -> Stamp:
    """Return what an entry has as long as it isn't given to, or taken by, another."""
    return entry.state, entry.worker, entry.checked_out_at, entry.deadline


def _is_held(entry: PoolEntry) -> bool:
    """Tell whether the holder that the pool knows of has the entry."""
    holder = entry.holder
    return entry.state is IN_USE and holder is not None and holder.holds(entry)


def _find_worked_on(suspects: Iterable[PoolEntry]) -> set[PoolEntry]:
    """Return the entries that a thread is executing a checkout or a checkin of."""
    frames: dict[int, FrameType | None] = {**sys._current_frames()}
    # Of the running thread, what called the search.
    frames[threading.get_ident()] = _caller_of("maintain")
    found: set[PoolEntry] = set()
    for innermost in frames.values():
        frame = innermost
        while frame is not None:
            if _is_pools(frame):
                # A copy: the thread goes on meanwhile.
                for value in tuple(frame.f_locals.values()):
                    found.update(_entries_in(value))
            frame = frame.f_back
    # In the middle of a line, what a call has returned is in no variable yet.
    between = {ident for ident, frame in frames.items() if frame and _is_pools(frame)}
    return found | {
        entry for entry in suspects if not between.isdisjoint(_threads_of(entry))
    }


def _entries_in(value: object) -> Iterator[PoolEntry]:
    """Yield the entries in a local variable: one, a waiter's, or those of a list."""
    # isinstance() would ask a lazy object for its class, and so evaluate it here.
    kind = type(value)
    if kind is PoolEntry:
        yield cast(PoolEntry, value)
    elif issubclass(kind, Waiter):
        yield from _entries_in(cast(Waiter, value).entry)
    elif kind is tuple or kind is list:
        for item in tuple(cast("list[object]", value)):
            yield from _entries_in(item)


def _threads_of(entry: PoolEntry) -> set[int]:
    """Return the idents of the threads that may be about to get or return an entry."""
    holder = entry.holder
    return {entry.worker} if holder is None else {entry.worker, holder.thread_id}


def _caller_of(name: str) -> FrameType | None:
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return None if frame is None else frame.f_back


def is_in_pool(frame: FrameType | None) -> bool:
    """Tell whether a frame, or one that called it, executes a checkout or a checkin."""
    while frame is not None:
        if _is_pools(frame):
            return True
        frame = frame.f_back
    return False


def _is_pools(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") in _WORKING


def _threads_are_greenlets() -> bool:
    gevent, eventlet = map(sys.modules.get, ("gevent.monkey", "eventlet.patcher"))
    return (gevent is not None and gevent.is_module_patched("threading")) or (
        eventlet is not None and eventlet.is_monkey_patched("thread")
    )
