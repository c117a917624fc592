"""Turn the workers' answers into text: tables for people, JSON for programs.

Pure functions. What a worker reports may hold text from outside (a request path), so
nothing of it reaches a terminal unescaped.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dbpool_mw.control.client import Answer
from dbpool_mw.core import metrics

JSON_VERSION = 1
_COMMAND_WIDTH = 32
_PATH_WIDTH = 80
_LEFT = {
    *("COMMAND", "ALIAS", "STATE", "DISCARDED"),
    *("THREAD", "STALE", "LEAKED", "REQUEST"),
}
_COUNTS = (
    ("SIZE", "size"),
    ("USED", "in_use"),
    ("IDLE", "idle"),
    ("MAX", "max"),
    ("WAITING", "waiting"),
    ("CHECKOUTS", "checkouts"),
    ("WAITS", "waits"),
    ("TIMEOUTS", "timeouts"),
    ("RECLAIMED", "reclaimed"),
)
_HEADER = (
    *("PID", "COMMAND", "ALIAS", "STATE"),
    *(title for title, _ in _COUNTS),
    *("WAIT MEAN/P95/MAX", "HOLD MEAN/P95/MAX", "OPENED", "DISCARDED", "UPTIME"),
)
_HOLDERS_HEADER = (
    *("PID", "THREAD", "ALIAS", "BACKEND", "FOR", "STALE", "LEAKED", "REQUEST"),
)


def table(answers: Sequence[Answer]) -> str:
    """Return a row for each worker and alias, and one of totals below several rows."""
    rows: list[Sequence[str]] = [_HEADER]
    pools: list[Mapping[str, Any]] = []
    names = worker_names(answers)
    for answer in answers:
        name = names[answer.path]
        if answer.reply is None:
            rows.append((name, printable(answer.error or "no answer")))
            continue
        command = shortened(answer.reply["command"], _COMMAND_WIDTH)
        uptime = duration(answer.reply["uptime"])
        if not answer.reply["pools"]:
            rows.append((name, f"{command} (no pool open)"))
        for pool in answer.reply["pools"]:
            pools.append(pool)
            state = printable(pool["state"])
            head = (name, command, printable(pool["alias"]), state)
            rows.append((*head, *_measures(pool), uptime))
    if len(pools) > 1:
        rows.append(("total", "", "", "", *_measures(metrics.merge(pools)), ""))
    return _aligned(rows)


def _measures(pool: Mapping[str, Any]) -> tuple[str, ...]:
    reasons = sorted(pool["discarded"].items(), key=lambda item: (-item[1], item[0]))
    discarded = " ".join(f"{printable(reason)}:{n}" for reason, n in reasons if n)
    return (
        *(str(pool[key]) for _, key in _COUNTS),
        _spread(pool["wait_seconds"]),
        _spread(pool["hold_seconds"]),
        str(pool["opened"]),
        discarded or "-",
    )


def _spread(histogram: Mapping[str, Any]) -> str:
    if not histogram["count"]:
        return "-"
    mean, p95 = metrics.mean(histogram) or 0.0, metrics.quantile(histogram, 0.95) or 0.0
    return "/".join(map(duration, (mean, p95, histogram["max"])))


def holders(answers: Sequence[Answer]) -> str:
    """Return a row for each connection in use, the longest held first.

    Below the row of one that is held too long stands where it was checked out.
    """
    names = worker_names(answers)
    held = [
        (holder, answer)
        for answer in answers
        if answer.reply is not None
        for holder in answer.reply.get("holders", [])
    ]
    if not held:
        return "No connection is in use."
    held.sort(key=lambda pair: pair[0]["seconds"], reverse=True)
    rows: list[Sequence[str]] = [_HOLDERS_HEADER]
    for holder, answer in held:
        rows.append(
            (
                names[answer.path],
                printable(str(holder["thread"])),
                printable(str(holder["alias"])),
                str(holder["backend_pid"]),
                duration(holder["seconds"]),
                "yes" if holder.get("stale") else "-",
                "yes" if holder.get("leaked") else "-",
                request_of(holder),
            )
        )
    header, *lines = _aligned(rows).split("\n")
    text = [header]
    for line, (holder, _) in zip(lines, held, strict=True):
        text += [line, *(f"    {printable(each)}" for each in holder.get("stack", []))]
    return "\n".join(text)


def held(answers: Sequence[Answer], now: float) -> list[str]:
    """Return a line for each connection that a drain waits for; `now` is Unix time."""
    lines = []
    for answer in answers:
        if answer.reply is None:
            lines.append(f"  worker {answer.pid}: {printable(answer.error or '')}")
            continue
        left = Counter({p["alias"]: p["stale"] for p in answer.reply["pools"]})
        for holder in answer.reply.get("holders", []):
            if holder.get("stale"):
                left[holder["alias"]] -= 1
                lines.append(f"  worker {answer.pid}: {_held(holder, now)}")
        lines += [
            f"  worker {answer.pid}: {printable(alias)}: {number} being opened, "
            f"cleaned or closed"
            for alias, number in left.items()
            if number > 0
        ]
    return lines


def _held(holder: Mapping[str, Any], now: float) -> str:
    seconds = holder["seconds"]
    since = time.strftime("%H:%M:%S", time.localtime(now - seconds))
    return (
        f"{printable(str(holder['alias']))}: backend {holder['backend_pid']}, "
        f"thread {printable(str(holder['thread']))}, {request_of(holder)}, "
        f"since {since} ({duration(seconds)})"
    )


def request_of(holder: Mapping[str, Any]) -> str:
    """Return the request that holds a connection: method and path, "-" outside one."""
    parts = [holder["method"], holder["path"]]
    text = " ".join(str(part) for part in parts if part is not None)
    return shortened(text, _PATH_WIDTH) if text else "-"


def document(control_dir: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the answers as plain data, in the schema that programs may rely on.

    {"version": 1, "control_dir": str, "bucket_bounds": [seconds, ...],
     "workers": [{"pid": int, "command": str | null, "uptime": seconds | null,
                  "pools": [POOL, ...], "holders": [HOLDER, ...], "error": str}, ...],
     "totals": POOL without what can't be added up (alias, database, state)}

    "holders" is there when it was asked for, "error" for a worker without an answer.
    POOL and HOLDER are those of the control protocol; each *_seconds histogram
    ({"count", "sum", "max", "buckets"}) also has its "mean" and "p95", null when empty.
    `bucket_bounds` are the upper edges; one bucket more than edges holds the rest. A
    new key doesn't change the version; one that goes or changes its meaning does.
    """
    pools = [p for a in answers if a.reply is not None for p in a.reply["pools"]]
    return {
        "version": JSON_VERSION,
        "control_dir": control_dir,
        "bucket_bounds": list(metrics.BOUNDS),
        "workers": [_worker(answer) for answer in answers],
        "totals": _with_summaries(metrics.merge(pools)),
    }


