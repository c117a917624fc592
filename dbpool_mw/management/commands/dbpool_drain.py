"""Empty the pools of every running worker, and wait until they are empty."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from dbpool_mw.control import drain, orders, paths, protocol, render
from dbpool_mw.control.drain import Progress
from dbpool_mw.control.drain_document import drain_document
from dbpool_mw.control.orders import Order
from dbpool_mw.core.text import NAME, shortened
from dbpool_mw.management import cancelling
from dbpool_mw.management.base import (
    NO_ANSWER,
    NO_WORKER,
    USAGE,
    WorkerCommand,
    check_pids,
    control_dir,
    errors,
    kept_orders,
    no_worker,
    positive_seconds,
    write,
)

NOT_DONE = 1
INTERRUPTED = 130

_RESUME = "manage.py dbpool_drain --resume"
_DONE = {
    "drain": "Drained: no pooled connection is left in",
    "pause": "Paused: no connection is left in",
    "recycle": "Recycled: every stale connection is closed in",
    "resume": "Resumed: pooling again in",
}
_PAST = {"drain": "drained", "pause": "paused"}
_ONGOING = {"drain": "draining", "pause": "pausing", "recycle": "recycling"}
_REMARKS = {
    "drain": """\
Requests are still served, each on a connection that closes when it ends.""",
    "pause": """\
Requests now wait for a connection, at most TIMEOUT seconds (DBPOOL_MW_TIMEOUT);
after that they get a 503.""",
}
_WILL_FOLLOW = (
    "The order is in the control directory: a worker that runs follows it within "
    "about a second."
)
_NOT_KEPT = "Not done for workers that start later: {}."
#: Seconds that a pause lasts unless --for says otherwise.
_PAUSE_SECONDS = 300.0
#: The longest time for --for: a year.
_MAX_SECONDS = 366 * 86400


class Command(WorkerCommand):
    """Send a verb to every worker, then wait until it is done."""

    help = """\
Empty the connection pools of this project's running worker processes.

Idle connections are closed at once, those in use when they are returned.
Requests that arrive meanwhile are served, each on a connection that is closed
when the request ends: no request fails because of a drain. The command returns
when every connection opened before it (a stale one) is closed.

A drain and a pause go on after the command has ended, a drain until --resume,
a pause for 300 seconds or until --resume; --for gives either an end, counted
from the start of the command. Meanwhile they are kept in the control directory:
a worker that starts later, because of a deploy, a reload or a crash, is drained
or paused from its first request on. So end a deploy with --resume. Orders to
single workers (--pid) are not kept, and neither is --recycle, which ends a
drain or a pause as --resume does. When the machine restarts, nothing is kept.

The last order for an alias replaces every one before it, and when it ends, the
pools of the alias run: a pause of 60 seconds during a drain ends the drain too.

--cancel drains nothing: it ends single holds, by the ids that dbpool_stats
--holders shows. dbpool_stats --routes shows which pages hold connections for
long."""

    examples = f"""\
examples:
  manage.py dbpool_drain                   before a deploy: empty every pool
  manage.py dbpool_drain --for 600         for 10 minutes at most: an abandoned
                                           deploy leaves nothing behind
  manage.py dbpool_drain --timeout 120     wait longer for slow requests
  manage.py dbpool_drain --no-wait         tell the workers and return
  manage.py dbpool_drain --recycle         replace every connection, then go on
  manage.py dbpool_drain --pause           before a failover: no connection at
                                           all; new requests wait for at most
                                           DBPOOL_MW_TIMEOUT seconds, then get a
                                           503; ends by itself after 5 minutes
  manage.py dbpool_drain --pause --for 60  the same, for a minute
  {_RESUME}          after a drain or a pause
  manage.py dbpool_drain --alias default --pid 4711
  manage.py dbpool_drain --cancel 4711-3-5af3107a4000
                                           end what this holder runs, and no
                                           other: dbpool_stats --holders shows
                                           the ids
  manage.py dbpool_drain --format json > result.json

