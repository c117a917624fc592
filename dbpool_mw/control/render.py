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
from typing import Any

from dbpool_mw.control.client import Answer
from dbpool_mw.core import metrics
from dbpool_mw.core.metrics import Metric
from dbpool_mw.core.text import ERROR, NAME, REQUEST, shortened

JSON_VERSION = 1
_COMMAND_WIDTH = 32
_PATH_WIDTH = 80
#: Seconds after which the background loop, which has a round a second, counts as stuck.
_LATE_SECONDS = 10.0
# Columns of text are aligned to the left, those of numbers to the right.
_ALIGNED_LEFT = frozenset(
    ("COMMAND", "ALIAS", "STATE", "DISCARDED", "THREAD", "STALE", "LEAKED", "REQUEST")
)
_HOLDERS_HEADER = (
    "PID", "THREAD", "ALIAS", "BACKEND", "FOR", "STALE", "LEAKED", "REQUEST"
)  # fmt: skip


def table(answers: Sequence[Answer]) -> str:
    """Return a table: a row for each worker and alias, and totals of several rows.

    A worker that didn't answer is a row with its error.
    """
    columns = _columns()
    titles = [column.column or "" for column in columns]
    header = ["PID", "COMMAND", "ALIAS", "STATE", *titles, "DISCARDED", "UPTIME"]
    rows: list[Sequence[str]] = [header]
    pools: list[Mapping[str, Any]] = []
    names, label = worker_names(answers), _labels(answers)
    for answer in answers:
        name = names[answer.path]
        if answer.reply is None:
            rows.append((name, shortened(answer.error or "no answer", ERROR)))
            continue
        command = shortened(answer.reply["command"], _COMMAND_WIDTH)
        uptime = duration(answer.reply["uptime"])
        if not answer.reply["pools"]:
            state = ", ".join(map(_order, answer.reply.get("orders", [])))
            text = f"no pool open; {state}" if state else "no pool open"
            rows.append((name, f"{command} ({text})"))
        for pool in answer.reply["pools"]:
            pools.append(pool)
            head = (name, command, label(pool), _state(pool))
            rows.append((*head, *_figures(pool, columns), uptime))
    if len(pools) > 1:
        totals = _figures(metrics.merge(pools), columns)
        rows.append(("total", "", "", "", *totals, ""))
    return _aligned(rows)


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


def _state(pool: Mapping[str, Any]) -> str:
    """Return a pool's state, and how long it lasts if it ends by itself."""
    state = shortened(pool["state"], NAME)
    left = pool.get("state_seconds_left")
    return state if left is None else f"{state}, {duration(left)} left"


def orders(kept: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each order of `orders.described`, "" if there is none."""
    if not kept:
        return ""
    lines = ["Kept for workers that start later:"]
    lines += [f"  {_order(order)}" for order in kept]
    return "\n".join(lines)


def _order(order: Mapping[str, Any]) -> str:
    """Return an order's verb, aliases and end."""
    verb = shortened(order["verb"], NAME)
    names = order.get("aliases") or ["all aliases"]
    text = f"{verb} of {', '.join(shortened(name, NAME) for name in names)}"
    left = order.get("seconds_left")
    if left is not None:
        return f"{text}, {duration(left)} left"
    return text if verb == "resume" else f"{text}, until --resume"


def _columns() -> list[Metric]:
    """Return the figures that the table shows, in the order of its columns."""
    return [metric for metric in metrics.METRICS if metric.column is not None]


def _figures(pool: Mapping[str, Any], columns: Sequence[Metric]) -> list[str]:
    """Return a pool's cells from the first figure to DISCARDED."""
    reasons = sorted(pool["discarded"].items(), key=lambda item: (-item[1], item[0]))
    discarded = " ".join(f"{reason}:{n}" for reason, n in reasons if n)
    cells = [
        _spread(pool[metric.key])
        if metric.kind == "histogram"
        else str(pool[metric.key])
        for metric in columns
    ]
    return [*cells, shortened(discarded, REQUEST) or "-"]


def _spread(histogram: Mapping[str, Any]) -> str:
    """Return mean, 95th percentile and maximum, "-" if nothing was counted."""
    if not histogram["count"]:
        return "-"
    mean, p95 = metrics.mean(histogram) or 0.0, metrics.quantile(histogram, 0.95) or 0.0
    return "/".join(map(duration, (mean, p95, histogram["max"])))


def holders(answers: Sequence[Answer]) -> str:
    """Return a table: a row for each connection in use, the longest held first.

    Below the row of a leaked connection stands the stack of its checkout.
    """
    names, label = worker_names(answers), _labels(answers)
    in_use = [
        (holder, answer)
        for answer in answers
        if answer.reply is not None
        for holder in answer.reply.get("holders", [])
    ]
    if not in_use:
        return "No connection is in use."
    in_use.sort(key=lambda pair: pair[0]["seconds"], reverse=True)
    rows: list[Sequence[str]] = [_HOLDERS_HEADER]
    for holder, answer in in_use:
        rows.append(
            (
                names[answer.path],
                shortened(str(holder["thread"]), NAME),
                label(holder),
                str(holder["backend_pid"]),
                duration(holder["seconds"]),
                "yes" if holder.get("stale") else "-",
                "yes" if holder.get("leaked") else "-",
                request_of(holder),
            )
        )
    header, *lines = _aligned(rows).split("\n")
    text = [header]
    for line, (holder, _) in zip(lines, in_use, strict=True):
        text.append(line)
        text += [
            f"    {shortened(frame, REQUEST)}" for frame in holder.get("stack", [])
        ]
    return "\n".join(text)


def stale(answers: Sequence[Answer], now: float) -> list[str]:
    """Return a line for each stale connection, which a drain waits for.

    A connection in use has a line that names its holder; the others are counted by
    alias. A worker that didn't answer has a line with its error. `now` is Unix time.
    """
    lines = []
    label = _labels(answers)
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


def _labels(answers: Iterable[Answer]) -> Callable[[Mapping[str, Any]], str]:
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


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Align the rows' cells in columns, as wide as their longest cell.

    The first row is the header. A row with fewer cells is a message, such as a worker's
    error: its last cell neither widens a column nor is cut.
    """
    header = rows[0]
    full = [row for row in rows if len(row) == len(header)]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    widths[0] = max(len(row[0]) for row in rows)
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if title in _ALIGNED_LEFT else cell.rjust(width)
            for title, cell, width in zip(header, row, widths, strict=False)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
