"""How many connections each server allows, as far as somebody has asked it.

A page that is opened by a session asks the database who the user is. On that connection
it asks this too, and the process remembers it: polls ask nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from dbpool_mw import conf
from dbpool_mw.checks import capacity
from dbpool_mw.control import render
from dbpool_mw.core.text import NAME, shortened
from dbpool_mw.dashboard.presentation import Cell, Row, Table, number, text


class _Known(NamedTuple):
    limit: int
    behind_proxy: bool
    asked_at: float


#: What servers have said, by their addresses.
_known: dict[tuple[Any, ...], _Known] = {}


def remember() -> None:
    """Ask the servers to which this thread has connections by now; open none."""
    try:
        aliases = conf.pooled_aliases()
    except ImproperlyConfigured:
        return
    for alias in aliases:
        if connections[alias].connection is None:
            continue
        server = capacity.query(alias)
        if server is not None:
            known = _Known(server.limit, server.behind_proxy, time.monotonic())
            _known[capacity.address(alias)] = known


def table(pools: Mapping[str, Sequence[Mapping[str, Any]]], workers: int) -> Table:
    """Return what each server allows, and what the pools of this host may open."""
    by_server: dict[tuple[Any, ...], list[str]] = {}
    for alias in pools:
        try:
            by_server.setdefault(capacity.address(alias), []).append(alias)
        except ConnectionDoesNotExist:
            by_server.setdefault((alias,), []).append(alias)
    rows = []
    for address, aliases in by_server.items():
        known = _known.get(address)
        most = sum(pool["max"] for alias in aliases for pool in pools[alias])
        is_open = sum(pool["size"] for alias in aliases for pool in pools[alias])
        rows.append(
            Row(
                "-".join(aliases),
                (
                    Cell(
                        ", ".join(shortened(alias, NAME) for alias in aliases), "head"
                    ),
                    number(is_open),
                    number(most),
                    *_said(known),
                ),
                "dbp-error"
                if known is not None and not known.behind_proxy and most > known.limit
                else "",
            )
        )
    return Table(
        "limits",
        "What the server allows",
        ("Aliases", "Open here", "May open here", "Server accepts", "Known"),
        rows,
        "No worker has opened a pool yet.",
        f"Here: the {workers} workers of this host. Other hosts have theirs.",
    )


def _said(known: _Known | None) -> Iterable[Cell]:
    if known is None:
        return (
            Cell("not known", "number"),
            text(
                "Nobody has asked this server since this worker started. "
                "manage.py check --database ALIAS asks.",
                200,
            ),
        )
    ago = f"asked {render.duration(time.monotonic() - known.asked_at)} ago"
    if known.behind_proxy:
        return Cell("not known", "number"), Cell(f"a proxy stands before it; {ago}")
    return Cell(f"{known.limit}", "number"), Cell(ago)
