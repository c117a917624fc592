"""What the page shows, as tables, charts and notices: made of the workers' answers.

Nothing here asks anything. Text from outside is made printable and short; the templates
escape it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dbpool_mw.control import render
from dbpool_mw.control.client import Answer
from dbpool_mw.core import metrics
from dbpool_mw.core.text import NAME, REQUEST, shortened
from dbpool_mw.dashboard.access import Access

#: Gives the address of an action's confirmation: its verb, and what it is for.
Link = Callable[..., str]

_COMMAND = 60
_STATEMENT = 400
#: The most rows of a table; the rest is counted.
_ROWS = 200
#: What each verb is called, and the state of a pool under it.
VERBS = {
    "drain": "Drain",
    "recycle": "Recycle",
    "pause": "Pause",
    "resume": "Resume",
    "cancel": "Cancel",
}
_ORDERS_COLUMNS = (
    "State", "Alias", "Worker", "Ends in", "Old connections", "Waits for", "Action",
)  # fmt: skip
_POOLS_COLUMNS = (
    "Alias", "State", "In use", "Idle", "Connecting", "In transaction", "Max",
    "Waiting", "Oldest wait", "Longest hold", "Checkouts", "Timeouts", "Refused",
    "Action",
)  # fmt: skip
_RECENT_COLUMNS = (
    "Alias", "Time", "Checkouts", "Timeouts", "Refused", "Most in use",
    "Most waiting", "Wait p50", "Wait p95", "Wait p99", "Longest wait", "Hold p50",
    "Hold p95", "Hold p99", "Longest hold",
)  # fmt: skip
_WORKERS_COLUMNS = (
    "Worker", "Command", "Up", "Alias", "Server", "State", "In use", "Idle", "Max",
    "Waiting", "Checkouts", "Opened", "Reclaimed", "Leaked", "Action",
)  # fmt: skip
_HOLDERS_COLUMNS = (
    "Request", "Route", "For", "Worker", "Thread", "Alias", "Backend", "State",
    "In transaction", "Runs now", "Marks", "Stack", "Action",
)  # fmt: skip
_WAITERS_COLUMNS = (
    "Request", "Route", "For", "Worker", "Thread", "Alias",
)  # fmt: skip
_ROUTES_COLUMNS = (
    "Route", "Alias", "Holds", "Held in all", "Hold p95", "Longest hold", "Wait p95",
    "Longest wait",
)  # fmt: skip
_WORKER_KEYS = (
    "in_use", "idle", "max", "waiting", "checkouts", "opened", "reclaimed", "leaked"
)  # fmt: skip
_COUNTERS = ("checkouts", "timeouts", "refused")
_VERBS = ("drain", "recycle", "pause")
#: What can be done beside a pool in these states.
_VERBS_OF_STATE = dict.fromkeys(("draining", "paused"), (*_VERBS, "resume"))
#: What recent figures and charts cover: the seconds, and what they are called.
WINDOWS = {60: "last minute", 900: "last quarter of an hour"}


class Action(NamedTuple):
    """A link to a confirmation: its text, its address, what a screen reader says."""

    text: str
    url: str
    label: str


class Cell(NamedTuple):
    """A cell of a table: a text, and perhaps lines to unfold, links, a countdown."""

    text: str = ""
    kind: str = "text"
    lines: Sequence[str] = ()
    actions: Sequence[Action] = ()
    #: Seconds until something ends, "" for a cell that counts nothing down.
    seconds: str = ""


class Row(NamedTuple):
    """A row: a key that is the same in the next answer, its cells, and its class."""

    key: str
    cells: Sequence[Cell]
    kind: str = ""


class Table(NamedTuple):
    """A table; ``empty`` is the text in its place where it has no row."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    empty: str = ""
    note: str = ""

    @property
    def is_wide(self) -> bool:
        """Whether a phone has no room for the columns beside each other."""
        return len(self.columns) > 3

    @property
    def titles(self) -> list[tuple[str, bool]]:
        """The titles of the columns, and whether they have numbers."""
        cells = self.rows[0].cells if self.rows else ()
        kinds = [cell.kind for cell in cells] + [""] * len(self.columns)
        return [(t, k == "number") for t, k in zip(self.columns, kinds, strict=False)]

    @property
    def titled_rows(self) -> list[tuple[Row, list[tuple[str, Cell]]]]:
        """The rows, each cell with the title of its column."""
        return [
            (row, list(zip(self.columns, row.cells, strict=False))) for row in self.rows
        ]


