"""Render the workers' answers as text: tables for people, JSON for programs.

The functions here have no side effects. A worker's report may contain text from
outside, such as the path of a request, so every text is escaped before it is printed.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dbpool_mw.control import tables
from dbpool_mw.control.client import Answer
from dbpool_mw.control.tables import Cell, Column, Message, Paint, Row, Tone
from dbpool_mw.core import metrics
from dbpool_mw.core.text import ERROR, NAME, REQUEST, shortened

JSON_VERSION = 1
_PATH_WIDTH = 80
#: Seconds after which the background loop, which has a round a second, counts as stuck.
_LATE_SECONDS = 10.0


class _HolderColumn(NamedTuple):
    """A column of the table of holders; an optional one is shown if it has a value."""

    column: Column
    text: Callable[[Mapping[str, Any]], str]
    optional: bool = False
    tone: Tone = ""


def late(answers: Iterable[Answer]) -> str:
    """Return a line for each worker whose background loop is stuck, "" if none is."""
    ages = [
        (answer.pid, answer.reply["maintenance_age"])
        for answer in answers
        if answer.reply is not None and answer.reply.get("maintenance_age") is not None
    ]
    return "\n".join(
        f"Worker {pid}: its background loop last ran {duration(age)} ago, so nothing "
        "expires, and LEAK_AFTER and MAX_HOLD find nothing there."
        for pid, age in ages
        if age > _LATE_SECONDS
    )


def orders(kept: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each order of `orders.described`, "" if there is none."""
    if not kept:
        return ""
    lines = ["Kept for workers that start later:"]
    lines += [f"  {order_text(order)}" for order in kept]
    return "\n".join(lines)


def order_text(order: Mapping[str, Any]) -> str:
    """Return an order's verb, aliases and end."""
    verb = shortened(order["verb"], NAME)
    names = order.get("aliases") or ["all aliases"]
    text = f"{verb} of {', '.join(shortened(name, NAME) for name in names)}"
    left = order.get("seconds_left")
    if left is not None:
        return f"{text}, {duration(left)} left"
    return text if verb == "resume" else f"{text}, until --resume"


def holders(
    answers: Sequence[Answer], width: int | None = None, paint: Paint = tables.plain
) -> str:
    """Return a table: a row for each connection in use, the longest held first.

    Below the row stand the statement that runs, and the stack of a leaked connection.
    `width` is that of the terminal, None for any.
    """
    names, label = worker_names(answers), labels(answers)
    in_use = [
        (holder, answer)
        for answer in answers
        if answer.reply is not None
        for holder in answer.reply.get("holders", [])
    ]
    if not in_use:
        return "No connection is in use."
    in_use.sort(key=lambda pair: pair[0]["seconds"], reverse=True)
    rows = []
    for holder, answer in in_use:
        cells = {"pid": Cell(names[answer.path]), "alias": Cell(label(holder))}
        for name, each in _HOLDER_COLUMNS.items():
            text = each.text(holder) or "-"
            cells[name] = Cell(text, "" if text == "-" else each.tone)
        rows.append(Row(cells, _below(holder)))
    columns = tables.with_values(
        [_PID, _ALIAS, *(each.column for each in _HOLDER_COLUMNS.values())],
        rows,
        [name for name, each in _HOLDER_COLUMNS.items() if each.optional],
    )
    # By its id a hold is cancelled, so it is there on any terminal.
    keys = 3 if columns[2].name == "id" else 2
    return tables.table(
        columns, rows, width, keys=keys, ranked=_HOLDERS_RANKED, paint=paint
    )


def _below(holder: Mapping[str, Any]) -> list[str]:
    """Return the lines below a holder's row."""
    statement = holder.get("statement")
    lines = [f"runs {shortened(statement, REQUEST)}"] if statement else []
    return lines + [shortened(frame, REQUEST) for frame in holder.get("stack", [])]