exit codes:
  0  done
  1  not done: --timeout is over, and the output names the holders, their
     requests and since when; or the drain or the pause has ended while the
     command waited, because of --for or of another command; or a hold that
     --cancel names has ended
  2  wrong usage, an --alias or --pid that no worker has, or
     DBPOOL_MW_CONTROL_DIR is False, so that no worker can be asked
  3  no running worker was found, which is so for a moment when all restart at
     once; a drain or a pause is kept for those that start later all the same,
     and --resume has removed what was kept. A script may try again
  4  some worker didn't answer (the output names it), or the order couldn't be
     kept for workers that start later (the output says why); the rest is done
  5  done, but the output can't be written, as on a full disk
  130  interrupted by Ctrl-C while it waited; the drain or the pause goes on"""

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        super().add_arguments(parser)
        verbs = parser.add_mutually_exclusive_group()
        verbs.add_argument(
            "--pause",
            action="store_true",
            help="Drain, and let new checkouts wait until the pause ends.",
        )
        verbs.add_argument(
            "--recycle",
            action="store_true",
            help="Replace every connection by a fresh one and go on pooling.",
        )
        verbs.add_argument(
            "--resume", action="store_true", help="End a drain or a pause."
        )
        cancelling.add_argument(parser)
        parser.add_argument(
            "--for",
            dest="for_seconds",
            type=_duration,
            metavar="SECONDS",
            help="End the drain or the pause after SECONDS (default: 300 for a pause, "
            "never for a drain).",
        )
        parser.add_argument(
            "--no-wait",
            action="store_true",
            help="Return as soon as the workers have confirmed.",
        )
        parser.add_argument(
            "--timeout",
            type=positive_seconds,
            default=30.0,
            metavar="SECONDS",
            help="How long to wait until stale connections are closed (default: 30). "
            "The wait ends before that when the drain or the pause does (--for).",
        )
        parser.add_argument(
            "--format",
            choices=["text", "json"],
            default="text",
            help="How to print the result (default: text). JSON is one document, also "
            "when it isn't done or no worker is found; messages go to standard error.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Keep and send the verb, wait until it is done and print the result."""
        if options["cancel"]:
            cancelling.cancel(self, options)
            return
        verb = next((v for v in ("pause", "recycle", "resume") if options[v]), "drain")
        given = _Given(
            verb,
            control_dir(),
            options["alias"],
            _seconds(verb, options["for_seconds"]),
            is_kept=not options["pid"],
            is_json=options["format"] == "json",
            waits=verb != "resume" and not options["no_wait"],
        )
        try:
            progress = self._carry_out(given, options)
        except (paths.ControlDirError, protocol.ProtocolError) as error:
            raise self._no_worker(
                given, no_worker(given.directory, str(error))
            ) from error
        except CommandError as error:
            raise self._no_worker(given, error) from error
        code, message = _problem(given, progress, options["timeout"])
        unwritten = None
        try:
            write(self.stdout, given.text(progress, code))
        except CommandError as error:
            unwritten = error
        if code:
            raise CommandError(message, returncode=code)
        if unwritten is not None:
            raise unwritten

    def _carry_out(self, given: _Given, options: dict[str, Any]) -> Progress:
        """Keep and send the verb and wait; raise CommandError without a worker."""
        self.check_aliases(given.directory, options["alias"], options["pid"])
        given.keep()
        progress = drain.send(
            given.verb,
            self.sockets(given.directory, options["pid"]),
            given.aliases,
            seconds=given.seconds,
            began=given.began,
            kept=given.is_kept,
        )
        if not progress.answers and not progress.failed:
            check_pids(given.directory, options["pid"], [])
            raise no_worker(given.directory)
        return self._wait(given, progress, options) if given.waits else progress

    def _no_worker(self, given: _Given, error: CommandError) -> CommandError:
        """Print the result as JSON if there is no worker; return the whole error."""
        if given.is_json and error.returncode == NO_WORKER:
            write(
                self.stdout, given.json(Progress(given.verb, [], [], []), "no worker")
            )
        if given.unkept is None:
            return error
        text = f"{error}\n{_NOT_KEPT.format(given.unkept)}"
        return CommandError(text, returncode=error.returncode)

    def _wait(
        self, given: _Given, progress: Progress, options: dict[str, Any]
    ) -> Progress:
        display = _ProgressDisplay(self, given.verb, quiet=options["verbosity"] == 0)
        try:
            return drain.wait(
                progress, given.aliases, options["timeout"], display.report
            )
        except KeyboardInterrupt:
            display.end()
            write(
                self.stderr,
                f"Interrupted: no longer waiting; the workers go on "
                f"{_ONGOING[given.verb]}. To end that: {_RESUME}",
            )
            if given.is_json:
                latest = display.latest or progress
                write(self.stdout, given.json(latest, "interrupted"))
            sys.exit(INTERRUPTED)
        finally:
            display.end()


