"""What dbpool_drain did, as plain data for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dbpool_mw.control.client import Answer
from dbpool_mw.control.drain import Progress

VERSION = 1
# Of a pool's report, what a drain changes. Its counters and histograms are for
# dbpool_stats.
_POOL = (
    "alias", "address", "database", "state", "state_seconds_left", "size", "in_use",
    "idle", "connecting", "waiting", "stale",
)  # fmt: skip


def drain_document(
    progress: Progress,
    *,
    control_dir: str,
    result: str,
    aliases: Sequence[str] | None,
    seconds: float,
    lasts: float | None,
    kept: bool,
    unkept: str | None,
    orders: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the result of the command, in a schema that programs may rely on.

    {"version": 1, "control_dir": str, "verb": str, "aliases": [str, ...] | null,
     "result": str, "done": bool, "seconds": float, "lasts_seconds": float | null,
     "kept": bool, "kept_error": str, "left": int, "gone": [pid, ...],
     "workers": [WORKER, ...], "orders": [ORDER, ...]}

    WORKER: {"pid": int, "command": str | null, "result": str, "error": str,
             "left": int, "pools": [POOL, ...], "holders": [HOLDER, ...]}

    `seconds` is how long the command took, `lasts` how long the drain or the pause goes
    on from now, None for until a resume, or for one that doesn't go on. `kept` tells
    whether workers that start later follow it, `unkept` why they don't though they
    should. "left" counts stale connections, and HOLDER is who holds one. "error" and
    "kept_error" are missing where there is none. docs/commands.rst says what the
    results mean. ORDER, and the rule for new keys, are those of `render.document`.
    """
    answers = sorted(progress.answers + progress.failed, key=lambda a: a.pid)
    ended = {answer.path for answer in progress.ended}
    failed = {answer.path for answer in progress.failed}
    workers = []
    for answer in answers:
        if answer.path in failed:
            how = "failed"
        elif answer.reply is None:
            how = "silent"
        elif answer.path in ended:
            how = "ended"
        else:
            how = "left" if _left(answer) else "done"
        workers.append(_worker(answer, how))
    document: dict[str, Any] = {
        "version": VERSION,
        "control_dir": control_dir,
        "verb": progress.verb,
        "aliases": None if aliases is None else list(aliases),
        "result": result,
        "done": result == "done",
        "seconds": seconds,
        "lasts_seconds": lasts,
        "kept": kept,
        "left": progress.left,
        "gone": progress.gone,
        "workers": workers,
        "orders": list(orders),
    }
    if unkept is not None:
        document["kept_error"] = unkept
    return document


def _worker(answer: Answer, how: str) -> dict[str, Any]:
    reply = answer.reply or {}
    worker: dict[str, Any] = {
        "pid": answer.pid,
        "command": reply.get("command"),
        "result": how,
        "left": _left(answer),
        "pools": [
            {key: pool.get(key) for key in _POOL} for pool in reply.get("pools", [])
        ],
        "holders": [h for h in reply.get("holders", []) if h.get("stale")],
    }
    if answer.error is not None:
        worker["error"] = answer.error
    return worker


def _left(answer: Answer) -> int:
    return sum(pool["stale"] for pool in (answer.reply or {}).get("pools", []))
