"""Waits and holds by route, put together.

A row is what `core.routes` counted under one name, with the alias of its pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dbpool_mw.core import metrics
from dbpool_mw.core.metrics import OTHER

#: How many names a worker reports for one alias, whatever its pools have counted.
MOST = 200

Row = dict[str, Any]


def merged(rows: Iterable[Mapping[str, Any]], most: int = MOST) -> list[Row]:
    """Return one row for each alias and name, those held longest in sum first.

    Of an alias at most `most` names are kept; the others are added to OTHER, which is
    the last of its alias. Each histogram has its "p95" too, null for an empty one.
    """
    by_name: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        by_name.setdefault((row["alias"], row["name"]), []).append(row)
    found = sorted(map(_sum, by_name.values()), key=_seconds, reverse=True)
    kept: list[Row] = []
    number: dict[str, int] = {}
    others: dict[str, list[Row]] = {}
    for row in found:
        alias = row["alias"]
        if row["name"] == OTHER or number.get(alias, 0) >= most:
            others.setdefault(alias, []).append(row)
        else:
            number[alias] = number.get(alias, 0) + 1
            kept.append(row)
    return kept + [{**_sum(many), "name": OTHER} for many in others.values()]


def _seconds(row: Mapping[str, Any]) -> float:
    return float(row["holds"]["sum"])


def _sum(rows: Sequence[Mapping[str, Any]]) -> Row:
    return {
        "alias": rows[0]["alias"],
        "name": rows[0]["name"],
        **{
            key: _with_p95(metrics.sum_of(row[key] for row in rows))
            for key in ("holds", "waits")
        },
    }


def _with_p95(histogram: dict[str, Any]) -> dict[str, Any]:
    return {**histogram, "p95": metrics.quantile(histogram, 0.95)}