@dataclass
class _Given:
    """What the command was told to do, and since when it does it.

    The verb lasts `seconds`, None for ever. `is_kept` tells whether it is for workers
    that start later too, `has_kept` whether it has been kept for them, and `unkept` is
    the reason why it couldn't be.
    """

    verb: str
    directory: Path
    aliases: Sequence[str] | None
    seconds: float | None
    is_kept: bool
    is_json: bool
    waits: bool
    has_kept: bool = False
    unkept: str | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def took(self) -> float:
        """The seconds since the command began."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float | None:
        """For how many seconds the verb goes on, None for ever."""
        return None if self.seconds is None else max(0.0, self.seconds - self.took)

    def keep(self) -> None:
        """Keep a drain or a pause in the control directory, or remove it."""
        if not self.is_kept:
            return
        order = Order(
            self.verb if self.verb in orders.KEPT else orders.RESUME,
            tuple(self.aliases) if self.aliases else None,
            self.began,
            None if self.seconds is None else self.began + self.seconds,
        )
        try:
            orders.keep(self.directory, order)
            self.has_kept = True
        except orders.OrdersError as error:
            self.unkept = str(error)

    def text(self, progress: Progress, code: int) -> str:
        """Return the result as it is printed."""
        if self.is_json:
            return self.json(progress, _result(self, progress, code))
        text = _text(self.verb, progress, self.took, waited=self.waits)
        if self.verb in _REMARKS and progress.answers and not progress.ended:
            text += "\n" + _remark(self.verb, self.left, self.has_kept)
        return text

    def json(self, progress: Progress, result: str) -> str:
        """Return the document of a result."""
        goes_on = self.verb in _REMARKS and not progress.ended
        goes_on = goes_on and bool(self.has_kept or progress.answers)
        return render.json_text(
            drain_document(
                progress,
                control_dir=str(self.directory),
                result=result,
                aliases=self.aliases,
                seconds=self.took,
                lasts=self.left if goes_on else None,
                kept=self.has_kept and self.verb in orders.KEPT,
                unkept=self.unkept,
                orders=kept_orders(self.directory)[0],
            )
        )


def _problem(given: _Given, progress: Progress, timeout: float) -> tuple[int, str]:
    """Return the exit code and the message, 0 and "" if the verb is done."""
    lines = []
    code = 0
    if given.unkept is not None:
        code = NO_ANSWER
        lines.append(_NOT_KEPT.format(given.unkept))
    if progress.failed:
        code = NO_ANSWER
        lines.append(
            f"Not confirmed, so perhaps not done, in:\n{errors(progress.failed)}"
        )
        if given.is_kept and given.unkept is None and given.verb != "recycle":
            lines.append(_WILL_FOLLOW)
    if progress.ended:
        code = NOT_DONE
        lines.append(_ended_text(progress))
    elif given.waits and not progress.done:
        code = NOT_DONE
        lines.append(f"Not done after {timeout:g} s: {_stale(progress)} still open.")
        if progress.silent:
            lines.append(f"No answer after confirming:\n{errors(progress.silent)}")
    return code, "\n".join(lines)


def _result(given: _Given, progress: Progress, code: int) -> str:
    """Return the result for JSON."""
    if code == NOT_DONE:
        return "ended" if progress.ended else "timeout"
    if code:
        return "incomplete"
    return "done" if given.waits or given.verb == "resume" else "confirmed"


class _ProgressDisplay:
    """The progress on stderr: a line for each change, rewritten on a terminal."""

    def __init__(self, command: Command, verb: str, *, quiet: bool) -> None:
        self._stderr = command.stderr
        self._verb = verb
        self._quiet = quiet
        self._last = ""
        self.latest: Progress | None = None

    def report(self, progress: Progress) -> None:
        """Print the progress, unless it is the same as before."""
        self.latest = progress
        workers = _workers(len(progress.answers))
        line = f"{_ONGOING[self._verb]}: {_stale(progress)} left in {workers}"
        if progress.gone:
            line += f", {_workers(len(progress.gone))} ended"
        if progress.silent:
            line += f", {len(progress.silent)} silent"
        if self._quiet or line == self._last:
            return
        self._last = line
        if self._stderr.isatty():
            self._write(f"\r{line}\x1b[K", "")
        else:
            self._write(line)

    def end(self) -> None:
        """End the line that was rewritten on a terminal."""
        if self._last and self._stderr.isatty():
            self._write("")
        self._last = ""

    def _write(self, text: str, ending: str = "\n") -> None:
        # The wait goes on, whether or not anybody can read of it.
        with contextlib.suppress(CommandError):
            write(self._stderr, text, ending)


def _text(verb: str, progress: Progress, seconds: float, *, waited: bool) -> str:
    if not progress.answers and not progress.gone:
        return f"No worker confirmed {verb}."
    workers = _workers(len(progress.answers) + len(progress.gone))
    if progress.ended:
        return f"Not {_PAST[verb]}: the {verb} has ended."
    if waited and not progress.done:
        lines = [f"Still open, {_ONGOING[verb]} in {workers}:"]
        lines += render.stale(progress.answers, time.time())
    elif waited or verb == "resume":
        lines = [f"{_DONE[verb]} {workers} ({render.duration(seconds)})."]
    else:
        lines = [f"Confirmed by {workers} ({_ONGOING[verb]}), not waiting."]
    return "\n".join(lines)


def _seconds(verb: str, given: float | None) -> float | None:
    """Return after how many seconds the verb ends by itself, None for never.

    Raises CommandError (USAGE) for seconds with a verb that doesn't go on.
    """
    if given is not None and verb not in _REMARKS:
        raise CommandError(f"--for can't be combined with --{verb}.", returncode=USAGE)
    return _PAUSE_SECONDS if given is None and verb == "pause" else given


def _duration(text: str) -> float:
    """Parse the seconds of --for."""
    seconds = positive_seconds(text)
    if seconds > _MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"at most {_MAX_SECONDS} s, a year")
    return seconds


def _remark(verb: str, seconds: float | None, kept: bool) -> str:
    """Say what requests see, where and how long."""
    where = "also in workers that start meanwhile" if kept else "in these workers only"
    until = "" if seconds is None else f"for {render.duration(seconds)} or "
    return (
        f"{_REMARKS[verb]}\n"
        f"The {verb} goes on, {where}, {until}until you run\n"
        f"  {_RESUME}"
    )


def _ended_text(progress: Progress) -> str:
    """Say where a drain or a pause is over before it was done, and what is open."""
    lines = []
    for answer in progress.ended:
        assert answer.reply is not None, "bug: an ended order without a reply"
        states = {
            f"{shortened(pool['alias'], NAME)} is {shortened(pool['state'], NAME)}"
            for pool in answer.reply["pools"]
        }
        lines.append(f"  worker {answer.pid}: {', '.join(sorted(states))}")
    return (
        f"The {progress.verb} has ended meanwhile, by its time (--for) or by another "
        f"order, with {_stale(progress)} open:\n" + "\n".join(lines)
    )


def _stale(progress: Progress) -> str:
    number = progress.left
    return "1 stale connection" if number == 1 else f"{number} stale connections"


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"
