"""What size of MAX_CONNS the figures of the last quarter of an hour justify.

Each worker has a pool of its own, so a pool is judged by itself, and what the busiest
one needs is advised to all of an alias. The functions here have no side effects, and
ask no database.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dbpool_mw.control import tables
from dbpool_mw.control.client import Answer
from dbpool_mw.control.render import duration, late, silent_rows
from dbpool_mw.control.tables import Cell, Column, Message, Paint, Row, Tone
from dbpool_mw.core import metrics
from dbpool_mw.core.text import NAME, shortened

#: A pool younger than that isn't judged, nor an alias with fewer checkouts.
LEAST_SECONDS = 60
LEAST_CHECKOUTS = 100
#: A 99th percentile of the waits below it is no wait that a user notices.
SHORT_WAIT = 0.001

_WINDOW = metrics.WINDOWS[-1]
_COLUMNS = (
    Column("alias", "ALIAS", is_text=True, least=24),
    Column("checkouts_per_second", "RATE/S"),
    Column("hold", "HOLD M/P95"),
    Column("wait_p99", "WAIT P99"),
    Column("timeouts", "TIMEOUTS"),
    Column("mean_in_use", "MEAN"),
    Column("in_use_peak", "PEAK"),
    Column("max", "MAX"),
    Column("free", "FREE"),
)
#: What a narrow table shows first.
_RANKED = (
    "max", "in_use_peak", "mean_in_use", "wait_p99", "timeouts", "hold",
    "checkouts_per_second", "free",
)  # fmt: skip
_TONES: Mapping[str, Tone] = {"raise": "error", "elsewhere": "warning"}


class _Pool(NamedTuple):
    """What a pool had in the window; `wanted` has those that got no connection too."""

    limit: int
    least: int
    peak: int
    queue: int
    refused: int
    mean: float
    wanted: float

    @property
    def is_short(self) -> bool:
        """Whether all its connections were in use while others wanted one."""
        return self.peak >= self.limit and bool(self.queue or self.refused)

    @property
    def needed(self) -> int:
        """How many connections its figures justify.

        Without a queue that is the peak. With one it is the mean and twice its square
        root above it, by which a few in a hundred wait: more than there are, and no
        more than were ever wanted at once.
        """
        if not self.is_short:
            return self.peak
        smooth = math.ceil(self.wanted + 2 * math.sqrt(self.wanted))
        at_once = self.peak + (self.queue or self.refused)
        return min(max(smooth, self.limit + 1), at_once)


def advice(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the advice for each alias, and what all pools together may open.

    {"aliases": [ADVICE, ...], "connections": int, "connections_advised": int}

    ADVICE has the figures of the alias, its "verdict" ("enough", "lower", "raise",
    "elsewhere" or "unknown"), the "advised" MAX_CONNS, which is "max" if nothing is to
    change, and the same as a "text". docs/metrics.rst says what each means.
    """
    by_alias: dict[str, list[Mapping[str, Any]]] = {}
    for answer in answers:
        for pool in (answer.reply or {}).get("pools", []):
            by_alias.setdefault(pool["alias"], []).append(pool)
    found = [_of_alias(alias, pools) for alias, pools in by_alias.items()]
    return {
        "aliases": found,
        "connections": sum(p["max"] for pools in by_alias.values() for p in pools),
        "connections_advised": sum(each["pools"] * each["advised"] for each in found),
    }