class Page(NamedTuple):
    """All that the page shows of one survey."""

    notices: Sequence[tuple[str, str]]
    #: What is looked at first, and what stands below the charts.
    first: Sequence[Table]
    more: Sequence[Table]


def text(value: object, width: int = NAME, kind: str = "text") -> Cell:
    """Return a cell with a text from outside; a dash for None and for nothing."""
    shown = "-" if value in (None, "") else shortened(str(value), width)
    return Cell(shown, kind)


def number(value: object) -> Cell:
    """Return a cell with a number, a dash where it isn't known."""
    return Cell("-" if value is None else f"{value}", "number")


def seconds(value: float | None) -> Cell:
    """Return a cell with a duration, a dash where it isn't known."""
    return Cell("-" if value is None else render.duration(value), "number")


def pools_of(answers: Iterable[Answer]) -> list[tuple[Answer, Mapping[str, Any]]]:
    """Return every pool with the answer that it is in."""
    return [
        (a, pool) for a in answers if a.reply is not None for pool in a.reply["pools"]
    ]


def rows_of(answers: Iterable[Answer], key: str) -> list[tuple[Answer, dict[str, Any]]]:
    """Return every row that the replies have under a key, with its answer."""
    return [
        (a, row)
        for a in answers
        if a.reply is not None
        for row in a.reply.get(key) or ()
    ]


