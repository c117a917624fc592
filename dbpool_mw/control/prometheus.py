"""Render the workers' answers in Prometheus' text exposition format 0.0.4.

A figure that OpenTelemetry's semantic conventions name (`db.client.connection.*`) has
that name, spelled as OpenTelemetry's Prometheus exporter spells it; the others are
`dbpool_mw_*`. The functions here have no side effects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dbpool_mw.control.client import Answer
from dbpool_mw.control.render import worker_names
from dbpool_mw.core import metrics
from dbpool_mw.core.metrics import Metric
from dbpool_mw.core.text import printable

_OTEL = "db_client_connection_"
_PREFIX = "dbpool_mw_"
# Every fourth bound, so that each is twice the one before. The counts are cumulative:
# a bound left out loses no observation.
_BOUND_INDICES = range(0, len(metrics.BOUNDS), 4)
_STATES = ("running", "draining", "paused", "closed")

Labels = Mapping[str, str]


def prometheus(answers: Sequence[Answer]) -> str:
    """Return every worker's and pool's figures, labelled with pool and pid.

    A pool is its alias and its address. The pools of one alias have series of their
    own, and ``sum by (pool_name)`` adds them up: a sum made here would fall when one of
    them closes, which Prometheus takes for a counter that began anew.
    """
    names = worker_names(answers)
    pools = [
        (
            {
                "pool_name": str(pool["alias"]),
                "address": str(pool["address"]),
                "pid": names[answer.path],
            },
            pool,
        )
        for answer in answers
        if answer.reply is not None
        for pool in answer.reply["pools"]
    ]
    return "\n".join([*_of_workers(answers, names), *_of_pools(pools), ""])


def _of_workers(answers: Sequence[Answer], names: Mapping[Path, str]) -> list[str]:
    lines = _head(_PREFIX + "worker_up", "gauge", "Whether the worker answered.")
    for answer in answers:
        up = int(answer.reply is not None)
        lines.append(_sample(_PREFIX + "worker_up", {"pid": names[answer.path]}, up))
    name = _PREFIX + "worker_uptime_seconds"
    lines += _head(name, "gauge", "Time since the worker began to serve.")
    replies = [(names[a.path], a.reply) for a in answers if a.reply is not None]
    for pid, reply in replies:
        lines.append(_sample(name, {"pid": pid}, reply["uptime"]))
    name = _PREFIX + "worker_maintenance_age_seconds"
    lines += _head(name, "gauge", "Time since maintenance of the pools last began.")
    for pid, reply in replies:
        if reply.get("maintenance_age") is not None:
            lines.append(_sample(name, {"pid": pid}, reply["maintenance_age"]))
    return lines


def _of_pools(pools: Sequence[tuple[Labels, Mapping[str, Any]]]) -> Iterator[str]:
    name = _OTEL + "count"
    yield from _head(name, "gauge", "Open connections by state.")
    for labels, pool in pools:
        yield _sample(name, {**labels, "state": "idle"}, pool["idle"])
        yield _sample(name, {**labels, "state": "used"}, pool["in_use"])
    for metric in _figures():
        yield from _head(metric.prometheus_name, metric.kind, metric.help)
        for labels, pool in pools:
            yield _sample(metric.prometheus_name, labels, pool[metric.key])
    name = _PREFIX + "discarded_total"
    yield from _head(name, "counter", "Connections closed, by reason.")
    for labels, pool in pools:
        for reason, number in sorted(pool["discarded"].items()):
            yield _sample(name, {**labels, "reason": reason}, number)
    name = _PREFIX + "state"
    yield from _head(name, "gauge", "State of the pool: 1 for the one it is in.")
    for labels, pool in pools:
        for state in _STATES:
            on = int(pool["state"] == state)
            yield _sample(name, {**labels, "state": state}, on)
    for metric in _histograms():
        yield from _head(metric.prometheus_name, metric.kind, metric.help)
        for labels, pool in pools:
            yield from _buckets(metric.prometheus_name, labels, pool[metric.key])


def _figures() -> list[Metric]:
    """Return the exported gauges and counters, OpenTelemetry's first."""
    found = [m for m in metrics.METRICS if m.exported and m.kind != "histogram"]
    # A pool closes no connection for being one idle too many: both maxima are one.
    (most,) = (m for m in found if m.key == "max")
    idle_max = most._replace(
        help="Idle connections that a pool may have.", exported_as=_OTEL + "idle_max"
    )
    found.insert(found.index(most), idle_max)
    return sorted(found, key=lambda m: not m.prometheus_name.startswith(_OTEL))


def _histograms() -> list[Metric]:
    return [m for m in metrics.METRICS if m.kind == "histogram"]


def _buckets(name: str, labels: Labels, histogram: Mapping[str, Any]) -> Iterator[str]:
    buckets: list[int] = histogram["buckets"]
    for i in _BOUND_INDICES:
        bounded = {**labels, "le": repr(metrics.BOUNDS[i])}
        yield _sample(f"{name}_bucket", bounded, sum(buckets[: i + 1]))
    # The format requires that the bucket +Inf equals the count.
    yield _sample(f"{name}_bucket", {**labels, "le": "+Inf"}, sum(buckets))
    yield _sample(f"{name}_sum", labels, histogram["sum"])
    yield _sample(f"{name}_count", labels, sum(buckets))


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _sample(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value!r}"


def _escaped(text: str) -> str:
    # The format escapes the newline only: other control characters would reach a
    # terminal as they are.
    text = "\n".join(map(printable, text.split("\n")))
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