def _of_alias(alias: str, pools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    old = [p for p in pools if p["recent"][_WINDOW]["seconds"] >= LEAST_SECONDS]
    windows = [pool["recent"][_WINDOW] for pool in old]
    judged = list(map(_judged, old))
    holds = metrics.sum_of(window["hold_seconds"] for window in windows)
    waits = metrics.sum_of(window["wait_seconds"] for window in windows)
    limit = max(pool["max"] for pool in pools)
    mean = max((pool.mean for pool in judged), default=0.0)
    peak = max((pool.peak for pool in judged), default=0)
    figures: dict[str, Any] = {
        "alias": alias,
        "pools": len(pools),
        "pools_judged": len(old),
        "seconds": max((window["seconds"] for window in windows), default=0.0),
        "checkouts": sum(window["checkouts"] for window in windows),
        "checkouts_per_second": sum(w["checkouts"] / w["seconds"] for w in windows),
        "hold_mean": metrics.mean(holds),
        "hold_p95": metrics.quantile(holds, 0.95),
        "wait_p99": metrics.quantile(waits, 0.99),
        "timeouts": sum(window["timeouts"] for window in windows),
        "refused": sum(window["refused"] for window in windows),
        "mean_in_use": mean,
        "mean_wanted": max((pool.wanted for pool in judged), default=0.0),
        "in_use_peak": peak,
        "max": limit,
        "free_mean": limit - mean,
        "free_peak": limit - peak,
    }
    connects = metrics.sum_of(window["connect_seconds"] for window in windows)
    figures["connect_p95"] = metrics.quantile(connects, 0.95)
    verdict, advised = _verdict(figures, judged)
    figures |= {"verdict": verdict, "advised": advised}
    return {**figures, "text": _sentences(figures)}


def _judged(pool: Mapping[str, Any]) -> _Pool:
    """Return a pool's figures; Little's law has the mean numbers: rate times time."""
    window = pool["recent"][_WINDOW]
    hold = max(0.0, metrics.mean(window["hold_seconds"]) or 0.0)
    got, refused = window["checkouts"], window["refused"]
    return _Pool(
        pool["max"],
        pool["min"],
        window["in_use_peak"],
        window["waiting_peak"],
        refused,
        got / window["seconds"] * hold,
        (got + refused) / window["seconds"] * hold,
    )


def _verdict(figures: Mapping[str, Any], pools: Sequence[_Pool]) -> tuple[str, int]:
    """Return the verdict on an alias, and the advised size."""
    limit = figures["max"]
    if figures["checkouts"] + figures["refused"] < LEAST_CHECKOUTS:
        return "unknown", limit
    if (figures["wait_p99"] or 0) >= SHORT_WAIT or figures["refused"]:
        if any(pool.is_short for pool in pools):
            return "raise", max(pool.needed for pool in pools)
        return "elsewhere", limit
    # A quarter more than the peak, and one at least, is for busier times.
    peak = figures["in_use_peak"]
    enough = max(peak + 1, math.ceil(1.25 * peak), *(pool.least for pool in pools))
    return ("lower", enough) if enough < limit else ("enough", limit)


def _sentences(figures: Mapping[str, Any]) -> str:
    verdict, peak, limit = figures["verdict"], figures["in_use_peak"], figures["max"]
    text = _waits(figures)
    if verdict == "unknown":
        seen = f"{figures['checkouts']} checkouts in {duration(figures['seconds'])}"
        text = "Too few figures yet: " + (
            f"{seen}. It takes {LEAST_CHECKOUTS}."
            if figures["pools_judged"]
            else "no pool is a minute old."
        )
    elif verdict == "raise":
        text = (
            f"Requests wait: {text}. {figures['mean_wanted']:.1f} connections would "
            f"have been needed on average, and the peak of {peak} is the limit. Try "
            f"MAX_CONNS = {figures['advised']}, or shorter holds (--routes), and look "
            "again."
        )
    elif verdict == "elsewhere":
        connect = figures["connect_p95"]
        text = (
            f"Requests wait, and MAX_CONNS isn't why: {text}, with at most {peak} of "
            f"{limit} connections in use. "
        ) + (
            "See the workers' log."
            if connect is None
            else f"Opening one took {duration(connect)} (p95): see MIN_CONNS."
        )
    else:
        text = f"The pool is not the bottleneck: {text}, less than 1ms."
    if verdict == "lower":
        text += (
            f" MAX_CONNS could be lower: {figures['advised']} is a quarter more than "
            "the peak, if no busier time than this comes."
        )
    young = figures["pools"] - figures["pools_judged"]
    if young and verdict != "unknown":
        text += f" Pools younger than a minute, not judged: {young}."
    return text


def _waits(figures: Mapping[str, Any]) -> str:
    p99, refused = figures["wait_p99"], figures["refused"]
    text = "no wait has ended" if p99 is None else f"p99 of the waits is {_time(p99)}"
    return f"{text}, and {refused} got no connection" if refused else text


def advice_text(
    found: Mapping[str, Any],
    answers: Sequence[Answer] = (),
    *,
    width: int | None = None,
    paint: Paint = tables.plain,
) -> str:
    """Return `advice` as a table, sentences below it, and the sum of all pools.

    At most `width` characters wide (None: any). Each of the `answers` that is none has
    a row with its error: the advice is without its figures.
    """
    rows: list[Row | Message] = [Row(_cells(each)) for each in found["aliases"]]
    rows += silent_rows(answers)
    if not rows:
        return "No worker has opened a pool."
    texts = [tables.table(_COLUMNS, rows, width, keys=1, ranked=_RANKED, paint=paint)]
    for each in found["aliases"]:
        pools = "1 pool" if each["pools"] == 1 else f"{each['pools']} pools"
        text = f"{shortened(each['alias'], NAME)}, {pools}: {each['text']}"
        tone = _TONES.get(each["verdict"], "")
        lines = tables.wrapped(text, width)
        texts.append("\n".join(paint(line, tone) if tone else line for line in lines))
    if found["aliases"]:
        texts.append("\n".join(tables.wrapped(_total(found), width)))
    if stuck := late(answers):
        lines = [ln for text in stuck.split("\n") for ln in tables.wrapped(text, width)]
        texts.append("\n".join(lines))
    return "\n\n".join(texts)


def _cells(each: Mapping[str, Any]) -> dict[str, Cell]:
    is_judged = bool(each["pools_judged"])
    hold = "/".join(map(_time, (each["hold_mean"], each["hold_p95"])))
    free = f"{each['free_mean']:.1f}/{each['free_peak']}"
    texts = {
        "alias": shortened(each["alias"], NAME),
        "checkouts_per_second": f"{each['checkouts_per_second']:.1f}",
        "hold": "-" if each["hold_mean"] is None else hold,
        "wait_p99": _time(each["wait_p99"]),
        "timeouts": str(each["timeouts"]),
        "mean_in_use": f"{each['mean_in_use']:.1f}",
        "in_use_peak": str(each["in_use_peak"]),
        "max": str(each["max"]),
        "free": free,
    }
    always = ("alias", "max")
    return {k: Cell(v if is_judged or k in always else "-") for k, v in texts.items()}


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


def _total(found: Mapping[str, Any]) -> str:
    pools = sum(each["pools"] for each in found["aliases"])
    text = (
        "The pool shown here may open"
        if pools == 1
        else f"The {pools} pools shown here together may open"
    )
    return (
        f"{text} {found['connections']} connections, and "
        f"{found['connections_advised']} at the advised sizes. Whether the servers "
        "accept that, with other hosts and a deploy's new workers beside the old ones, "
        "tells manage.py check --database ALIAS."
    )
