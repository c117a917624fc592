"""A slot of the pool, and the connection in it."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .stack import Stack

# The states of an entry, and where each may lead:
#
#   CONNECTING -> IN_USE | BUSY | CLOSED      reserved: a connection is being opened
#   IDLE       -> IN_USE | BUSY               in the pool's idle list
#   IN_USE     -> IDLE | IN_USE | BUSY        a holder has it, or is about to get it
#   BUSY       -> IDLE | IN_USE | CLOSED      being checked in, cleaned or closed
#
# In CONNECTING and BUSY the entry belongs to one thread: the one that opens, checks in,
# cleans or closes the connection.
#
# A *slot* is one of the MAX_CONNS places of a pool, an *entry* a slot that is taken. A
# *hold* is the time from a checkout to its checkin, and the *holder* is who has the
# connection meanwhile. An entry is *stale* if it is of a generation before the last
# drain, pause or recycle. A *lease* is the hold that a cursor was opened in.
CONNECTING = "connecting"
IDLE = "idle"
IN_USE = "in use"
BUSY = "busy"
CLOSED = "closed"

_serials = itertools.count(1)


class Holder(Protocol):
    """Who checks a connection out, as far as the pool needs to know."""

    #: The ident of the thread, or the greenlet, that the holder belongs to.
    thread_id: int

    def holds(self, entry: PoolEntry) -> bool:
        """Tell whether the holder has this entry. Called from any thread."""

    def will_return(self) -> bool:
        """Tell whether anybody is to check in what the holder has.

        Called from any thread. Nobody is where an exception ended the very call that
        was to do it, and the thread goes on.
        """

    def let_go(self, entry: PoolEntry, since: float) -> bool:
        """Take this entry from the holder, from any thread; tell whether it had it.

        ``since`` is its ``checked_out_at`` in the hold that is meant.

        From then on the holder's thread can neither use the connection nor check it in.
        """

    def describe(self) -> Mapping[str, Any]:
        """Return who it is, for reports: texts, each of which may be None.

        These are ``thread``, ``method``, ``path``, and ``route``, the name of the kind
        of work. Called from any thread.
        """

    def holds_another(self) -> bool:
        """Tell whether the calling thread holds a connection of another pool.

        Such a caller is served while this pool is paused: with both pools paused, each
        would wait for the other. Called in the thread that checks out.
        """

    def cancellation(self) -> Callable[[], bool]:
        """Return a function that tells whether this checkout has been cancelled.

        Called in the thread that checks out. The function is called with the pool's
        lock held, in any thread, and reads a mark.
        """


class PoolEntry:
    """One slot of a pool: reserved first, then with a connection in it.

    Only the pool writes to it, with its lock held. Without the lock write: the thread
    that an entry belongs to while it is CONNECTING or BUSY, and ``checkout`` and
    ``checkin`` to an entry that their caller is about to get, or gives back.

    ``holder`` is the pool's own record of who has the connection, or waits for it to be
    opened; ``worker`` is the ident of the thread that a CONNECTING or BUSY entry
    belongs to, and ``deadline`` the time when that thread, or a holder that was
    cancelled, is helped out of a wait for the server. ``serial`` is a number that no
    other entry of the process has. ``initial`` is what the driver says of a fresh
    session; ``recorded`` belongs to whoever opens connections for the pool.
    ``checked_out_at``, ``idle_since`` and ``expires_at`` are times of the pool's clock
    too, ``waited`` is in seconds; ``checkouts`` counts those of this connection.
    """

    __slots__ = (
        "alive",
        "cancelled",
        "checked_out_at",
        "checkouts",
        "connection",
        "deadline",
        "expires_at",
        "generation",
        "holder",
        "idle_since",
        "initial",
        "leaked",
        "recorded",
        "serial",
        "socket_number",
        "stack",
        "state",
        "waited",
        "worker",
    )

    alive: Callable[[], bool]
    initial: Any
    socket_number: int | None

    def __init__(self, generation: int) -> None:
        self.serial = next(_serials)
        self.state = CONNECTING
        self.generation = generation
        self.connection: Any = None
        self.recorded: Any = None
        self.socket_number = None
        self.holder: Holder | None = None
        self.worker = 0
        self.deadline = math.inf
        self.waited = 0.0
        self.checkouts = 0
        self.checked_out_at = 0.0
        self.idle_since = 0.0
        self.expires_at = 0.0
        # Of the present hold: where it was checked out, whether it is a leak, and, once
        # it was cancelled, the reason under which its connection is going to be closed.
        self.stack: Stack = ()
        self.leaked = False
        self.cancelled: str | None = None


def hold_id(entry: PoolEntry, since: float) -> str:
    """Return the name of the hold of an entry that began at ``since``.

    No other hold has it: not the next one of the connection, nor one of a process that
    got the same pid later.
    """
    return f"{os.getpid()}-{entry.serial}-{round(since * 1e9):x}"