def _yes(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda holder: "yes" if holder.get(key) else ""


def _named(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda holder: shortened(str(holder.get(key) or ""), NAME)


_PID = Column("pid", "PID")
_ALIAS = Column("alias", "ALIAS", is_text=True, least=24)
_HOLDER_COLUMNS: dict[str, _HolderColumn] = {
    each.column.name: each
    for each in (
        _HolderColumn(Column("id", "ID", is_text=True), _named("id"), optional=True),
        _HolderColumn(Column("backend_pid", "BACKEND"), _named("backend_pid")),
        _HolderColumn(
            Column("seconds", "FOR", room=5), lambda holder: duration(holder["seconds"])
        ),
        _HolderColumn(
            Column("state", "STATE", is_text=True),
            lambda holder: _named("state")(holder).replace("in use", ""),
            optional=True,
            tone="error",
        ),
        _HolderColumn(
            Column("stale", "STALE", is_text=True),
            _yes("stale"),
            optional=True,
            tone="warning",
        ),
        _HolderColumn(
            Column("leaked", "LEAKED", is_text=True),
            _yes("leaked"),
            optional=True,
            tone="error",
        ),
        _HolderColumn(
            Column("in_transaction", "IN TRANSACTION", is_text=True),
            _yes("in_transaction"),
            optional=True,
        ),
        _HolderColumn(
            Column("request", "REQUEST", is_text=True, least=16),
            lambda holder: request_of(holder),
        ),
        _HolderColumn(
            Column("route", "ROUTE", is_text=True, least=16),
            _named("route"),
            optional=True,
        ),
        _HolderColumn(
            Column("thread", "THREAD", is_text=True, least=12), _named("thread")
        ),
    )
}
#: What a narrow table of holders shows first, behind worker, alias and id.
_HOLDERS_RANKED = (
    "seconds", "request", "state", "leaked", "stale", "in_transaction", "backend_pid",
    "thread", "route",
)  # fmt: skip


def stale(answers: Sequence[Answer], now: float) -> list[str]:
    """Return a line for each stale connection, which a drain waits for.

    A connection in use has a line that names its holder; the others are counted by
    alias. A worker that didn't answer has a line with its error. `now` is Unix time.
    """
    lines = []
    label = labels(answers)
    for answer in answers:
        if answer.reply is None:
            lines.append(
                f"  worker {answer.pid}: {shortened(answer.error or '', ERROR)}"
            )
            continue
        others: Counter[str] = Counter()
        for pool in answer.reply["pools"]:
            others[label(pool)] += pool["stale"]
        for holder in answer.reply.get("holders", []):
            if holder.get("stale"):
                others[label(holder)] -= 1
                text = f"{label(holder)}: {_holder_text(holder, now)}"
                lines.append(f"  worker {answer.pid}: {text}")
        lines += [
            f"  worker {answer.pid}: {text}: {number} being opened, cleaned or closed"
            for text, number in others.items()
            if number > 0
        ]
    return lines


def labels(answers: Iterable[Answer]) -> Callable[[Mapping[str, Any]], str]:
    """Return a function that names the pool of a report, or of a holder, in the text.

    A pool's name is its alias; where there are several pools of an alias, with users or
    hosts of their own, its address stands behind it.
    """
    addresses: dict[str, set[str]] = {}
    for answer in answers:
        for pool in (answer.reply or {}).get("pools", []):
            addresses.setdefault(pool["alias"], set()).add(pool["address"])

    def label(report: Mapping[str, Any]) -> str:
        alias, address = report["alias"], report["address"]
        is_one = len(addresses.get(alias, ())) <= 1
        name = shortened(alias, NAME)
        return name if is_one else f"{name} {shortened(address, NAME)}"

    return label


def _holder_text(holder: Mapping[str, Any], now: float) -> str:
    seconds = holder["seconds"]
    since = time.strftime("%H:%M:%S", time.localtime(now - seconds))
    return (
        f"backend {holder['backend_pid']}, "
        f"thread {shortened(str(holder['thread']), NAME)}, {request_of(holder)}, "
        f"since {since} ({duration(seconds)})"
    )


def request_of(holder: Mapping[str, Any]) -> str:
    """Return a holder's request as method and path, "-" for a holder without one."""
    parts = [holder["method"], holder["path"]]
    text = " ".join(str(part) for part in parts if part is not None)
    return shortened(text, _PATH_WIDTH) if text else "-"


def document(
    control_dir: str,
    answers: Sequence[Answer],
    kept: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the answers as plain data for JSON, in a schema programs may rely on.

    {"version": 1, "control_dir": str, "bucket_bounds": [seconds, ...],
     "workers": [{"pid": int, "command": str | null, "uptime": seconds | null,
                  "maintenance_age": seconds | null,
                  "pools": [POOL, ...], "holders": [HOLDER, ...],
                  "history": [HISTORY, ...], "error": str}, ...],
     "totals": POOL without what can't be added up (alias, database, address, state),
     "orders": [{"verb": "drain" | "pause" | "resume", "aliases": [str, ...] | null,
                 "seconds_left": seconds | null}, ...]}

    A worker's "maintenance_age" is the time since its background loop last began a
    round, of which there is one a second; null before the first.

    `orders` are those kept in the directory for workers that start later. The last one
    for an alias counts; "resume" excepts aliases from an order for all of them (null).
    POOL's "state_seconds_left" is null for a state that doesn't end by itself.

    A worker has "holders" and "history" if the request asked for them, and "error" if
    it didn't answer. POOL, HOLDER and HISTORY are those of the control protocol; in
    POOL each histogram ({"count", "sum", "max", "buckets"}) also has "mean", "p50",
    "p95" and "p99", null when empty. docs/metrics.rst says what each means, and
    docs/schema has this as a JSON schema.
    `bucket_bounds` are the buckets' upper edges; the last bucket has none. A new key
    leaves the version as it is; a key removed or changed in meaning raises it.
    """
    pools = [p for a in answers if a.reply is not None for p in a.reply["pools"]]
    return {
        "version": JSON_VERSION,
        "control_dir": control_dir,
        "bucket_bounds": list(metrics.BOUNDS),
        "workers": [_worker(answer) for answer in answers],
        "totals": _with_summaries(metrics.merge(pools)),
        "orders": list(kept),
    }


def _worker(answer: Answer) -> dict[str, Any]:
    reply = answer.reply or {}
    worker: dict[str, Any] = {
        "pid": answer.pid,
        "command": reply.get("command"),
        "uptime": reply.get("uptime"),
        "maintenance_age": reply.get("maintenance_age"),
        "pools": [_with_summaries(pool) for pool in reply.get("pools", [])],
    }
    worker |= {key: reply[key] for key in ("holders", "history") if key in reply}
    if answer.error is not None:
        worker["error"] = answer.error
    return worker


def _with_summaries(pool: dict[str, Any]) -> dict[str, Any]:
    return pool | {k: metrics.with_summaries(pool[k]) for k in metrics.HISTOGRAMS}


def json_text(data: Mapping[str, Any]) -> str:
    """Return JSON in one line of ASCII, so that --watch prints a line per round."""
    return json.dumps(data, separators=(",", ":"))


def worker_names(answers: Iterable[Answer]) -> dict[Path, str]:
    """Name each worker by its pid, or by its socket's name where two pids are the same.

    Two pids are the same when containers, which number their processes separately,
    share a control directory.
    """
    answers = list(answers)
    workers = Counter(answer.pid for answer in answers)
    return {a.path: str(a.pid) if workers[a.pid] == 1 else a.path.stem for a in answers}


def error_of(answer: Answer) -> str:
    """Return why a worker hasn't answered, as printable text."""
    return shortened(answer.error or "no answer", ERROR)


def silent_rows(answers: Sequence[Answer]) -> list[Message]:
    """Return a row with its error for each worker that hasn't answered."""
    names = worker_names(answers)
    return [
        Message(f"worker {names[answer.path]}", error_of(answer), "error")
        for answer in answers
        if answer.reply is None
    ]


def duration(seconds: float) -> str:
    """Return a short text: 85us, 1.2ms, 340ms, 2.5s, 4m10s, 3h05m, 2d04h."""
    if seconds < 0.000_999_5:
        return f"{max(seconds, 0) * 1e6:.0f}us"
    if seconds < 0.009_95:
        return f"{seconds * 1e3:.1f}ms"
    if seconds < 0.999_5:
        return f"{seconds * 1e3:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        big, small, letters = 60, 1, "ms"
    elif whole < 86400:
        big, small, letters = 3600, 60, "hm"
    else:
        big, small, letters = 86400, 3600, "dh"
    high, low = whole // big, whole % big // small
    return f"{high}{letters[0]}{low:02}{letters[1]}"
