"""One physical connection and the pool's book on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .stack import Stack

Character = tuple[object, ...]

# The states of an entry. Legal ways:
# CONNECTING -> IN_USE | BUSY | CLOSED; IDLE -> IN_USE | BUSY; IN_USE -> IDLE | BUSY;
# BUSY -> IDLE | IN_USE | CLOSED. BUSY is the pool's own: nobody else touches the entry
# while it is checked, cleaned or closed outside the lock.
CONNECTING = "connecting"
IDLE = "idle"
IN_USE = "in use"
BUSY = "busy"
CLOSED = "closed"


class Owner(Protocol):
    """Whoever checks a connection out; the pool passes it on to ``connect``."""

    def describe(self) -> Mapping[str, Any]:
        """Tell who this is: ``thread``, ``method`` and ``path``, each may be None."""
        ...

    def holds_another(self) -> bool:
        """Tell whether it holds a connection of another pool.

        A pause doesn't keep it waiting: the other pool's may wait for it. Asked in the
        thread that checks out.
        """
        ...


class PoolEntry:
    """One place in the pool: reserved first, then holding a physical connection.

    Only the pool writes to it, and only under its lock; the one exception is an entry
    in the state BUSY or CONNECTING, which belongs to the thread that put it there.
    """

    __slots__ = (
        "alive",
        "checked_out_at",
        "connection",
        "expires_at",
        "generation",
        "idle_since",
        "leaked",
        "origin",
        "overdue",
        "owner",
        "socket",
        "stack",
        "state",
        "waited",
    )

    connection: Any
    alive: Callable[[], bool]
    origin: Character
    socket: int | None

    def __init__(self, generation: int) -> None:
        self.state = CONNECTING
        self.generation = generation
        self.connection = None
        self.owner: Owner | None = None
        self.waited = 0.0
        self.checked_out_at = 0.0
        self.idle_since = 0.0
        self.expires_at = 0.0
        # Of the present hold: where it was checked out, and what was noticed of it.
        self.stack: Stack = ()
        self.leaked = False
        self.overdue = False
