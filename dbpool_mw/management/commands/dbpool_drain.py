"""Empty the pools of every running worker, and wait until they are empty."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from dbpool_mw import conf
from dbpool_mw.control import drain, paths, protocol, render
from dbpool_mw.control.drain import Progress
from dbpool_mw.management.base import (
    NO_ANSWER,
    AskingCommand,
    check_pids,
    named,
    no_worker,
    positive_seconds,
    say,
)

TIMED_OUT = 1
INTERRUPTED = 130

_RESUME = "manage.py dbpool_drain --resume"
_DONE = {
    "drain": "Drained: no pooled connection is left in",
    "pause": "Paused: no connection is left in",
    "recycle": "Recycled: every connection from before is closed in",
    "resume": "Resumed: pooling again in",
}
_ASKED = {"drain": "draining", "pause": "pausing", "recycle": "recycling"}
_REMARKS = {
    "drain": f"""\
Requests are served on, each by a connection that closes at its end. This lasts until
the workers restart, or until: {_RESUME}""",
    "pause": f"""\
Requests now wait for a connection, at most TIMEOUT seconds (DBPOOL_MW_TIMEOUT); after
that they get a 503. Don't forget: {_RESUME}""",
}


class Command(AskingCommand):
    """Send a verb to every worker, then watch until it is done."""

    help = """\
Empty the connection pools of this project's running worker processes.

Idle connections close at once, those in use when they come back. Requests that arrive
meanwhile are served, each on a connection that closes at its end: none fails because of
a drain. The command returns when no connection from before is left. Workers that start
later are not drained."""

    examples = f"""\
examples:
  manage.py dbpool_drain                     before a deploy: empty every pool
  manage.py dbpool_drain --timeout 120       wait longer for slow requests
  manage.py dbpool_drain --no-wait           only say so, and return
  manage.py dbpool_drain --recycle           fresh connections everywhere, and go on
  manage.py dbpool_drain --pause             before a failover: no connection at all;
                                             new requests wait DBPOOL_MW_TIMEOUT
                                             seconds at most, then get a 503
  {_RESUME}            after a drain or a pause
  manage.py dbpool_drain --alias default --pid 4711

exit codes:
  0  done
  1  time is up; the output says who still holds what, since when, for which request
  2  wrong usage, or an --alias or --pid that no worker has
  3  no worker was found
  4  some worker didn't answer (the output names it); the others did as told"""

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        super().add_arguments(parser)
        verbs = parser.add_mutually_exclusive_group()
        verbs.add_argument(
            "--pause",
            action="store_true",
            help="Drain, and let new checkouts wait until --resume.",
        )
        verbs.add_argument(
            "--recycle",
            action="store_true",
            help="Replace every connection by a fresh one and go on pooling.",
        )
        verbs.add_argument(
            "--resume", action="store_true", help="End a drain or a pause."
        )
        parser.add_argument(
            "--no-wait",
            action="store_true",
            help="Return as soon as the workers have been told.",
        )
        parser.add_argument(
            "--timeout",
            type=positive_seconds,
            default=30.0,
            metavar="SECONDS",
            help="How long to wait until nothing is left (default: 30).",
        )
        parser.add_argument(
            "--format",
            choices=["text", "json"],
            default="text",
            help="How to print the result (default: text).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Tell the workers, wait, and say how it ended."""
        verb = next((v for v in ("pause", "recycle", "resume") if options[v]), "drain")
        directory, aliases = conf.control_dir(), options["alias"]
        waits = verb != "resume" and not options["no_wait"]
        began = time.monotonic()
        try:
            progress = drain.send(verb, self._choose(directory, options), aliases)
            if not progress.answers and not progress.failed:
                check_pids(directory, options["pid"], [])
                raise no_worker(directory)
            if waits:
                progress = self._wait(verb, progress, options)
        except (paths.ControlDirError, protocol.ProtocolError) as error:
            raise no_worker(directory, str(error)) from error
        seconds = time.monotonic() - began
        done = progress.done and not progress.failed
        if options["format"] == "json":
            text = _json(verb, directory, progress, seconds, done=done and waits)
        else:
            text = _text(verb, progress, seconds, waited=waits)
        say(self.stdout, text)
        self._judge(progress, options["timeout"], waited=waits)

    def _choose(self, directory: Path, options: dict[str, Any]) -> list[Path]:
        """Return the sockets of the workers to tell. Raises like `ask`."""
        aliases = options["alias"]
        if not aliases:
            return self.sockets(directory, options["pid"])
        answers = self.ask(
            directory,
            protocol.request("stats"),
            drain.ANSWER_SECONDS,
            aliases=aliases,
            pids=options["pid"],
        )
        # One that was silent is told all the same; it may only have been slow.
        return [a.path for a in answers if a.reply is None or a.aliases]

    def _wait(self, verb: str, progress: Progress, options: dict[str, Any]) -> Progress:
        shown = _Shown(self, verb, quiet=options["verbosity"] == 0)
        try:
            return drain.wait(
                progress, options["alias"], options["timeout"], shown.report
            )
        except KeyboardInterrupt:
            shown.end()
            say(
                self.stderr,
                f"Not waiting any more. What was asked of the workers stands; to end "
                f"it: {_RESUME}",
            )
            sys.exit(INTERRUPTED)
        finally:
            shown.end()

    def _judge(self, progress: Progress, timeout: float, *, waited: bool) -> None:
        """Raise CommandError unless all went well."""
        complaints = []
        code = 0
        if progress.failed:
            code = NO_ANSWER
            complaints.append(
                f"No answer, so it may not be done there:\n{named(progress.failed)}"
            )
        if waited and not progress.done:
            code = TIMED_OUT
            complaints.append(
                f"Not done after {timeout:g} s: {_count(progress.left)} from before "
                f"still open."
            )
            if progress.silent:
                complaints.append(f"Told, but silent since:\n{named(progress.silent)}")
        if code:
            raise CommandError("\n".join(complaints), returncode=code)


class _Shown:
    """The progress on stderr: one line, rewritten on a terminal, else each change."""

    def __init__(self, command: Command, verb: str, *, quiet: bool) -> None:
        self._stderr = command.stderr
        self._verb = verb
        self._quiet = quiet
        self._last = ""

    def report(self, progress: Progress) -> None:
        """Show where it stands, if that is news."""
        line = f"{_ASKED[self._verb]}: {_count(progress.left)} from before left in " + (
            _workers(len(progress.answers))
        )
        if progress.gone:
            line += f", {_workers(len(progress.gone))} ended"
        if progress.silent:
            line += f", {len(progress.silent)} silent"
        if self._quiet or line == self._last:
            return
        self._last = line
        if self._stderr.isatty():
            say(self._stderr, f"\r{line}\x1b[K", "")
        else:
            say(self._stderr, line)

    def end(self) -> None:
        """Leave the line that was written over and over."""
        if self._last and self._stderr.isatty():
            say(self._stderr, "")
        self._last = ""


def _text(verb: str, progress: Progress, seconds: float, *, waited: bool) -> str:
    told = _workers(len(progress.answers) + len(progress.gone))
    if not progress.answers and not progress.gone:
        return "No worker took it."
    if waited and not progress.done:
        lines = [f"Still held, {_ASKED[verb]} in {told}:"]
        lines += render.stale(progress.answers, time.time())
    elif waited or verb == "resume":
        lines = [f"{_DONE[verb]} {told} ({render.duration(seconds)})."]
    else:
        lines = [f"Told {told} ({_ASKED[verb]}), not waiting."]
    if verb in _REMARKS and progress.answers:
        lines.append(_REMARKS[verb])
    return "\n".join(lines)


def _json(
    verb: str, directory: Path, progress: Progress, seconds: float, *, done: bool
) -> str:
    """Return the result for programs: what dbpool_stats says in JSON, and more.

    "verb", "done" (waited until nothing was left, in every worker), "seconds" it took,
    "left" (connections from before), "gone" (pids of workers that ended meanwhile).
    """
    answers = sorted(progress.answers + progress.failed, key=lambda a: a.pid)
    return render.json_text(
        {
            **render.document(str(directory), answers),
            "verb": verb,
            "done": done,
            "seconds": seconds,
            "left": progress.left,
            "gone": progress.gone,
        }
    )


def _count(connections: int) -> str:
    return "1 connection" if connections == 1 else f"{connections} connections"


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"
