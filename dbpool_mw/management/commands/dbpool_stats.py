"""Show the figures of the pools of every running worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from dbpool_mw.control import protocol, render
from dbpool_mw.control.client import Answer
from dbpool_mw.control.prometheus import prometheus
from dbpool_mw.management import routing
from dbpool_mw.management.base import (
    NO_ANSWER,
    NO_OUTPUT,
    USAGE,
    WorkerCommand,
    control_dir,
    errors,
    kept_orders,
    positive_seconds,
    write,
)

Kept = list[dict[str, Any]]

_CLEAR = "\x1b[H\x1b[2J"


class Command(WorkerCommand):
    """Ask every worker for its pools' figures and print them."""

    help = """\
Show the connection pools of this project's running worker processes.

A server's worker is shown about a second after it has loaded the middleware, before its
first request. A worker of uWSGI or of a task queue, or of a project without the
middleware, is shown from its first request or checkout on.

Each worker is asked over its control socket; the database is not needed. The table has
a row for each worker and alias, and a row of totals. WAIT is the time a checkout took,
HOLD the time from checkout to checkin, both as mean/95th percentile/maximum since the
worker started. A worker that doesn't answer in time has a row with the error."""

    examples = """\
examples:
  manage.py dbpool_stats                     print the table once
  manage.py dbpool_stats --watch             print it every 2 seconds, until Ctrl-C
  manage.py dbpool_stats --holders           also who holds each connection, how long
  manage.py dbpool_stats --routes            what each route held and waited for
  manage.py dbpool_stats --alias default --pid 4711
  manage.py dbpool_stats --format json | jq .totals.in_use
  manage.py dbpool_stats --format json --watch 10 >> pools.jsonl
  # For node_exporter's textfile collector, which must never read a half-written file:
  # write a temporary file in the same directory, then rename it.
  manage.py dbpool_stats --format prometheus > /var/lib/node_exporter/dbpool.new \\
    && mv /var/lib/node_exporter/dbpool.new /var/lib/node_exporter/dbpool.prom

columns:
  STATE      running, draining or paused, and how long that lasts if it ends by itself
  SIZE       connections open, counting those being opened; USED and IDLE of them
  MAX        connections that the pool may open
  WAITING    checkouts waiting for a connection right now
  WAITS      checkouts that had to wait so far; TIMEOUTS those that timed out
  DISCARDED  connections closed, by reason
  STALE      (of a holder) whether a drain waits for this connection

exit codes:
  0  at least one worker answered
  1  with --routes: DBPOOL_MW_ROUTES is 0, so that nothing is counted
  2  wrong usage, an --alias or --pid that no worker has, or DBPOOL_MW_CONTROL_DIR
     is False, so that no worker can be asked
  3  no worker was found
  4  workers were found, and none answered
  5  the output can't be written, as on a full disk"""

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        super().add_arguments(parser)
        parser.add_argument(
            "--format",
            choices=["table", "json", "prometheus"],
            default="table",
            help="What to print (default: table).",
        )
        parser.add_argument(
            "--holders",
            action="store_true",
            help="Also show every connection in use: worker, thread, request, how "
            "long. For table and json.",
        )
        routing.add_argument(parser)
        parser.add_argument(
            "--watch",
            nargs="?",
            type=positive_seconds,
            const=2.0,
            metavar="SECONDS",
            help="Print again every SECONDS (default: 2) until Ctrl-C.",
        )
        parser.add_argument(
            "--timeout",
            type=positive_seconds,
            default=2.0,
            metavar="SECONDS",
            help="How long to wait for the workers' answers (default: 2).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the figures once, or repeatedly with --watch."""
        if options["routes"]:
            routing.show(self, options)
            return
        if options["holders"] and options["format"] == "prometheus":
            raise CommandError(
                "--holders can't be combined with --format prometheus: request paths "
                "would be labels without bound.",
                returncode=USAGE,
            )
        if options["watch"] is None:
            self._print_once(options)
            return
        try:
            while self._watch_once(options):
                time.sleep(options["watch"])
        except KeyboardInterrupt:
            return

    def _print_once(self, options: dict[str, Any], heading: str = "") -> bool:
        """Ask the workers and print; return False if the output's reader is gone.

        Raises CommandError as `ask` does, and NO_ANSWER if no worker answered.
        """
        directory = control_dir()
        answers = self.ask(
            directory,
            protocol.request("stats", holders=options["holders"]),
            options["timeout"],
            aliases=options["alias"],
            pids=options["pid"],
        )
        kept, problem = kept_orders(directory)
        if problem is not None:
            write(self.stderr, f"The kept pauses and drains can't be used: {problem}.")
        text = _FORMATS[options["format"]](directory, answers, options["holders"], kept)
        readable = write(self.stdout, heading + text)
        if all(answer.reply is None for answer in answers):
            raise CommandError(
                f"None of {len(answers)} workers answered:\n{errors(answers)}",
                returncode=NO_ANSWER,
            )
        return readable

    def _watch_once(self, options: dict[str, Any]) -> bool:
        """Print once for --watch, errors too: workers may be restarting."""
        heading = ""
        tty = self.stdout.isatty()
        if options["format"] == "table":
            heading = f"{datetime.now():%Y-%m-%d %H:%M:%S}\n"
        if tty:
            heading = _CLEAR + heading
        try:
            return self._print_once(options, heading)
        except CommandError as error:
            if error.returncode == NO_OUTPUT:
                raise
            if tty and error.returncode != NO_ANSWER:
                write(self.stdout, heading, "")
            return write(self.stderr, str(error))


def _table(
    directory: Path, answers: Sequence[Answer], holders: bool, kept: Kept
) -> str:
    text = render.table(answers)
    in_use = render.holders(answers) if holders else ""
    parts = [text, render.late(answers), render.orders(kept), in_use]
    return "\n\n".join(filter(None, parts))


def _json(directory: Path, answers: Sequence[Answer], holders: bool, kept: Kept) -> str:
    return render.json_text(render.document(str(directory), answers, kept))


def _prometheus(
    directory: Path, answers: Sequence[Answer], holders: bool, kept: Kept
) -> str:
    return prometheus(answers)


_FORMATS: dict[str, Callable[[Path, Sequence[Answer], bool, Kept], str]] = {
    "table": _table,
    "json": _json,
    "prometheus": _prometheus,
}
