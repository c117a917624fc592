"""Turn the workers' answers into Prometheus' text exposition format 0.0.4.

What OpenTelemetry names for connection pools carries its name (`db.client.connection.*`
in its semantic conventions, spelled as its Prometheus exporter does); the rest is
`dbpool_mw_*`. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dbpool_mw.control.client import Answer
from dbpool_mw.control.render import printable, worker_names
from dbpool_mw.core import metrics

_OTEL = "db_client_connection_"
_OWN = "dbpool_mw_"
# A fourth of the bounds: each doubles the one before. The counts are cumulative, so
# leaving edges out loses no observation.
_EDGES = range(0, len(metrics.BOUNDS), 4)
_STATES = ("running", "draining", "paused", "closed")

# name, type, help, and the key of a pool's report
_PLAIN = (
    (_OTEL + "idle_min", "gauge", "Connections that a pool keeps open.", "min"),
    (_OTEL + "idle_max", "gauge", "Idle connections that a pool may have.", "max"),
    (_OTEL + "max", "gauge", "Connections that a pool may open.", "max"),
    (
        _OTEL + "pending_requests",
        "gauge",
        "Checkouts waiting for a connection.",
        "waiting",
    ),
    (
        _OTEL + "timeouts_total",
        "counter",
        "Checkouts that waited in vain.",
        "timeouts",
    ),
    (_OWN + "connecting", "gauge", "Connections being opened.", "connecting"),
    (_OWN + "stale", "gauge", "Connections that a drain waits for.", "stale"),
    (_OWN + "checkouts_total", "counter", "Checkouts.", "checkouts"),
    (_OWN + "waits_total", "counter", "Checkouts that had to wait.", "waits"),
    (
        _OWN + "refused_total",
        "counter",
        "Checkouts refused because too many waited.",
        "refused",
    ),
    (_OWN + "opened_total", "counter", "Connections opened.", "opened"),
    (
        _OWN + "connect_errors_total",
        "counter",
        "Connections that could not be opened.",
        "connect_errors",
    ),
    (_OWN + "checks_total", "counter", "Idle connections pinged.", "checks"),
    (
        _OWN + "rollbacks_total",
        "counter",
        "Connections returned inside a transaction.",
        "rollbacks",
    ),
    (_OWN + "resets_total", "counter", "Sessions reset at checkin.", "resets"),
    (
        _OWN + "reclaimed_total",
        "counter",
        "Connections taken back from holders that never returned them.",
        "reclaimed",
    ),
    (
        _OWN + "leaked_total",
        "counter",
        "Connections held longer than LEAK_AFTER.",
        "leaked",
    ),
    (
        _OWN + "overdue_total",
        "counter",
        "Holders cancelled after MAX_HOLD.",
        "overdue",
    ),
)
_TIMES = (
    ("create_time", "Time to open a connection.", "connect_seconds"),
    ("wait_time", "Time from asking for a connection to having it.", "wait_seconds"),
    ("use_time", "Time from checkout to checkin.", "hold_seconds"),
)

Labels = Mapping[str, str]


def prometheus(answers: Sequence[Answer]) -> str:
    """Return the metrics of every worker and pool, labelled with pid and pool name."""
    names = worker_names(answers)
    pools = [
        ({"pool_name": str(pool["alias"]), "pid": names[answer.path]}, pool)
        for answer in answers
        if answer.reply is not None
        for pool in answer.reply["pools"]
    ]
    return "\n".join([*_of_workers(answers, names), *_of_pools(pools), ""])


def _of_workers(answers: Sequence[Answer], names: Mapping[Path, str]) -> list[str]:
    lines = _head(_OWN + "worker_up", "gauge", "Whether the worker answered.")
    for answer in answers:
        up = int(answer.reply is not None)
        lines.append(_sample(_OWN + "worker_up", {"pid": names[answer.path]}, up))
    name = _OWN + "worker_uptime_seconds"
    lines += _head(name, "gauge", "Time since the worker first opened a pool.")
    for answer in answers:
        if answer.reply is not None:
            labels = {"pid": names[answer.path]}
            lines.append(_sample(name, labels, answer.reply["uptime"]))
    return lines


def _of_pools(pools: Sequence[tuple[Labels, Mapping[str, Any]]]) -> Iterator[str]:
    name = _OTEL + "count"
    yield from _head(name, "gauge", "Open connections by state.")
    for labels, pool in pools:
        yield _sample(name, {**labels, "state": "idle"}, pool["idle"])
        yield _sample(name, {**labels, "state": "used"}, pool["in_use"])
    for name, kind, text, key in _PLAIN:
        yield from _head(name, kind, text)
        for labels, pool in pools:
            yield _sample(name, labels, pool[key])
    name = _OWN + "discarded_total"
    yield from _head(name, "counter", "Connections closed, by reason.")
    for labels, pool in pools:
        for reason, number in sorted(pool["discarded"].items()):
            yield _sample(name, {**labels, "reason": reason}, number)
    name = _OWN + "state"
    yield from _head(name, "gauge", "State of the pool: 1 for the one it is in.")
    for labels, pool in pools:
        for state in _STATES:
            on = int(pool["state"] == state)
            yield _sample(name, {**labels, "state": state}, on)
    for short, text, key in _TIMES:
        name = f"{_OTEL}{short}_seconds"
        yield from _head(name, "histogram", text)
        for labels, pool in pools:
            yield from _histogram(name, labels, pool[key])


def _histogram(name: str, labels: Labels, found: Mapping[str, Any]) -> Iterator[str]:
    buckets: list[int] = found["buckets"]
    for i in _EDGES:
        edge = {**labels, "le": repr(metrics.BOUNDS[i])}
        yield _sample(f"{name}_bucket", edge, sum(buckets[: i + 1]))
    # Both from the buckets: the format wants them equal.
    yield _sample(f"{name}_bucket", {**labels, "le": "+Inf"}, sum(buckets))
    yield _sample(f"{name}_sum", labels, found["sum"])
    yield _sample(f"{name}_count", labels, sum(buckets))


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _sample(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value!r}"


def _escaped(text: str) -> str:
    # The format has an escape for the newline, and would let the rest through as it is.
    text = "\n".join(map(printable, text.split("\n")))
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
