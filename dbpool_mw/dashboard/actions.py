"""What the page does when somebody has confirmed it, and what it says before.

The orders are those of ``dbpool_drain``: kept for workers that start later unless they
are for one worker.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from django.apps import apps
from django.core import signing
from django.db import Error as DatabaseError

from dbpool_mw import conf
from dbpool_mw.control import client, drain, orders, paths, protocol, render
from dbpool_mw.control.client import Answer
from dbpool_mw.control.orders import Order
from dbpool_mw.control.survey import survey
from dbpool_mw.core.logs import get_logger
from dbpool_mw.core.text import ERROR, MESSAGE, NAME, REQUEST, one_line, shortened
from dbpool_mw.dashboard.access import OPEN_SECONDS, Access
from dbpool_mw.dashboard.presentation import (
    VERBS,
    pools_of,
    rows_of,
    waited_for,
)

logger = get_logger("dbpool_mw.control")

#: Seconds that a pause lasts unless somebody says otherwise, and the longest order.
PAUSE_SECONDS = 300
MAX_SECONDS = 24 * 3600

#: What stands above how far an action is.
DONE, UNDER_WAY, ENDED, UNKNOWN = "Done", "Under way", "Ended", "Not known"
CONFIRMED, INCOMPLETE = "Confirmed", "Incomplete"

_DID = "dbpool_mw.dashboard.did"

_WILL = {
    "drain": (
        "Idle connections are closed at once, each one in use when its request ends.",
        "No request fails: those that come meanwhile are served, each on a connection "
        "that closes when the request ends.",
        "It goes on until Resume, or until its time is over.",
    ),
    "recycle": (
        "Every connection is replaced by a fresh one: idle ones at once, each one in "
        "use when its request ends.",
        "No request fails. A drain or a pause ends.",
    ),
    "pause": (
        "No connection is left: idle ones are closed at once, each one in use when its "
        "request ends.",
        "Requests wait for a connection. One that has waited DBPOOL_MW_TIMEOUT seconds "
        "is answered with 503.",
        "It ends by itself when its time is over, or with Resume.",
    ),
    "resume": ("The drain or the pause ends. The pools run as before it.",),
    "cancel": (
        "The statement that this request runs ends with an error, and so does each "
        "that it makes afterwards. Its transaction is rolled back.",
        "Its connection is closed. No other request is touched: if this one has "
        "ended meanwhile, nothing happens.",
    ),
}


def here() -> str:
    """Return the name of this host, whose workers are asked and nobody else's."""
    return platform.node() or "this host"


class Target(NamedTuple):
    """What an action is for: an alias or all of them, a worker or all; or one hold.

    All of them are those of one host: a balancer may send what is confirmed to another.
    """

    alias: str | None = None
    pid: int | None = None
    hold: str | None = None
    host: str = here()

    @property
    def words(self) -> str:
        """The target in words."""
        if self.hold is not None:
            return f"hold {shortened(self.hold, NAME)} on {self.host}"
        alias = "all aliases" if self.alias is None else shortened(self.alias, NAME)
        workers = "all workers" if self.pid is None else f"worker {self.pid}"
        return f"{alias}, {workers} on {self.host}"

    @property
    def aliases(self) -> list[str] | None:
        """The aliases, None for all of them."""
        return None if self.alias is None else [self.alias]


class Did(NamedTuple):
    """What was done, and what is wanting: who hasn't confirmed it, for example."""

    verb: str
    target: Target
    lacks: Sequence[str]

    @property
    def token(self) -> str:
        """It as signed text for an address: no session keeps it, and no link forges it.

        A user reads it easily: it has nothing that needs a permission.
        """
        lacks = [shortened(lack, 2 * REQUEST) for lack in self.lacks]
        plain = [self.verb, list(self.target), lacks]
        return signing.dumps(plain, salt=_DID, compress=True)


def did_of(token: str) -> Did | None:
    """Return what was done, from a token; None for one that is wrong or too old."""
    try:
        verb, target, lacks = signing.loads(token, salt=_DID, max_age=OPEN_SECONDS)
    except signing.BadSignature:
        return None
    return Did(verb, Target(*target), lacks)


class Mistake(Exception):
    """An action can't be done as it was asked for; the text says why."""


def allowed(access: Access, verb: str) -> bool:
    """Tell whether somebody may do what a verb says."""
    return access.cancel if verb == "cancel" else access.drain


def target_of(verb: str, given: Any) -> Target:
    """Return the target that a form's fields name; raise Mistake for a wrong one."""
    host = given.get("host") or here()
    if host != here():
        raise Mistake(
            f"This was shown by the host {shortened(host, NAME)}, and {here()} got it: "
            "nothing was done. A balancer sends requests to several hosts: send this "
            "again, or have it send all of one user's to the same host."
        )
    alias, pid, hold = (given.get(key) or None for key in ("alias", "pid", "hold"))
    if verb == "cancel":
        if hold is None:
            raise Mistake("No hold is named. Choose Cancel beside the request.")
        try:
            protocol.pid_of(hold)
        except ValueError as error:
            raise Mistake(f"{shortened(hold, NAME)} names no hold.") from error
        return Target(hold=hold, host=host)
    if pid is not None and not (pid.isascii() and pid.isdigit() and len(pid) < 11):
        raise Mistake("The worker is named by the number of its process.")
    return Target(alias, None if pid is None else int(pid), host=host)


