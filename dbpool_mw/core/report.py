"""What a pool says of itself: plain data and text, made from a copy of its state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from .config import PoolConfig
from .entry import BUSY, CONNECTING, IDLE, IN_USE, Holder
from .stack import Stack, lines, of_thread
from .text import ERROR, NAME, REQUEST, one_line, shortened

#: How many holders the text of an error names, those who hold longest first.
NAMED_HOLDERS = 5


class Snapshot(NamedTuple):
    """A pool's state at one moment, copied under its lock.

    ``states`` has the state of each entry, ``stale`` counts the entries that a drain
    waits for, ``checkouts`` all checkouts, also those whose connections have not come
    back; ``oldest_wait`` and ``oldest_hold`` are in seconds; ``figures`` is
    ``PoolMetrics.as_dict()``.
    """

    state: str
    states: Sequence[str]
    checkouts: int
    stale: int
    waiting: int
    figures: dict[str, Any]
    in_transaction: int = 0
    in_use_peak: int = 0
    oldest_wait: float = 0.0
    oldest_hold: float = 0.0


class Hold(NamedTuple):
    """A connection in use: who holds it, for how many seconds, where it was taken.

    ``name`` is its ``hold_id``, ``statement`` what runs now, as it may be shown.
    """

    name: str
    seconds: float
    holder: Holder
    backend_pid: int | None
    stale: bool
    leaked: bool
    cancelled: bool
    in_transaction: bool
    statement: str | None
    stack: Stack


def stats(
    alias: str,
    database: str,
    config: PoolConfig,
    snapshot: Snapshot,
    address: str = "",
) -> dict[str, Any]:
    """Return the figures of one pool under the keys of ``metrics.METRICS``.

    ``in_use`` counts what the pool is cleaning or closing as well.
    """
    count = Counter(snapshot.states)
    figures = snapshot.figures
    return {
        "alias": alias,
        "database": database,
        "address": address,
        "state": snapshot.state,
        "min": config.min_conns,
        "max": config.max_conns,
        "size": len(snapshot.states),
        "in_use": count[IN_USE] + count[BUSY],
        "idle": count[IDLE],
        "connecting": count[CONNECTING],
        "waiting": snapshot.waiting,
        "stale": snapshot.stale,
        "in_use_peak": snapshot.in_use_peak,
        "in_transaction": snapshot.in_transaction,
        "oldest_wait_seconds": snapshot.oldest_wait,
        "oldest_hold_seconds": max(0.0, snapshot.oldest_hold),
        "checkouts": snapshot.checkouts,
        **figures,
    }


def holders(
    alias: str, holds: Sequence[Hold], address: str = ""
) -> list[dict[str, Any]]:
    """Return every hold as plain data, the longest first."""
    return [
        {
            "id": hold.name,
            "alias": alias,
            "address": address,
            "backend_pid": hold.backend_pid,
            "state": "cancelled" if hold.cancelled else "in use",
            "seconds": hold.seconds,
            "stale": hold.stale,
            "leaked": hold.leaked,
            "stack": _stack(hold) if hold.leaked else [],
            "in_transaction": hold.in_transaction,
            "statement": hold.statement,
            **_bounded(hold.holder.describe()),
        }
        for hold in sorted(holds, key=lambda hold: hold.seconds, reverse=True)
    ]


def waiters(
    alias: str, waits: Sequence[tuple[float, Holder]], address: str = ""
) -> list[dict[str, Any]]:
    """Return every wait, its seconds and who waits, as plain data, in their order."""
    return [
        {
            "alias": alias,
            "address": address,
            "seconds": seconds,
            **_bounded(holder.describe()),
        }
        for seconds, holder in waits
    ]


def settings(alias: str, config: PoolConfig, address: str = "") -> dict[str, Any]:
    """Return the settings of a pool under their names, as plain data.

    A duration without a limit is None, and a function its name.
    """
    return {
        "alias": alias,
        "address": address,
        **{f.name.upper(): _plain(getattr(config, f.name)) for f in fields(config)},
    }


def _plain(value: object) -> object:
    if callable(value):
        module = getattr(value, "__module__", None)
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return f"{module}.{name}"[:REQUEST]
    return None if value == math.inf else value


def _stack(hold: Hold) -> list[str]:
    """Return where the holder's thread is now; where it checked out if not known."""
    return lines(of_thread(hold.holder.thread_id) or hold.stack)


def explain(
    stats: Mapping[str, Any],
    holders: Sequence[Mapping[str, Any]],
    failures: int,
    error: str,
) -> str:
    """Say why there is no connection: counts, state, failed connects, holders."""
    text = (
        f"{stats['in_use']} in use, {stats['idle']} idle and "
        f"{stats['connecting']} connecting of at most {stats['max']}, "
        f"{stats['waiting']} waiting"
    )
    if stats["state"] != "running":
        text += f", the pool is {stats['state']}"
    if failures:
        text += f"; {failures} failed connects, the last: {one_line(error, ERROR)}"
    if holders:
        named = ", ".join(map(holder_text, holders[:NAMED_HOLDERS]))
        more = len(holders) - NAMED_HOLDERS
        text += f"; held by {named}" + (f" and {more} more" if more > 0 else "")
    return text


def holder_text(holder: Mapping[str, Any]) -> str:
    """Return a holder in words: who it is, and its seconds if they are known."""
    path, name = holder.get("path"), holder.get("thread")
    request = request_text(holder["method"], path) if path else ""
    thread = f"thread {shortened(str(name), NAME)}" if name else "unknown"
    text = f"{request} in {thread}" if request else thread
    return f"{text} for {holder['seconds']:.1f} s" if "seconds" in holder else text


def request_text(method: object, path: object) -> str:
    """Return a request in words: its method and path."""
    return shortened(f"{method} {path}", REQUEST)


def _bounded(holder: Mapping[str, Any]) -> dict[str, Any]:
    """Return a holder without long texts: a reply has to hold all of them."""
    return {
        key: value[:REQUEST] if isinstance(value, str) else value
        for key, value in holder.items()
    }
