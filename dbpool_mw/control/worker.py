"""This process as the commands see and steer it.

A `Worker` answers their requests, and has the pools follow the orders for their
aliases: those that a request brought, and those that are kept in the control directory
for workers that start later. What the directory has lost is written anew. An order with
an end is ended here, whatever has become of the directory.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from dbpool_mw.control import protocol, routes
from dbpool_mw.control.arguments import command_line
from dbpool_mw.control.orders import (
    RESUME,
    KeptOrders,
    Order,
    OrdersError,
    OrdersLocked,
    added,
    described,
    in_force,
    keep,
    last_for,
    merged,
)
from dbpool_mw.core.logs import get_logger

logger = get_logger("dbpool_mw.control")

#: How many samples a reply has at most, of all pools: they are a third of a MAX_REPLY.
MOST_SAMPLES = 12_000


class Pool(Protocol):
    """A pool, as far as the commands need to know; the verbs return at once."""

    name: str

    def drain(self) -> None: ...
    def pause(self) -> None: ...
    def recycle(self) -> None: ...
    def resume(self) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    def cancel(self, holds: Collection[str]) -> list[str]: ...
    def holders(self) -> list[dict[str, Any]]: ...
    def history(
        self,
        seconds: float,
        rows: int,
        columns: Iterable[str] | None,
        step: float | None,
    ) -> dict[str, Any]: ...
    def waiters(self) -> list[dict[str, Any]]: ...
    def settings(self) -> dict[str, Any]: ...
    def routes(self) -> list[dict[str, Any]]: ...


class Worker:
    """The requests to this process, and the orders that its pools follow.

    `directory()` returns the control directory, None to keep no orders. It is called
    when the directory is first needed: the default one depends on the user, and a
    server may change the user between the time it loads the application and the time it
    serves. `pools()` returns the pools of the process. `lock` guards the orders; it is
    the one that is held when a pool is published. Every method may be called from any
    thread.
    """

    def __init__(
        self,
        directory: Callable[[], Path | None],
        pools: Callable[[], Iterable[Pool]],
        clock: Callable[[], float] = time.monotonic,
        lock: threading.RLock | None = None,
    ) -> None:
        self._directory = directory
        self._pools = pools
        self._clock = clock
        self._started_at = clock()
        # Nothing is logged and no pool changed while it is held: a log handler may wait
        # for a connection, in a thread that makes a pool. Re-entrant for finalisers,
        # which may make a pool in the middle of anything.
        self._lock = lock or threading.RLock()
        # Held by a thread from the time it decides to the time the pools are changed,
        # so that the last decision is the one carried out last.
        self._changing = threading.RLock()
        self._is_located = False
        self._kept: KeptOrders | None = None
        # What requests brought for this process alone.
        self._own: tuple[Order, ...] = ()
        # Why the orders that the directory lacks couldn't be written last time.
        self._unwritten: str | None = None
        self._maintained_at: float | None = None
        # The order that the pools of an alias were made or changed by last.
        self._followed: dict[str, Order | None] = {}

    # --- The pools and their orders --------------------------------------------------

    @contextlib.contextmanager
    def adopting(self, alias: str) -> Iterator[str | None]:
        """Give the verb that a new pool begins under, None if it simply runs.

        Publish the pool in the block: no order comes between the two.
        """
        with self._lock:
            self._refresh()
            order = self._order_of(alias)
            is_first = alias not in self._followed
            # Other pools of the alias may have to be changed still.
            self._followed.setdefault(alias, order)
            yield None if order is None else order.verb
        if is_first:
            self._announce(alias, None, order)

    def verb(self, alias: str) -> str | None:
        """Give the verb that an alias is under, None if its pools simply run.

        From memory: what was kept is read by ``maintain``.
        """
        with self._lock:
            order = self._order_of(alias)
        return None if order is None else order.verb

    def maintain(self) -> None:
        """Have the pools follow what was kept and what ended.

        The maintenance thread calls it every second.
        """
        self._maintained_at = self._clock()
        if not self._changing.acquire(blocking=False):
            return  # a request is being carried out
        try:
            pools = list(self._pools())
            with self._lock:
                self._refresh()
                kept = self._kept
                problem = None if kept is None else kept.pop_problem()
                missing = () if kept is None else kept.missing(self._clock())
                changed = self._changed(dict.fromkeys(p.name for p in pools))
            if problem is not None:
                logger.warning(
                    "can't use the pauses and drains kept in %s; those known before go "
                    "on, and the next dbpool_drain writes the file anew",
                    problem,
                )
            if kept is not None and missing:
                self._write(kept.directory, missing)
            for alias, (before, order) in changed.items():
                self._announce(alias, before, order)
                for pool in pools:
                    if pool.name == alias:
                        getattr(pool, _verb(order))()
        finally:
            self._changing.release()

    def _write(self, directory: Path, orders: tuple[Order, ...]) -> None:
        """Write orders that the directory has lost; log why if that begins to fail."""
        problem = None
        try:
            keep(directory, *orders, wait=0)
        except OrdersLocked:
            return  # perhaps another worker writes them
        except OrdersError as error:
            problem = str(error)
        if problem is not None and problem != self._unwritten:
            text = "the pauses and drains are not kept for workers that start later: %s"
            logger.warning(text, problem)
        self._unwritten = problem

    def _changed(
        self, aliases: Iterable[str]
    ) -> dict[str, tuple[Order | None, Order | None]]:
        """Return the orders before and now of the aliases whose verb has changed.

        Compared with what was followed before, and not with the pools' states, which
        may have been changed for other reasons: in a test run a pool is always drained.
        """
        changed = {}
        for alias in aliases:
            before, order = self._followed.get(alias), self._order_of(alias)
            self._followed[alias] = order
            if _verb(before) != _verb(order):
                changed[alias] = before, order
        return changed

    def _announce(self, alias: str, before: Order | None, order: Order | None) -> None:
        """Log what begins without a request, and what ends by itself."""
        now = self._clock()
        if before is not None and before.has_ended(now):
            seconds = (before.until or 0) - before.began
            text = "%s: the %s has ended by itself, after %g s"
            logger.warning(text, alias, before.verb, seconds)
        if order is not None:
            text = "%s: under a %s that is kept in the control directory, %s"
            logger.warning(text, alias, order.verb, _end(order, now))

    def _refresh(self) -> None:
        """Read the orders in the directory."""
        if not self._is_located:
            directory = self._directory()
            self._kept = None if directory is None else KeptOrders(directory)
            self._is_located = True
        if self._kept is not None:
            self._kept.refresh()

    def _orders(self) -> tuple[Order, ...]:
        kept = self._kept.orders if self._kept is not None else ()
        return merged(kept, self._own)

    def _order_of(self, alias: str) -> Order | None:
        return in_force(self._orders(), alias, self._clock())

    # --- Requests --------------------------------------------------------------------

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out a request of the control socket and return the reply.

        `request` has passed `protocol.check_request`. Waits for no server.
        """
        aliases = request.get("aliases")
        cancelled: list[str] = []
        if request["verb"] == "cancel":
            for pool in self._chosen(aliases):
                cancelled += pool.cancel(request["holds"])
        elif request["verb"] != "stats":
            with self._changing:
                with self._lock:
                    last = self._take(request)
                for pool in self._chosen(aliases):
                    # Even if the pool has this state already: what it opened meanwhile
                    # is stale from now on.
                    if pool.name in last:
                        getattr(pool, request["verb"])()
        chosen = self._chosen(aliases)
        now = self._clock()
        with self._lock:
            orders = described(self._orders(), now)
        reply: dict[str, Any] = {
            "version": protocol.VERSION,
            "ok": True,
            "pid": os.getpid(),
            "command": command_line(),
            "uptime": self._clock() - self._started_at,
            "maintenance_age": self._maintenance_age(),
            "pools": [
                {**pool.stats(), "state_seconds_left": self._seconds_left(pool.name)}
                for pool in chosen
            ],
            "orders": orders,
        }
        if request.get("holders"):
            reply["holders"] = [h for pool in chosen for h in pool.holders()]
        wanted = request.get("history", False)
        if wanted:
            seconds = math.inf if wanted is True else wanted
            rows = MOST_SAMPLES // max(len(chosen), 1)
            how = rows, request.get("columns"), request.get("step")
            reply["history"] = [pool.history(seconds, *how) for pool in chosen]
        if request.get("waiters"):
            reply["waiters"] = [w for pool in chosen for w in pool.waiters()]
        if request.get("settings"):
            reply["settings"] = [pool.settings() for pool in chosen]
        if request.get("routes"):
            reply["routes"] = routes.merged(r for pool in chosen for r in pool.routes())
        if request["verb"] == "cancel":
            reply["cancelled"] = cancelled
            unknown = dict.fromkeys(request["holds"])
            reply["unknown"] = [name for name in unknown if name not in cancelled]
        return reply

    def _chosen(self, aliases: list[str] | None) -> list[Pool]:
        return [p for p in self._pools() if aliases is None or p.name in aliases]

    def _take(self, request: Mapping[str, Any]) -> set[str]:
        """Note the order that a request brings.

        Returns the aliases that have pools and are under it: not those with a later
        order, which came from another command, and none if it has ended on its way.
        """
        aliases, seconds = request.get("aliases"), request.get("seconds")
        now = self._clock()
        given_at = request.get("began")
        began = now if given_at is None else min(given_at, now)
        order = Order(
            # A recycle goes on pooling: it ends a drain or a pause.
            RESUME if request["verb"] == "recycle" else request["verb"],
            None if aliases is None else tuple(aliases),
            began,
            None if seconds is None else began + seconds,
        )
        self._refresh()
        if request.get("kept", False) and self._kept is not None:
            self._kept.add(order)
        else:
            self._own = added(self._own, order)
        orders = self._orders()
        found = set()
        for pool in self._chosen(aliases):
            last = last_for(orders, pool.name)
            is_last = last is not None and last.began <= began
            if is_last and not order.has_ended(now):
                found.add(pool.name)
                self._followed[pool.name] = None if order.verb == RESUME else order
        return found

    def _maintenance_age(self) -> float | None:
        """Return the seconds since maintenance last ran, None if it never did."""
        ran_at = self._maintained_at
        return None if ran_at is None else self._clock() - ran_at

    def _seconds_left(self, alias: str) -> float | None:
        """Return how long a pool's state lasts, None if it has no end of its own."""
        with self._lock:
            order = self._order_of(alias)
        if order is None or order.until is None:
            return None
        return max(0.0, order.until - self._clock())


def _verb(order: Order | None) -> str:
    return RESUME if order is None else order.verb


def _end(order: Order, now: float) -> str:
    """Say when an order ends."""
    by_hand = "until manage.py dbpool_drain --resume"
    if order.until is None:
        return by_hand
    return f"for {max(0.0, order.until - now):.0f} s more or {by_hand}"