def seconds_of(verb: str, given: Any) -> float | None:
    """Return after how many seconds an order ends; raise Mistake for a wrong number."""
    if verb not in orders.KEPT:
        return None
    text = (given.get("seconds") or "").strip()
    if not text:
        if verb == "pause":
            raise Mistake("Say for how many seconds.")
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 1 <= seconds <= MAX_SECONDS:
        raise Mistake(f"Write a number of seconds from 1 to {MAX_SECONDS}.")
    return seconds


def will_happen(verb: str, target: Target) -> list[str]:
    """Say what an action does, before it is confirmed."""
    lines = list(_WILL[verb])
    if verb in orders.KEPT:
        lines.append(
            "Workers that start meanwhile follow it too."
            if target.pid is None
            else "Only this worker follows it; one that takes its place doesn't."
        )
    return lines


def hold_of(
    target: Target, answers: Sequence[Answer]
) -> tuple[Answer, dict[str, Any]] | None:
    """Return the hold of a target, and its worker's answer; None if it isn't there.

    It has ended then, or its worker is silent: see `silence`.
    """
    for answer, holder in rows_of(answers, "holders"):
        if holder.get("id") == target.hold:
            return answer, holder
    return None


def silence(target: Target, answers: Sequence[Answer]) -> str:
    """Say why nothing is known of the worker that a target names.

    "" for one that answers or has ended, and for all workers.
    """
    pid = target.pid if target.hold is None else protocol.pid_of(target.hold)
    if pid is None:
        return ""
    found = [answer for answer in answers if answer.pid == pid]
    silent = [answer for answer in found if answer.reply is None]
    if silent:
        return f"Worker {pid} doesn't answer: {render.error_of(silent[0])}."
    if found or client.has_ended(pid):
        return ""
    return f"Worker {pid} has no socket, so it can't be asked."


def act(
    directory: Path, verb: str, target: Target, seconds: float | None, user: Any
) -> Did:
    """Do what was confirmed, and log it with what the workers said.

    Raises Mistake where nothing was done.
    """
    try:
        said, lacks = (
            _cancel(directory, target)
            if verb == "cancel"
            else _order(directory, verb, target, seconds)
        )
    except (paths.ControlDirError, protocol.ProtocolError) as error:
        raise Mistake(f"No worker could be asked: {error}") from error
    text = f"{VERBS[verb]}{_for(seconds)}: {'; '.join([*said, *lacks])}"
    logger.info("%s: %s, by %s", target.words, text, shortened(str(user), NAME))
    _log(user, f"{VERBS[verb]}: {target.words}", text)
    return Did(verb, target, lacks)


def _for(seconds: float | None) -> str:
    return "" if seconds is None else f" for {seconds:g} s"


def _order(
    directory: Path, verb: str, target: Target, seconds: float | None
) -> tuple[list[str], list[str]]:
    """Keep an order and send it, as ``dbpool_drain`` does.

    Returns what the workers said, and what is wanting.
    """
    _check_alias(directory, target)
    began = time.monotonic()
    is_kept = target.pid is None
    unkept = []
    if is_kept:
        order = Order(
            verb if verb in orders.KEPT else orders.RESUME,
            None if target.alias is None else (target.alias,),
            began,
            None if seconds is None else began + seconds,
        )
        try:
            orders.keep(directory, order)
        except orders.OrdersError as error:
            unkept = [f"not kept for workers that start later: {error}"]
    sockets = [
        path
        for path in paths.discover(directory)
        if target.pid in (None, paths.pid_of(path))
    ]
    progress = drain.send(
        verb, sockets, target.aliases, seconds=seconds, began=began, kept=is_kept
    )
    if not progress.answers and not progress.failed:
        if target.pid is not None:
            raise Mistake(f"There is no such worker: {target.words}.")
        if unkept:
            raise Mistake(f"No worker was found; {unkept[0]}.")
    pids = ", ".join(str(answer.pid) for answer in progress.answers)
    said = [f"confirmed by {pids}"] if pids else []
    lacks = [] if pids else ["confirmed by no worker"]
    return said, [*lacks, *_unconfirmed(progress.failed), *unkept]


def _unconfirmed(answers: Sequence[Answer]) -> list[str]:
    """Say which workers may not have done it."""
    failed = ", ".join(f"{a.pid} ({shortened(a.error or '', ERROR)})" for a in answers)
    return [f"not confirmed by {failed}"] if failed else []


def _check_alias(directory: Path, target: Target) -> None:
    """Refuse an alias that no settings and no worker pool: it would be kept."""
    known = set(conf.pooled_aliases())
    if target.alias is None or target.alias in known:
        return
    if all(target.alias not in answer.aliases for answer in survey(directory)):
        raise Mistake(f"No worker has a pool of {shortened(target.alias, NAME)}.")


