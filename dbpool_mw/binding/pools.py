"""The pools of one process: one for each way to open the connections of an alias."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from dbpool_mw.binding.parameters import Parameters, read
from dbpool_mw.binding.parameters import address as address_of
from dbpool_mw.core.errors import PoolError
from dbpool_mw.core.pool import ConnectionPool
from dbpool_mw.core.slots import RUNNING

#: How many pools one alias may have.
MOST = 32

#: Seconds without use after which a pool closes that isn't of DATABASES' own settings.
UNUSED_SECONDS = 10.0

#: Makes a pool with this address, label and first state; see ``ConnectionPool``.
Build = Callable[[str, str, str], ConnectionPool]


class _Keyed(NamedTuple):
    parameters: Parameters
    pool: ConnectionPool


class Pools:
    """The pools of a process, by alias and by what opens their connections.

    ``find`` and ``all`` may be called from any thread; ``add`` and ``remove_unused`` by
    one thread at a time.
    """

    def __init__(self) -> None:
        # The tuples are replaced as a whole, because others read them meanwhile.
        self._by_alias: dict[str, tuple[_Keyed, ...]] = {}
        #: Whether the process has other pools now: these were closed, or are those of
        #: the process that this one was forked from.
        self.are_dropped = False

    def find(self, alias: str, parameters: Parameters) -> ConnectionPool | None:
        """Return the alias's pool of these connections, None without one."""
        for keyed in self._by_alias.get(alias, ()):
            if keyed.parameters == parameters:
                return keyed.pool
        return None

    def all(self) -> list[ConnectionPool]:
        """Return every pool, those of one alias in the order they were made in."""
        return [keyed.pool for many in self._by_alias.copy().values() for keyed in many]

    def add(
        self,
        alias: str,
        parameters: Parameters,
        is_own: bool,
        build: Build,
        state: str | None = None,
    ) -> tuple[ConnectionPool, ConnectionPool | None]:
        """Make a pool; return it, and the pool that had to go, which is to be closed.

        ``is_own`` says that these are the alias's settings in DATABASES; ``state`` is
        the pool's first, by default draining or paused if the alias's other pools are.
        At MOST pools, the one that is unused for longest goes; raises PoolError if all
        of them are in use.
        """
        others = self._by_alias.get(alias, ())
        victim = None
        if len(others) >= MOST:
            victim = max(others, key=lambda keyed: keyed.pool.unused_seconds())
            if not victim.pool.unused_seconds():
                raise PoolError(
                    alias,
                    f"pool {alias!r}: connections of {MOST} users, hosts or OPTIONS of "
                    "this alias are in use at once, and it can't have more pools",
                )
        address = _told_apart(address_of(parameters), others)
        if state is None:
            state = others[-1].pool.state if others else RUNNING
        pool = build(address, alias if is_own else f"{alias} ({address})", state)
        # Read again: a finaliser may have added one meanwhile.
        others = self._by_alias.get(alias, ())
        kept = (keyed for keyed in others if keyed is not victim)
        self._by_alias[alias] = (*kept, _Keyed(parameters, pool))
        return pool, None if victim is None else victim.pool

    def aliases(self) -> list[str]:
        """Return the aliases that have a pool."""
        return list(self._by_alias)

    def remove_unused(
        self, databases: Mapping[str, Mapping[str, Any]]
    ) -> list[ConnectionPool]:
        """Take out the pools that are not needed any more; return them, to be closed.

        ``databases`` is DATABASES as it is now. Those are the pools of an alias that it
        doesn't have, and the pools of other settings than its own that are unused for
        UNUSED_SECONDS.
        """
        removed: list[ConnectionPool] = []
        for alias, many in self._by_alias.copy().items():
            kept: list[_Keyed] = []
            for keyed in many:
                if _is_needed(keyed, databases.get(alias)):
                    kept.append(keyed)
                else:
                    removed.append(keyed.pool)
            if kept:
                self._by_alias[alias] = tuple(kept)
            else:
                del self._by_alias[alias]
        return removed


def _is_needed(keyed: _Keyed, own: Mapping[str, Any] | None) -> bool:
    return own is not None and (
        keyed.parameters == read(own)
        or keyed.pool.unused_seconds() < UNUSED_SECONDS
        # The next pool of the alias is to be drained or paused, too.
        or keyed.pool.state != RUNNING
    )


def _told_apart(address: str, others: Iterable[_Keyed]) -> str:
    """Return an address that no other pool has: their passwords or OPTIONS differ."""
    taken = {keyed.pool.address for keyed in others}
    numbers = itertools.count(2)
    unique = address
    while unique in taken:
        unique = f"{address} ({next(numbers)})"
    return unique
