"""Show what was counted by route: what ``dbpool_stats --routes`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from dbpool_mw.control import protocol, render, routes, tables
from dbpool_mw.control.client import Answer
from dbpool_mw.control.route_table import route_table
from dbpool_mw.management.base import (
    NO_ANSWER,
    NO_WORKER,
    WorkerCommand,
    control_dir,
    errors,
    kept_orders,
    write,
)
from dbpool_mw.management.output import painter, replace_file, width_of

SWITCHED_OFF = 1


def add_argument(parser: Any) -> None:
    """Add the option ``--routes`` to a parser."""
    parser.add_argument(
        "--routes",
        action="store_true",
        help="Show instead how long each route, task or function held connections and "
        "waited for them, in all workers; those that held longest in sum come first. "
        "For table and json. DBPOOL_MW_ROUTES switches the counting on.",
    )


def show(command: WorkerCommand, options: dict[str, Any]) -> None:
    """Print the waits and holds by route, or write them to the file of ``--output``.

    Raises CommandError: SWITCHED_OFF if no pool counts by route, NO_ANSWER if no worker
    answered, NO_OUTPUT for a file that can't be written, and as ``WorkerCommand.ask``
    does.
    """
    directory = control_dir()
    try:
        answers = command.ask(
            directory,
            protocol.request("stats", settings=True, routes=True),
            options["timeout"],
            aliases=options["alias"],
            pids=options["pid"],
        )
    except CommandError as error:
        if error.returncode == NO_WORKER and options["output"] is not None:
            # What the file said is no longer so.
            _put(command, options, _text(command, options, directory, [], error))
        raise
    problem = _problem(answers)
    text = _text(command, options, directory, answers, problem)
    if text:
        _put(command, options, text)
    if problem is not None:
        raise problem


def _problem(answers: Sequence[Answer]) -> CommandError | None:
    """Return the error for answers in which nothing is counted."""
    replies = [answer.reply for answer in answers if answer.reply is not None]
    if not replies:
        return CommandError(
            f"None of {len(answers)} workers answered:\n{errors(answers)}",
            returncode=NO_ANSWER,
        )
    limits = _limits(answers)
    if limits and not any(limits):
        return CommandError(
            "Nothing is counted by route. Set DBPOOL_MW_ROUTES to the number of names "
            "to count, such as 50, and reload the workers.",
            returncode=SWITCHED_OFF,
        )
    return None


def _limits(answers: Sequence[Answer]) -> list[Any]:
    """Return the setting ROUTES of each pool."""
    return [
        settings.get("ROUTES")
        for answer in answers
        if answer.reply is not None
        for settings in answer.reply.get("settings", [])
    ]


def _text(
    command: WorkerCommand,
    options: dict[str, Any],
    directory: Path,
    answers: Sequence[Answer],
    problem: CommandError | None,
) -> str:
    """Return what is printed, "" for nothing: a problem stands in standard error."""
    rows = routes.merged(
        row
        for answer in answers
        if answer.reply is not None
        for row in answer.reply.get("routes", [])
    )
    if options["format"] == "json":
        document = render.document(str(directory), answers, kept_orders(directory)[0])
        return render.json_text({**document, "routes": rows})
    to_file = options["output"] is not None
    if problem is not None:
        return str(problem) if to_file else ""
    if not _limits(answers) and all(answer.reply is not None for answer in answers):
        return "No worker has opened a pool."
    return route_table(
        rows,
        answers,
        width=None if to_file else width_of(command.stdout),
        paint=tables.plain if to_file else painter(command, options),
    )


def _put(command: WorkerCommand, options: dict[str, Any], text: str) -> None:
    if options["output"] is None:
        write(command.stdout, text)
    else:
        replace_file(Path(options["output"]), text + "\n")