def _worker(answer: Answer) -> dict[str, Any]:
    reply = answer.reply or {}
    worker: dict[str, Any] = {
        "pid": answer.pid,
        "command": reply.get("command"),
        "uptime": reply.get("uptime"),
        "pools": [_with_summaries(pool) for pool in reply.get("pools", [])],
    }
    if "holders" in reply:
        worker["holders"] = reply["holders"]
    if answer.error is not None:
        worker["error"] = answer.error
    return worker


def _with_summaries(pool: Mapping[str, Any]) -> dict[str, Any]:
    histograms = {
        key: {
            **pool[key],
            "mean": metrics.mean(pool[key]),
            "p95": metrics.quantile(pool[key], 0.95),
        }
        for key in metrics.HISTOGRAMS
    }
    return {**pool, **histograms}


def json_text(data: Mapping[str, Any]) -> str:
    """Return one line of JSON, pure ASCII, so that a watch gives a line per round."""
    return json.dumps(data, separators=(",", ":"))


def worker_names(answers: Iterable[Answer]) -> dict[Path, str]:
    """Name each worker by its pid, or by its whole socket name where pids collide.

    They do when containers, each with process ids of its own, share a directory.
    """
    answers = list(answers)
    times = Counter(answer.pid for answer in answers)
    return {a.path: str(a.pid) if times[a.pid] == 1 else a.path.stem for a in answers}


def duration(seconds: float) -> str:
    """Return a duration for people: 85us, 1.2ms, 340ms, 2.5s, 4m10s, 3h05m, 2d04h."""
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


def printable(text: str) -> str:
    """Return the text with everything escaped that could steer a terminal."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def shortened(text: str, width: int) -> str:
    """Return the text made printable and cut to `width` characters."""
    text = printable(text)
    return text if len(text) <= width else text[: width - 3] + "..."


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Line the columns up by the header; a row shorter than it is a remark, not cut."""
    header = rows[0]
    full = [row for row in rows if len(row) == len(header)]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    widths[0] = max(len(row[0]) for row in rows)
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if title in _LEFT else cell.rjust(width)
            for title, cell, width in zip(header, row, widths, strict=False)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
