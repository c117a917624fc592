"""How many connections each server allows, as far as somebody has asked it.

A page that is opened by a session asks the database who the user is. On that connection
it asks this too. The process remembers it, and the page keeps it in its token: polls,
which come to any worker, ask nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from dbpool_mw import conf
from dbpool_mw.checks import capacity
from dbpool_mw.core.text import NAME, shortened
from dbpool_mw.dashboard.presentation import Cell, Row, Table, number, text


class Known(NamedTuple):
    """What the server of an alias has said: the connections it accepts, a proxy."""

    alias: str
    limit: int
    behind_proxy: bool


#: What servers have said, by their addresses.
_known: dict[tuple[Any, ...], Known] = {}


def remember() -> None:
    """Ask the servers to which this thread has connections by now; open none."""
    try:
        aliases = conf.pooled_aliases()
    except ImproperlyConfigured:
        return
    for alias in aliases:
        is_connected = connections[alias].connection is not None
        server = capacity.query(alias) if is_connected else None
        if server is not None:
            known = Known(alias, server.limit, server.behind_proxy)
            _known[capacity.address(alias)] = known


def remembered() -> list[Known]:
    """Return what this process knows."""
    return list(_known.values())


def table(
    pools: Mapping[str, Sequence[Mapping[str, Any]]],
    workers: int,
    known: Iterable[Known],
) -> Table:
    """Return what each server allows, and what the pools of this host may open."""
    by_server: dict[tuple[Any, ...], list[str]] = {}
    for alias in pools:
        by_server.setdefault(_address(alias), []).append(alias)
    said = {_address(each.alias): each for each in known}
    rows = []
    for address, aliases in by_server.items():
        server = said.get(address)
        most = sum(pool["max"] for alias in aliases for pool in pools[alias])
        is_open = sum(pool["size"] for alias in aliases for pool in pools[alias])
        is_limit = server is not None and not server.behind_proxy
        rows.append(
            Row(
                "-".join(aliases),
                (
                    Cell(", ".join(shortened(a, NAME) for a in aliases), "head"),
                    number(is_open),
                    number(most),
                    *_said(server),
                ),
                "dbp-error" if server and is_limit and most > server.limit else "",
            )
        )
    return Table(
        "limits",
        "What the server allows",
        ("Aliases", "Open here", "May open here", "Server accepts", "Known"),
        rows,
        "No open pool is known.",
        f"Here: the {workers} workers of this host. Other hosts have theirs.",
    )


def _address(alias: str) -> tuple[Any, ...]:
    """Return the server of an alias, which another process may have."""
    try:
        return capacity.address(alias)
    except KeyError:
        return (alias,)


def _said(server: Known | None) -> Iterable[Cell]:
    if server is None:
        return (
            Cell("not known", "number"),
            text(
                "Nobody has asked it here: a page opened by a session asks the server "
                "of its users, manage.py check --database ALIAS any other.",
                200,
            ),
        )
    if server.behind_proxy:
        return Cell("not known", "number"), Cell("A proxy stands before it.")
    return (
        Cell(str(server.limit), "number"),
        Cell("max_connections less what is reserved, when a page was opened."),
    )
