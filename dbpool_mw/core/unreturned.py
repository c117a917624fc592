"""Find the entries whose holder has them, and that nobody is to check in any more.

An exception of a signal or a time limit can come in the middle of what ends a block. A
thread that catches it and goes on, without another block, keeps the connection: its
holder is alive and has it, and no call that would return it is ever made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .entry import IN_USE, PoolEntry
from .orphans import Stamp, Suspects, stamp


class Unreturned:
    """The search for such entries. Called by one thread at a time.

    An entry counts when two searches in a row find it in the same hold: a block that is
    just ending looks the same for a moment.
    """

    def __init__(self) -> None:
        self._suspects = Suspects()

    def take(self, entries: Iterable[PoolEntry]) -> Iterator[PoolEntry]:
        """Take the entries that count from their holders, and yield each.

        ``entries`` is a copy; call without the pool's lock. An entry that is yielded is
        the caller's, who must close it: its former holder may know its session.
        """
        suspects: dict[PoolEntry, Stamp] = {}
        for entry in entries:
            seen, holder = stamp(entry), entry.holder
            if (
                entry.state is IN_USE
                and holder is not None
                and holder.holds(entry)
                and not holder.will_return()
            ):
                suspects[entry] = seen
        for entry, seen in self._suspects.confirm(suspects):
            holder = entry.holder
            if holder is not None and holder.let_go(entry, seen.checked_out_at):
                yield entry
