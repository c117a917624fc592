"""Show the figures of the pools of every running worker."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from dbpool_mw.control import columns, protocol, render, tables
from dbpool_mw.control.advice import advice, advice_text
from dbpool_mw.control.client import Answer
from dbpool_mw.control.pool_table import pool_table
from dbpool_mw.control.prometheus import prometheus
from dbpool_mw.control.rates import Rates
from dbpool_mw.control.tables import Paint
from dbpool_mw.management import routing
from dbpool_mw.management.base import (
    NO_ANSWER,
    NO_WORKER,
    USAGE,
    WorkerCommand,
    control_dir,
    errors,
    kept_orders,
    positive_seconds,
    write,
)
from dbpool_mw.management.output import (
    NO_OUTPUT,
    Screen,
    is_terminal,
    painter,
    replace_file,
    width_of,
)

#: Lines of a terminal that the table of pools leaves to what else is shown.
_OTHER_LINES = 6


def _column_help() -> str:
    """Return a line for each column: its name, and what it says."""
    lines = []
    for name, each in columns.COLUMNS.items():
        if name in columns.RECENT or name in columns.RATES:
            continue
        head = f"  {name:<20} "
        title = each.column.title
        known = title in (name.upper(), name.upper().replace("_", " "))
        text = head + each.help + ("" if known else f" ({title})")
        lines += textwrap.wrap(text, 79, subsequent_indent=" " * len(head))
    return "\n".join(lines)


def _listed(names: Collection[str]) -> str:
    """Return the names in the order of the table, in lines of a terminal."""
    text = ", ".join(name for name in columns.COLUMNS if name in names)
    return textwrap.indent(textwrap.fill(text, 75), "    ")


class Command(WorkerCommand):
    """Ask every worker for its pools' figures and print them."""

    help = """\
Show the connection pools of this project's running worker processes.

A server's worker is shown about a second after it has loaded the middleware,
before its first request. A worker of uWSGI or of a task queue, or of a project
without the middleware, is shown from its first request or checkout on.

Each worker is asked over its control socket; the database is not needed. The
table has a row for each worker and pool, and a row of totals. On a terminal it
shows the columns that fit, the most important ones first; --columns names
others. A worker that doesn't answer in time has a row with the error."""

    examples = f"""\
examples:
  manage.py dbpool_stats                   what the pools are doing
  manage.py dbpool_stats --watch           the same every 2 seconds, with rates
  manage.py dbpool_stats --holders         also who holds each connection
  manage.py dbpool_stats --routes          what each route held and waited for
  manage.py dbpool_stats --advise          whether MAX_CONNS fits the load
  manage.py dbpool_stats --columns all     every figure
  manage.py dbpool_stats --columns resets,rollbacks,connect_errors
  manage.py dbpool_stats --alias default --pid 4711
  manage.py dbpool_stats --format json > pools.json
  manage.py dbpool_stats --format json --watch 10 >> pools.jsonl
  # For node_exporter's textfile collector:
  manage.py dbpool_stats --format prometheus \\
      --output /var/lib/node_exporter/dbpool.prom

reading the table:
  USED of at most MAX connections are in use. WAITING is how many checkouts
  wait for one now, WAITS how many had to wait. WAIT is the time that a checkout
  took, HOLD the time from there to its checkin, each as mean (M)/95th
  percentile/maximum. What has "60s" or "15m" in its title is of the last minute
  or quarter of an hour; "/S" is in a second, since the last look; all else
  counts from the start of the worker. Yellow is worth a look, and red is wrong
  now.

reading the advice:
  MEAN is how many connections the busiest pool had in use on average: its
  checkouts in a second times the mean time that each held one. PEAK is the most
  at once, and FREE what MAX leaves above the mean/above the peak. RATE/S is of
  all pools together; MEAN, PEAK and MAX are of one, as each worker has its own.
  Pools younger than a minute aren't judged, nor less than 100 checkouts. With
  --format json it is under "advice", with a verdict for scripts.

columns, for --columns (names separated by commas, or all):
{_column_help()}
  of the last minute, and with _15m in place of _60s of the last 15 minutes:
{_listed({name for name in columns.RECENT if name.endswith("60s")})}
  with --watch, each counter's rate:
{_listed(columns.RATES)}

exit codes:
  0  at least one worker answered; a --watch was ended by Ctrl-C
  1  with --routes: DBPOOL_MW_ROUTES is 0, so that nothing is counted
  2  wrong usage, an --alias or --pid that no worker has, or
     DBPOOL_MW_CONTROL_DIR is False, so that no worker can be asked
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
            "--columns",
            action="append",
            metavar="NAMES",
            help="The columns of the table, separated by commas, or all; see below. "
            "May be repeated.",
        )
        parser.add_argument(
            "--holders",
            action="store_true",
            help="Also show every connection in use: worker, thread, request, how "
            "long, and the id by which dbpool_drain --cancel ends this hold. For table "
            "and json.",
        )
        routing.add_argument(parser)
        parser.add_argument(
            "--advise",
            action="store_true",
            help="Show instead, for each alias, whether MAX_CONNS is too low or higher "
            "than needed, and why, from the last 15 minutes of all workers; see below. "
            "Run it at a busy time. For table and json.",
        )
        parser.add_argument(
            "--watch",
            nargs="?",
            type=positive_seconds,
            const=2.0,
            metavar="SECONDS",
            help="Show it again every SECONDS (default: 2) until Ctrl-C, with rates.",
        )
        parser.add_argument(
            "--output",
            metavar="FILE",
            help="Write to FILE in place of standard output. The file is replaced as a "
            "whole, each time with --watch; without a worker it says that there is "
            "none.",
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
        _check_alone(options)
        if options["routes"]:
            routing.show(self, options)
            return
        names = _names(options)
        if options["holders"] and options["format"] == "prometheus":
            raise CommandError(
                "--holders can't be combined with --format prometheus: request paths "
                "would be labels without bound.",
                returncode=USAGE,
            )
        view = _View(self, options, names)
        if options["watch"] is None:
            view.show()
            return
        try:
            while view.show_again():
                time.sleep(options["watch"])
        except KeyboardInterrupt:
            if view.screen is not None:
                write(self.stdout, "")


def _check_alone(options: dict[str, Any]) -> None:
    """Refuse the options that --routes and --advise can't be combined with."""
    for name in ("routes", "advise"):
        for option, given in (
            ("--routes", name == "advise" and options["routes"]),
            ("--holders", options["holders"]),
            ("--columns", options["columns"] is not None),
            ("--watch", options["watch"] is not None),
            ("--format prometheus", options["format"] == "prometheus"),
        ):
            if options[name] and given:
                raise CommandError(
                    f"--{name} can't be combined with {option}.", returncode=USAGE
                )