def by_alias(answers: Iterable[Answer]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the pools of all workers by their alias, in the aliases' order."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for _, pool in pools_of(answers):
        found.setdefault(pool["alias"], []).append(pool)
    return dict(sorted(found.items()))


def page(answers: Sequence[Answer], access: Access, link: Link) -> Page:
    """Return what the page shows of the workers' answers to somebody."""
    first = [_orders(answers, access, link), _pools(answers, access, link)]
    more = [_recent(answers)]
    if access.holders:
        more += [_holders(answers, access, link), _waiters(answers)]
        more += filter(None, [_routes(answers)])
    more += [_workers(answers, access, link)]
    more += filter(None, [_settings(answers)])
    return Page(_notices(answers), first, more)


# --- Notices --------------------------------------------------------------------------


def _notices(answers: Sequence[Answer]) -> list[tuple[str, str]]:
    """Return what needs somebody's look: pairs of "error" or "warning", and a text."""
    found = []
    if not answers:
        found.append(
            (
                "error",
                "No worker was found on this host. A server is seen about a second "
                "after it has loaded the middleware.",
            )
        )
    names = render.worker_names(answers)
    for answer in answers:
        if answer.reply is None:
            error = render.error_of(answer)
            found.append(("error", f"Worker {names[answer.path]}: {error}"))
    late = render.late(answers)
    found += [("warning", line) for line in late.splitlines()]
    return found + [("warning", line) for line in _exhausted(answers, names)]


def _exhausted(answers: Sequence[Answer], names: Mapping[Path, str]) -> list[str]:
    """Say where requests wait for full pools: in which workers, unless in all."""
    label = render.labels(answers)
    pools: dict[str, list[tuple[Answer, Mapping[str, Any]]]] = {}
    for answer, pool in pools_of(answers):
        pools.setdefault(label(pool), []).append((answer, pool))
    lines = []
    for name, each in sorted(pools.items()):
        full = [
            (names[answer.path], pool["waiting"])
            for answer, pool in each
            if pool["state"] == "running"
            and pool["in_use"] + pool["connecting"] >= pool["max"]
        ]
        waiting = sum(number for _, number in full)
        if not waiting:
            continue
        are_all = len(full) == len(each) and all(a.reply for a in answers)
        where = "" if are_all else f" of worker {', '.join(pid for pid, _ in full)}"
        requests = "1 request waits" if waiting == 1 else f"{waiting} requests wait"
        lines.append(f"{name}: every connection{where} is in use, and {requests}.")
    return lines


# --- Orders and pools -----------------------------------------------------------------


def _none(answers: Iterable[Answer], what: str) -> str:
    """Return the text of a table without a row: of silent workers it says nothing."""
    are_known = {answer.reply is not None for answer in answers}
    if True not in are_known:
        return "Not known: no worker answers."
    start = "Of the workers that answer: " if False in are_known else ""
    return f"{start}{what}"


def _actions(
    access: Access, link: Link, verbs: Iterable[str], what: str, **target: Any
) -> list[Action]:
    if not access.drain:
        return []
    return [
        Action(VERBS[verb], link(verb, **target), f"{VERBS[verb]} {what}")
        for verb in verbs
    ]


def _orders(answers: Sequence[Answer], access: Access, link: Link) -> Table:
    """Return what is under way: pools under an order, or with stale connections."""
    rows = []
    names = render.worker_names(answers)
    for answer, pool in pools_of(answers):
        if pool["state"] == "running" and not pool["stale"]:
            continue
        alias, name = shortened(pool["alias"], NAME), names[answer.path]
        left = pool.get("state_seconds_left")
        verbs = ["resume"] if pool["state"] != "running" else []
        rows.append(
            Row(
                f"{name}-{_key(pool)}",
                (
                    text("recycling" if pool["state"] == "running" else pool["state"]),
                    Cell(alias),
                    Cell(name, "number"),
                    Cell("with Resume", "number")
                    if left is None and verbs
                    else Cell(
                        "-" if left is None else render.duration(left),
                        "number",
                        seconds="" if left is None else f"{left:.1f}",
                    ),
                    Cell(
                        f"{pool['stale']} left" if pool["stale"] else "done", "number"
                    ),
                    Cell(lines=waited_for(answer, pool) if access.holders else ()),
                    Cell(
                        actions=_actions(
                            access,
                            link,
                            verbs,
                            f"{alias}, all workers",
                            alias=pool["alias"],
                        )
                    ),
                ),
                "dbp-paused" if pool["state"] == "paused" else "",
            )
        )
    return _table(
        "orders",
        "Drains, pauses and recycles",
        _ORDERS_COLUMNS,
        rows,
        _none(answers, "None is under way: every pool runs."),
    )


def waited_for(answer: Answer, pool: Mapping[str, Any]) -> list[str]:
    """Return who holds the stale connections of a pool."""
    lines = []
    for _, holder in rows_of([answer], "holders"):
        is_here = all(holder[key] == pool[key] for key in ("alias", "address"))
        if is_here and holder.get("stale"):
            thread = shortened(str(holder["thread"]), NAME)
            held = render.duration(holder["seconds"])
            lines.append(f"{render.request_of(holder)} in thread {thread} for {held}")
    others = pool["stale"] - len(lines)
    return lines + ([f"{others} being opened, cleaned or closed"] if others > 0 else [])


def _pools(answers: Sequence[Answer], access: Access, link: Link) -> Table:
    rows = []
    for alias, pools in by_alias(answers).items():
        total = metrics.merge(pools)
        name = shortened(alias, NAME)
        states = sorted({pool["state"] for pool in pools})
        rows.append(
            Row(
                alias,
                (
                    Cell(name, "head"),
                    text(", ".join(states)),
                    *(number(total[key]) for key in ("in_use", "idle", "connecting")),
                    number(_sum(pools, "in_transaction")),
                    number(total["max"]),
                    number(total["waiting"]),
                    seconds(_max(pools, "oldest_wait_seconds")),
                    seconds(_max(pools, "oldest_hold_seconds")),
                    *(
                        number(total[key])
                        for key in ("checkouts", "timeouts", "refused")
                    ),
                    Cell(
                        actions=_actions(
                            access,
                            link,
                            _VERBS,
                            f"{name}, all workers",
                            alias=alias,
                        )
                    ),
                ),
            )
        )
    return _table(
        "pools",
        "Pools",
        _POOLS_COLUMNS,
        rows,
        _none(answers, "No pool is open yet."),
    )


def _sum(pools: Iterable[Mapping[str, Any]], key: str) -> int | None:
    found = [pool[key] for pool in pools if pool.get(key) is not None]
    return sum(found) if found else None


def _max(pools: Iterable[Mapping[str, Any]], key: str) -> Any:
    return max((pool[key] for pool in pools if pool.get(key) is not None), default=None)


def _recent(answers: Sequence[Answer]) -> Table:
    """Return the figures of the last minute and quarter of an hour, by alias.

    Quantiles of several workers can't be added up: the highest is shown.
    """
    rows = []
    for alias, pools in by_alias(answers).items():
        for seconds, title in WINDOWS.items():
            window = str(seconds)
            recent = [
                p["recent"][window] for p in pools if window in p.get("recent", {})
            ]
            if not recent:
                continue
            rows.append(
                Row(
                    f"{alias}-{window}",
                    (
                        text(alias),
                        Cell(title),
                        number(_sum(recent, "checkouts")),
                        number(_sum(recent, "timeouts")),
                        number(_sum(recent, "refused")),
                        number(_sum(recent, "in_use_peak")),
                        number(_sum(recent, "waiting_peak")),
                        *_spread(recent, "wait_seconds"),
                        *_spread(recent, "hold_seconds"),
                    ),
                )
            )
    return _table(
        "recent",
        "Recently",
        _RECENT_COLUMNS,
        rows,
        _none(answers, "There are no figures of the last minutes."),
        "Of several workers the peaks are added up, and the longest times are shown.",
    )


def _spread(recent: Iterable[Mapping[str, Any]], key: str) -> list[Cell]:
    found = [each[key] for each in recent if each.get(key)]
    return [seconds(_max(found, part)) for part in ("p50", "p95", "p99", "max")]


def _workers(answers: Sequence[Answer], access: Access, link: Link) -> Table:
    names = render.worker_names(answers)
    rows = []
    for answer in answers:
        name = names[answer.path]
        if answer.reply is None:
            error = render.error_of(answer)
            rows.append(Row(name, (Cell(name, "head"), Cell(error)), "dbp-error"))
            continue
        head = (
            Cell(name, "head"),
            text(answer.reply["command"], _COMMAND, "long"),
            seconds(answer.reply["uptime"]),
        )
        if not answer.reply["pools"]:
            rows.append(Row(name, (*head, Cell("no pool open yet"))))
        for pool in answer.reply["pools"]:
            what = f"{shortened(pool['alias'], NAME)} of worker {name}"
            rows.append(
                Row(
                    f"{name}-{_key(pool)}",
                    (
                        *head,
                        text(pool["alias"]),
                        text(pool["address"], kind="long"),
                        text(pool["state"]),
                        *(number(pool[key]) for key in _WORKER_KEYS),
                        Cell(
                            actions=_actions(
                                access,
                                link,
                                _VERBS_OF_STATE.get(pool["state"], _VERBS),
                                what,
                                alias=pool["alias"],
                                pid=answer.pid,
                            )
                        ),
                    ),
                )
            )
    return _table(
        "workers",
        "Workers",
        _WORKERS_COLUMNS,
        rows,
        "No worker answers.",
    )


# --- Who holds and who waits ----------------------------------------------------------


def _holders(answers: Sequence[Answer], access: Access, link: Link) -> Table:
    names = render.worker_names(answers)
    found = rows_of(answers, "holders")
    found.sort(key=lambda pair: pair[1]["seconds"], reverse=True)
    rows = []
    for answer, holder in found:
        hold = holder.get("id")
        flags = [flag for flag in ("stale", "leaked") if holder.get(flag)]
        request = render.request_of(holder)
        actions = []
        if access.cancel and hold:
            url = link("cancel", hold=hold)
            actions = [
                Action("Cancel", url, f"Cancel {request} of worker {answer.pid}")
            ]
        rows.append(
            Row(
                str(hold or f"{answer.pid}-{_key(holder)}-{holder['backend_pid']}"),
                (
                    Cell(request, "head"),
                    text(holder.get("route")),
                    seconds(holder["seconds"]),
                    Cell(names[answer.path], "number"),
                    text(holder["thread"], kind="long"),
                    text(holder["alias"]),
                    number(holder["backend_pid"]),
                    text(holder.get("state")),
                    text(_yes(holder.get("in_transaction"))),
                    text(holder.get("statement"), _STATEMENT, "long"),
                    text(", ".join(flags)),
                    Cell(
                        lines=[shortened(f, REQUEST) for f in holder.get("stack") or ()]
                    ),
                    Cell(actions=actions),
                ),
                "dbp-error" if holder.get("leaked") else "",
            )
        )
    return _table(
        "holders",
        "Who holds a connection",
        _HOLDERS_COLUMNS,
        rows,
        _none(answers, "No connection is in use."),
    )


def _yes(value: bool | None) -> str | None:
    return None if value is None else ("yes" if value else "no")


def _waiters(answers: Sequence[Answer]) -> Table:
    names = render.worker_names(answers)
    found = rows_of(answers, "waiters")
    found.sort(key=lambda pair: pair[1]["seconds"], reverse=True)
    rows = [
        Row(
            f"{answer.pid}-{at}",
            (
                Cell(render.request_of(waiter), "head"),
                text(waiter.get("route")),
                seconds(waiter["seconds"]),
                Cell(names[answer.path], "number"),
                text(waiter.get("thread"), kind="long"),
                text(waiter["alias"]),
            ),
        )
        for at, (answer, waiter) in enumerate(found)
    ]
    return _table(
        "waiters",
        "Who waits for one",
        _WAITERS_COLUMNS,
        rows,
        _none(answers, "Nobody waits."),
    )


def _routes(answers: Sequence[Answer]) -> Table | None:
    """Return how long each route holds connections, those that hold most first."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for _, row in rows_of(answers, "routes"):
        found.setdefault((row["alias"], row["name"]), []).append(row)
    if not found:
        return None
    rows = []
    for (alias, name), parts in found.items():
        holds, waits = ([part[key] for part in parts] for key in ("holds", "waits"))
        total = _sum(holds, "sum") or 0
        rows.append(
            (
                total,
                Row(
                    f"{alias}-{name}",
                    (
                        Cell(shortened(name, REQUEST), "head"),
                        text(alias),
                        number(_sum(holds, "count")),
                        seconds(total),
                        seconds(_max(holds, "p95")),
                        seconds(_max(holds, "max")),
                        seconds(_max(waits, "p95")),
                        seconds(_max(waits, "max")),
                    ),
                ),
            )
        )
    rows.sort(key=lambda pair: pair[0], reverse=True)
    return _table(
        "routes",
        "Routes",
        _ROUTES_COLUMNS,
        [row for _, row in rows],
    )


# --- Settings -------------------------------------------------------------------------

_NO_SETTING = ("alias", "address")


def _settings(answers: Sequence[Answer]) -> Table | None:
    """Return the settings in force, by alias; what differs by worker is all shown."""
    values: dict[str, dict[str, list[str]]] = {}
    aliases: list[str] = []
    for _, row in rows_of(answers, "settings"):
        alias = shortened(row["alias"], NAME)
        if alias not in aliases:
            aliases.append(alias)
        for key, value in row.items():
            if key not in _NO_SETTING:
                found = values.setdefault(key, {}).setdefault(alias, [])
                shown = shortened(_shown(value), REQUEST)
                if shown not in found:
                    found.append(shown)
    if not values:
        return None
    aliases.sort()
    rows = [
        Row(
            key,
            (
                Cell(shortened(key, NAME), "head"),
                *(Cell(" or ".join(of.get(alias, ["-"]))) for alias in aliases),
            ),
        )
        for key, of in values.items()
    ]
    return _table("settings", "Settings in force", ("Setting", *aliases), rows)


def _shown(value: object) -> str:
    return "None" if value is None else str(value)


def _key(report: Mapping[str, Any]) -> str:
    return f"{report['alias']}-{report['address']}"


def _table(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    empty: str = "",
    note: str = "",
) -> Table:
    if len(rows) > _ROWS:
        more = f"{len(rows) - _ROWS} more rows are not shown."
        rows, note = rows[:_ROWS], f"{note} {more}".strip()
    if columns[-1] == "Action" and not any(row.cells[-1].actions for row in rows):
        columns = columns[:-1]
    return Table(name, title, columns, rows, empty, note)