def _cancel(directory: Path, target: Target) -> tuple[list[str], list[str]]:
    """Cancel the hold, in the worker that has it, if it goes on still."""
    answers = survey(directory, holders=True)
    found = hold_of(target, answers)
    if found is None:
        why = silence(target, answers) or (
            "This request has ended, or given its connection back."
        )
        raise Mistake(f"{why} Nothing was cancelled.")
    answer, holder = found
    request = {**protocol.request("cancel"), "holds": [target.hold]}
    (said,) = client.ask([answer.path], request, drain.ANSWER_SECONDS)
    is_silent = said.reply is None and not said.gone
    if not is_silent and target.hold not in (said.reply or {}).get("cancelled", ()):
        raise Mistake("This request has ended just now. Nothing was cancelled.")
    held = render.duration(holder["seconds"])
    text = shortened(
        f"{render.request_of(holder)} of worker {said.pid}, {holder['alias']}, "
        f"backend {holder['backend_pid']}, held for {held}",
        REQUEST,
    )
    return [text], _unconfirmed([said] if is_silent else [])


def _log(user: Any, what: str, text: str) -> None:
    """Write an action to the admin's log, where the project has one."""
    if not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import CHANGE, LogEntry
    from django.contrib.contenttypes.models import ContentType

    from dbpool_mw.models import Dashboard

    try:
        LogEntry.objects.create(
            user_id=user.pk,
            content_type_id=ContentType.objects.get_for_model(Dashboard).pk,
            object_repr=what[:200],
            action_flag=CHANGE,
            change_message=shortened(text, MESSAGE),
        )
    except DatabaseError as error:
        # It is done: a server that has become read-only changes nothing about that.
        logger.warning(
            "%s: done, and not written to the admin's log: %s",
            what,
            one_line(str(error)),
        )


# --- Afterwards -----------------------------------------------------------------------


def progress(
    did: Did, answers: Sequence[Answer], problem: str, *, holders: bool
) -> tuple[str, list[str]]:
    """Return how far an action is: a heading, and lines.

    Of what can't be asked, by a ``problem`` or because a worker is silent, nothing is
    said to be done. ``holders`` says whether those that are waited for may be named.
    """
    heading, lines = _progress(did.verb, did.target, answers, problem, holders)
    if did.lacks and heading in (DONE, ENDED, CONFIRMED):
        heading = INCOMPLETE
    return heading, [*lines, *(f"When it was sent: {lack}." for lack in did.lacks)]


def _progress(
    verb: str, target: Target, answers: Sequence[Answer], problem: str, holders: bool
) -> tuple[str, list[str]]:
    what = f"{VERBS[verb]}, {target.words}"
    if target.host != here():
        return UNKNOWN, [f"{what}: this is an answer of {here()}, which can't tell."]
    if problem:
        return UNKNOWN, [f"{what}: no worker can be asked."]
    if verb == "cancel" and not holders:
        return CONFIRMED, [f"{what}: sent."]
    if verb == "cancel":
        found = hold_of(target, answers)
        if found is not None:
            held = render.duration(found[1]["seconds"])
            return UNDER_WAY, [f"{what}: the request goes on still, held for {held}."]
        if why := silence(target, answers):
            return UNKNOWN, [f"{what}: {why}"]
        return DONE, [f"{what}: the request has ended."]
    chosen = [
        answer.only(target.aliases)
        for answer in answers
        if target.pid in (None, answer.pid)
    ]
    if not chosen and target.pid is None:
        return UNKNOWN, [f"{what}: no worker was found."]
    if not chosen:
        if why := silence(target, answers):
            return UNKNOWN, [f"{what}: {why}"]
        return DONE, [f"{what}: the worker has ended, and its connections with it."]
    now = drain.Progress(verb, chosen, [], [])
    silent = [f"Worker {a.pid} doesn't answer: {a.error}" for a in now.silent]
    if verb == "resume":
        states = {
            pool["state"] for a in chosen if a.reply for pool in a.reply["pools"]
        } - {"running"}
        if states:
            return UNDER_WAY, [f"{what}: {', '.join(sorted(states))} still.", *silent]
        return _unless(silent, what, "every pool runs")
    if now.ended:
        pids = ", ".join(str(answer.pid) for answer in now.ended)
        return ENDED, [f"{what}: not in force in worker {pids}.", *silent]
    left = "1 connection" if now.left == 1 else f"{now.left} connections"
    if now.left:
        waits = [
            f"Worker {answer.pid}, {shortened(pool['alias'], NAME)}: {line}"
            for answer, pool in pools_of(chosen)
            for line in (waited_for(answer, pool) if holders else ())
        ]
        return UNDER_WAY, [f"{what}: waits for {left}.", *waits, *silent]
    return _unless(silent, what, "done, no old connection is left")


def _unless(silent: Sequence[str], what: str, text: str) -> tuple[str, list[str]]:
    """Return that an action is done, unless a worker is silent."""
    if silent:
        return UNKNOWN, [f"{what}: not known of every worker.", *silent]
    return DONE, [f"{what}: {text}."]