def _names(options: dict[str, Any]) -> list[str] | None:
    """Return the columns chosen with --columns, None without it.

    Raises CommandError (USAGE).
    """
    given = options["columns"]
    if given is None:
        return None
    if options["format"] != "table":
        raise CommandError(
            f"--columns is for the table; --format {options['format']} has every "
            "figure.",
            returncode=USAGE,
        )
    texts = [given] if isinstance(given, str) else given
    try:
        return columns.chosen(texts, with_rates=options["watch"] is not None)
    except ValueError as error:
        raise CommandError(str(error), returncode=USAGE) from None


class _View:
    """What one call of the command shows, once or again and again.

    `screen` is the terminal on which --watch draws, None if there is none.
    """

    def __init__(
        self, command: Command, options: dict[str, Any], names: list[str] | None
    ) -> None:
        self._command = command
        self._options = options
        self._names = names
        self._paint: Paint = tables.plain
        self._rates = Rates([metric.key for metric in columns.COUNTERS])
        self._last_error = ""
        self._has_shown = False
        self.screen: Screen | None = None
        if options["output"] is None and options["format"] == "table":
            self._paint = painter(command, options)
            if options["watch"] is not None and is_terminal(command.stdout):
                self.screen = Screen()

    def show(self) -> bool:
        """Ask the workers and print; return False if the output's reader is gone.

        Raises CommandError as `ask` does, and NO_ANSWER if no worker answered.
        """
        command, options = self._command, self._options
        directory = control_dir()
        try:
            answers = command.ask(
                directory,
                protocol.request("stats", holders=options["holders"]),
                options["timeout"],
                aliases=options["alias"],
                pids=options["pid"],
            )
        except CommandError as error:
            if error.returncode == NO_WORKER and options["output"]:
                # What the file said is no longer so.
                self._put(self._text(directory, []))
            raise
        is_readable = self._put(self._text(directory, answers))
        self._has_shown = True
        if all(answer.reply is None for answer in answers):
            raise CommandError(
                f"None of {len(answers)} workers answered:\n{errors(answers)}",
                returncode=NO_ANSWER,
            )
        return is_readable

    def show_again(self) -> bool:
        """Show for --watch, errors too: workers may be restarting."""
        try:
            is_readable = self.show()
        except CommandError as error:
            # A pid or an alias that was there before may come back.
            if error.returncode == NO_OUTPUT or (
                error.returncode == USAGE and not self._has_shown
            ):
                raise
            return self._show_error(error)
        self._last_error = ""
        return is_readable

    def _show_error(self, error: CommandError) -> bool:
        text = str(error)
        if self.screen is not None:
            # The table has said which workers didn't answer.
            if error.returncode == NO_ANSWER:
                return True
            wrapped = _wrapped(text, width_of(self._command.stdout))
            return self._put(f"{self._heading()}\n{wrapped}")
        if text == self._last_error:
            return True
        self._last_error = text
        return write(self._command.stderr, text)

    def _text(self, directory: Path, answers: Sequence[Answer]) -> str:
        kept, problem = kept_orders(directory)
        if problem is not None:
            text = f"The kept pauses and drains can't be used: {problem}."
            write(self._command.stderr, text)
        if self._options["format"] == "json":
            document = render.document(str(directory), answers, kept)
            if self._options["advise"]:
                document["advice"] = advice(answers)
            return render.json_text(document)
        if self._options["format"] == "prometheus":
            return prometheus(answers)
        return self._table(answers, kept)

    def _table(self, answers: Sequence[Answer], kept: list[dict[str, Any]]) -> str:
        is_watch = self._options["watch"] is not None
        to_file = self._options["output"] is not None
        width = None if to_file else width_of(self._command.stdout)
        if self._options["advise"]:
            return advice_text(advice(answers), answers, width=width, paint=self._paint)
        pools = pool_table(
            answers,
            names=self._names,
            ranked=columns.RANKED_WATCH if is_watch else columns.RANKED,
            rates=self._rates.look(answers) if is_watch else None,
            width=width,
            height=self.screen.height - _OTHER_LINES if self.screen else None,
            paint=self._paint,
        )
        others = (render.late(answers), render.orders(kept))
        texts = [pools, *(_wrapped(text, width) for text in others)]
        if self._options["holders"]:
            texts.append(render.holders(answers, width, self._paint))
        text = "\n\n".join(filter(None, texts))
        return f"{self._heading()}\n{text}" if is_watch else text

    def _heading(self) -> str:
        text = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        if self.screen is None:
            return text
        return f"{text}, every {self._options['watch']:g} s; Ctrl-C ends it"

    def _put(self, text: str) -> bool:
        if self._options["output"] is not None:
            replace_file(Path(self._options["output"]), text.rstrip("\n") + "\n")
            return True
        if self.screen is not None:
            return write(self._command.stdout, self.screen.drawn(text), "")
        if self._has_shown and self._options["format"] == "table":
            text = "\n" + text
        return write(self._command.stdout, text)


def _wrapped(text: str, width: int | None) -> str:
    lines = [tables.wrapped(line, width) for line in text.split("\n")]
    return "\n".join(line for several in lines for line in several)
