"""Find the entries that nobody has any more, whatever went wrong between two lines.

An exception of a signal, a time limit or a debugger can come between any two lines of
Python. So no order of lines makes it certain that an entry, once taken, is either held
or given back. What is certain is the pool's own record, which says who has an entry,
and the interpreter's, which says what each thread is executing: an entry that its
holder doesn't hold, while its thread executes no code of a checkout or a checkin, is
lost.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from types import FrameType

from .entry import CONNECTING, IDLE, IN_USE, PoolEntry

#: The modules in which a thread can be about to hold an entry, or to give it back.
_WORKING = frozenset({"dbpool_mw.core.pool", "dbpool_mw.binding.binding"})

#: What tells one taking of an entry from the next.
_Stamp = tuple[str, int, float, float]


class Orphans:
    """The search for entries that nobody has. Called by one thread at a time.

    An entry counts when two searches in a row find it lost in the same state. One
    search alone could look at the holder before, and at the thread after, the moment
    when one handed the entry to the other.
    """

    def __init__(self) -> None:
        self._suspects: dict[PoolEntry, _Stamp] = {}

    def find(self, entries: Iterable[PoolEntry]) -> list[tuple[PoolEntry, _Stamp]]:
        """Return the entries that are lost, each with its stamp.

        ``entries`` is a copy; call without the pool's lock. Where threads are
        greenlets, nothing is found: what they execute isn't known, and no exception
        comes between two lines there.
        """
        if _threads_are_greenlets():
            return []
        stamps = {entry: stamp(entry) for entry in entries if entry.state is not IDLE}
        suspects = {}
        for entry, seen in stamps.items():
            holder = entry.holder
            is_held = (
                entry.state is IN_USE and holder is not None and holder.holds(entry)
            )
            if not is_held and not _is_working(entry):
                suspects[entry] = seen
        before, self._suspects = self._suspects, suspects
        return [
            (entry, seen)
            for entry, seen in suspects.items()
            if before.get(entry) == seen
        ]


def stamp(entry: PoolEntry) -> _Stamp:
    """Return what an entry has as long as it isn't given to, or taken by, another."""
    return entry.state, entry.worker, entry.checked_out_at, entry.deadline


def _is_working(entry: PoolEntry) -> bool:
    """Tell whether the thread of an entry is executing a checkout or a checkin."""
    threads = {entry.worker} if entry.state is not IN_USE else set()
    if entry.holder is not None and entry.state in (IN_USE, CONNECTING):
        threads.add(entry.holder.thread_id)
    frames: dict[int, FrameType | None] = {**sys._current_frames()}
    # Of the running thread, what called the search.
    frames[threading.get_ident()] = _caller_of("maintain")
    # A thread that has ended, or that isn't one of the system's: its end is seen to
    # elsewhere, by a finaliser.
    if not threads <= frames.keys():
        return True
    return any(is_in_pool(frames[thread]) for thread in threads)


def _caller_of(name: str) -> FrameType | None:
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return None if frame is None else frame.f_back


def is_in_pool(frame: FrameType | None) -> bool:
    """Tell whether a frame, or one that called it, executes a checkout or a checkin."""
    while frame is not None:
        if frame.f_globals.get("__name__") in _WORKING:
            return True
        frame = frame.f_back
    return False


def _threads_are_greenlets() -> bool:
    gevent, eventlet = map(sys.modules.get, ("gevent.monkey", "eventlet.patcher"))
    return (gevent is not None and gevent.is_module_patched("threading")) or (
        eventlet is not None and eventlet.is_monkey_patched("thread")
    )
