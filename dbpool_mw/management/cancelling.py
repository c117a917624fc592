"""Cancel single holds: what ``dbpool_drain --cancel`` does."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from django.core.management.base import CommandError

from dbpool_mw.control import client, drain, paths, protocol, render
from dbpool_mw.control.cancel_document import cancel_document
from dbpool_mw.control.client import Answer
from dbpool_mw.core.text import NAME, shortened
from dbpool_mw.management.base import (
    NO_ANSWER,
    NO_WORKER,
    USAGE,
    WorkerCommand,
    control_dir,
    errors,
    no_worker,
    write,
)

NOT_DONE = 1

_WHAT = (
    "What they run is cancelled, every later statement of theirs raises "
    "OperationalError, and their connections close when they come back."
)


def add_argument(parser: Any) -> None:
    """Add the option ``--cancel`` to a parser."""
    parser.add_argument(
        "--cancel",
        nargs="+",
        type=_hold,
        metavar="ID",
        help="Cancel these holds, by the ids in dbpool_stats --holders, and no other: "
        "the next hold of a connection has another id. Drains nothing.",
    )


def _hold(text: str) -> str:
    """Parse the id of a hold."""
    try:
        protocol.pid_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{shortened(text, NAME)!r} is not the id of a hold, such as "
            "4711-3-5af3107a4000; dbpool_stats --holders shows them"
        ) from error
    return text


class _Outcome(NamedTuple):
    """What became of the holds, by their ids; ``silent`` may have been cancelled."""

    cancelled: list[str]
    unknown: list[str]
    silent: list[str]
    answers: list[Answer]

    @property
    def result(self) -> str:
        """The result for JSON."""
        return "incomplete" if self.silent else "unknown" if self.unknown else "done"


def cancel(command: WorkerCommand, options: dict[str, Any]) -> None:
    """Cancel holds and print what became of them.

    Raises CommandError: USAGE for the options of a drain and for an alias or a pid that
    no worker has, NO_WORKER without any worker,
    NO_ANSWER if one that has such a hold didn't answer, NOT_DONE if a hold isn't known
    any more.
    """
    for name in ("pause", "recycle", "resume", "for_seconds", "no_wait"):
        if options[name]:
            option = "for" if name == "for_seconds" else name.replace("_", "-")
            raise CommandError(
                f"--{option} can't be combined with --cancel.", returncode=USAGE
            )
    began = time.monotonic()
    is_json = options["format"] == "json"
    try:
        outcome = _carry_out(command, options)
    except CommandError as error:
        if is_json and error.returncode == NO_WORKER:
            nothing = _Outcome([], _holds(options), [], [])
            write(command.stdout, _json(nothing, "no worker", options, began))
        raise
    text = _json(outcome, outcome.result, options, began) if is_json else _text(outcome)
    unwritten = None
    try:
        if text:
            write(command.stdout, text)
    except CommandError as error:
        unwritten = error
    _check(outcome)
    if unwritten is not None:
        raise unwritten


def _json(outcome: _Outcome, result: str, options: dict[str, Any], began: float) -> str:
    return render.json_text(
        cancel_document(
            outcome.answers,
            control_dir=str(control_dir()),
            result=result,
            aliases=options["alias"],
            seconds=time.monotonic() - began,
            cancelled=outcome.cancelled,
            unknown=outcome.unknown,
            unconfirmed=outcome.silent,
        )
    )


def _carry_out(command: WorkerCommand, options: dict[str, Any]) -> _Outcome:
    """Ask the workers that the ids name, and those alone."""
    directory, holds = control_dir(), _holds(options)
    command.check_aliases(directory, options["alias"], options["pid"])
    wanted = {protocol.pid_of(hold) for hold in holds}
    sockets = [
        path
        for path in command.sockets(directory, options["pid"])
        if paths.pid_of(path) in wanted
    ]
    request = protocol.request(
        "cancel", options["alias"] or None, holders=True, holds=holds
    )
    try:
        answers = client.ask(sockets, request, drain.ANSWER_SECONDS)
    except (paths.ControlDirError, protocol.ProtocolError) as error:
        raise no_worker(directory, str(error)) from error
    answers = [answer for answer in answers if not answer.gone]
    replies = [answer.reply for answer in answers if answer.reply is not None]
    cancelled = {hold for reply in replies for hold in reply.get("cancelled", [])}
    silent = {answer.pid for answer in answers if answer.reply is None}
    left = [hold for hold in holds if hold not in cancelled]
    return _Outcome(
        [hold for hold in holds if hold in cancelled],
        [hold for hold in left if protocol.pid_of(hold) not in silent],
        [hold for hold in left if protocol.pid_of(hold) in silent],
        answers,
    )


def _holds(options: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(options["cancel"]))


def _text(outcome: _Outcome) -> str:
    if not outcome.cancelled:
        return ""
    holders = {
        holder["id"]: holder
        for answer in outcome.answers
        if answer.reply is not None
        for holder in answer.reply.get("holders", [])
    }
    lines = [f"Cancelled {_number(outcome.cancelled)}. {_WHAT}"]
    for hold in outcome.cancelled:
        # It may have ended at once.
        holder = holders.get(hold)
        text = "" if holder is None else f": {_holder_text(holder)}"
        lines.append(f"  {hold}{text}")
    return "\n".join(lines)


def _holder_text(holder: Mapping[str, Any]) -> str:
    return (
        f"{shortened(holder['alias'], NAME)}, backend {holder['backend_pid']}, "
        f"thread {shortened(str(holder['thread']), NAME)}, "
        f"{render.request_of(holder)}, for {render.duration(holder['seconds'])}"
    )


def _number(holds: Sequence[str]) -> str:
    return "1 hold" if len(holds) == 1 else f"{len(holds)} holds"


def _check(outcome: _Outcome) -> None:
    """Raise CommandError unless each hold was cancelled."""
    lines = []
    code = 0
    if outcome.silent:
        code = NO_ANSWER
        silent = [answer for answer in outcome.answers if answer.reply is None]
        lines.append(
            f"Not confirmed, so perhaps not done: {', '.join(outcome.silent)}.\n"
            f"{errors(silent)}"
        )
    if outcome.unknown:
        code = code or NOT_DONE
        lines.append(
            "Not known, so they have ended, or never were; nothing was done: "
            f"{', '.join(outcome.unknown)}."
        )
    if code:
        raise CommandError("\n".join(lines), returncode=code)
