"""Show what was counted by route: what ``dbpool_stats --routes`` does."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from dbpool_mw.control import protocol, render, routes
from dbpool_mw.management.base import (
    NO_ANSWER,
    USAGE,
    WorkerCommand,
    control_dir,
    errors,
    write,
)

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
    """Print the waits and holds by route.

    Raises CommandError: USAGE for options that it can't be combined with, SWITCHED_OFF
    if no pool counts by route, and as ``WorkerCommand.ask`` does.
    """
    for option, given in (
        ("--holders", options["holders"]),
        ("--watch", options["watch"] is not None),
        ("--format prometheus", options["format"] == "prometheus"),
    ):
        if given:
            raise CommandError(
                f"--routes can't be combined with {option}.", returncode=USAGE
            )
    directory = control_dir()
    answers = command.ask(
        directory,
        protocol.request("stats", settings=True, routes=True),
        options["timeout"],
        aliases=options["alias"],
        pids=options["pid"],
    )
    replies = [answer.reply for answer in answers if answer.reply is not None]
    silent = [answer for answer in answers if answer.reply is None]
    if not replies:
        raise CommandError(
            f"None of {len(answers)} workers answered:\n{errors(answers)}",
            returncode=NO_ANSWER,
        )
    rows = routes.merged(row for reply in replies for row in reply.get("routes", []))
    limits = [
        settings.get("ROUTES")
        for reply in replies
        for settings in reply.get("settings", [])
    ]
    if options["format"] == "json":
        document = render.document(str(directory), answers)
        write(command.stdout, render.json_text({**document, "routes": rows}))
    elif any(limits):
        write(command.stdout, routes.table(rows))
    elif not limits:
        write(command.stdout, "No worker has opened a pool.")
    if silent:
        write(
            command.stderr, f"Without the workers that didn't answer:\n{errors(silent)}"
        )
    if limits and not any(limits):
        raise CommandError(
            "Nothing is counted by route. Set DBPOOL_MW_ROUTES to the number of names "
            "to count, such as 50, and reload the workers.",
            returncode=SWITCHED_OFF,
        )
