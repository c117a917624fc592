"""What dbpool_drain --cancel did, as plain data for JSON."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from dbpool_mw.control.client import Answer
from dbpool_mw.control.drain_document import VERSION


def cancel_document(
    answers: Sequence[Answer],
    *,
    control_dir: str,
    result: str,
    aliases: Sequence[str] | None,
    seconds: float,
    cancelled: Sequence[str],
    unknown: Sequence[str],
    unconfirmed: Sequence[str],
) -> dict[str, Any]:
    """Return the result of the command, in a schema that programs may rely on.

    {"version": 1, "control_dir": str, "verb": "cancel", "aliases": [str, ...] | null,
     "result": str, "done": bool, "seconds": float, "cancelled": [ID, ...],
     "unknown": [ID, ...], "unconfirmed": [ID, ...], "workers": [WORKER, ...]}

    WORKER: {"pid": int, "command": str | null, "result": "answered" | "failed",
             "error": str, "holders": [HOLDER, ...]}

    Each hold that was named is in one of the lists: "cancelled", "unknown" to its
    worker, or "unconfirmed" by a worker that didn't answer, which may have cancelled
    it. HOLDER is who has a cancelled hold; one that ended at once is missing. "error"
    is missing where there is none. docs/commands.rst says what the results mean; the
    rule for new keys is that of `render.document`.
    """
    return {
        "version": VERSION,
        "control_dir": control_dir,
        "verb": "cancel",
        "aliases": None if aliases is None else list(aliases),
        "result": result,
        "done": result == "done",
        "seconds": seconds,
        "cancelled": list(cancelled),
        "unknown": list(unknown),
        "unconfirmed": list(unconfirmed),
        "workers": [
            _worker(answer, cancelled)
            for answer in sorted(answers, key=lambda answer: answer.pid)
        ],
    }


def _worker(answer: Answer, cancelled: Collection[str]) -> dict[str, Any]:
    reply = answer.reply or {}
    worker: dict[str, Any] = {
        "pid": answer.pid,
        "command": reply.get("command"),
        "result": "failed" if answer.reply is None else "answered",
        "holders": [h for h in reply.get("holders", []) if h["id"] in cancelled],
    }
    if answer.error is not None:
        worker["error"] = answer.error
    return worker
