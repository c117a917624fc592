"""Render the workers' answers in Prometheus' text exposition format 0.0.4.

A figure that OpenTelemetry's semantic conventions name (`db.client.connection.*`) has
that name, and its labels, spelled as OpenTelemetry's Prometheus exporter spells them;
the others are `dbpool_mw_*`. The functions here have no side effects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
_Pools = Sequence[tuple[Labels, Mapping[str, Any]]]


class Sample(NamedTuple):
    """A value of a family: its series' name and labels."""

    name: str
    labels: Labels
    value: float


class Family(NamedTuple):
    """The samples of one name. A counter's name ends in ``_total``."""

    name: str
    kind: str
    help: str
    samples: list[Sample]


def prometheus(answers: Sequence[Answer]) -> str:
    """Return every worker's and pool's figures as text: see `families`."""
    lines = []
    for name, kind, text, samples in families(answers):
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += map(_line, samples)
    return "\n".join([*lines, ""])


def families(answers: Sequence[Answer]) -> list[Family]:
    """Return every worker's and pool's figures, labelled with pool and pid.

    A pool is its alias and its address. The pools of one alias have series of their
    own, and ``sum by (db_client_connection_pool_name)`` adds them up: a sum made here
    would fall when one of them closes, which Prometheus takes for a counter that began
    anew. The same goes for workers.
    """
    names = worker_names(answers)
    pools = [
        (
            {
                _OTEL + "pool_name": str(pool["alias"]),
                "address": str(pool["address"]),
                "pid": names[answer.path],
            },
            pool,
        )
        for answer in answers
        if answer.reply is not None
        for pool in answer.reply["pools"]
    ]
    return [*_of_workers(answers, names), *_of_pools(pools)]


def _of_workers(
    answers: Sequence[Answer], names: Mapping[Path, str]
) -> Iterator[Family]:
    workers = [({"pid": names[answer.path]}, answer.reply) for answer in answers]
    yield _family(
        _PREFIX + "worker_up",
        "gauge",
        "Whether the worker answered.",
        ((labels, int(reply is not None)) for labels, reply in workers),
    )
    yield _family(
        _PREFIX + "worker_uptime_seconds",
        "gauge",
        "Time since the worker began to serve.",
        ((labels, reply["uptime"]) for labels, reply in workers if reply is not None),
    )
    yield _family(
        _PREFIX + "worker_maintenance_age_seconds",
        "gauge",
        "Time since maintenance of the pools last began.",
        (
            (labels, reply["maintenance_age"])
            for labels, reply in workers
            if reply is not None and reply.get("maintenance_age") is not None
        ),
    )


def _of_pools(pools: _Pools) -> Iterator[Family]:
    state = _OTEL + "state"
    yield _family(
        _OTEL + "count",
        "gauge",
        "Open connections by state.",
        (
            ({**labels, state: value}, pool[key])
            for labels, pool in pools
            for value, key in (("idle", "idle"), ("used", "in_use"))
        ),
    )
    for metric in _exported():
        yield _of_metric(metric, pools)
    yield _family(
        _PREFIX + "state",
        "gauge",
        "State of the pool: 1 for the one it is in.",
        (
            ({**labels, "state": state}, int(pool["state"] == state))
            for labels, pool in pools
            for state in _STATES
        ),
    )


def _exported() -> list[Metric]:
    """Return the metrics with series of their own, OpenTelemetry's first."""
    found = [metric for metric in metrics.METRICS if metric.exported]
    # A pool closes no connection for being one idle too many: both maxima are one.
    (most,) = (metric for metric in found if metric.key == "max")
    idle_max = most._replace(
        help="Idle connections that a pool may have.", exported_as=_OTEL + "idle_max"
    )
    found.insert(found.index(most), idle_max)
    return sorted(found, key=lambda m: not m.prometheus_name.startswith(_OTEL))


def _of_metric(metric: Metric, pools: _Pools) -> Family:
    name = metric.prometheus_name
    family = Family(name, metric.kind, metric.help, [])
    for labels, pool in pools:
        figure = pool[metric.key]
        if metric.kind == "histogram":
            family.samples.extend(_buckets(name, labels, figure))
        elif metric.label:
            family.samples.extend(
                Sample(name, {**labels, metric.label: value}, number)
                for value, number in sorted(figure.items())
            )
        else:
            family.samples.append(Sample(name, labels, figure))
    return family


def _buckets(
    name: str, labels: Labels, histogram: Mapping[str, Any]
) -> Iterator[Sample]:
    buckets: list[int] = histogram["buckets"]
    for i in _BOUND_INDICES:
        bounded = {**labels, "le": repr(metrics.BOUNDS[i])}
        yield Sample(f"{name}_bucket", bounded, sum(buckets[: i + 1]))
    # The format requires that the bucket +Inf equals the count.
    yield Sample(f"{name}_bucket", {**labels, "le": "+Inf"}, sum(buckets))
    yield Sample(f"{name}_sum", labels, histogram["sum"])
    yield Sample(f"{name}_count", labels, sum(buckets))


def _family(
    name: str, kind: str, text: str, values: Iterable[tuple[Labels, float]]
) -> Family:
    samples = [Sample(name, labels, value) for labels, value in values]
    return Family(name, kind, text, samples)


def _line(sample: Sample) -> str:
    inside = ",".join(
        f'{key}="{_escaped(text)}"' for key, text in sample.labels.items()
    )
    return f"{sample.name}{{{inside}}} {sample.value!r}"


def _escaped(text: str) -> str:
    # The format escapes the newline only: other control characters would reach a
    # terminal as they are.
    text = "\n".join(map(printable, text.split("\n")))
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
