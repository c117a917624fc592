"""Empty the pools of every running worker, and wait until they are empty."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from dbpool_mw.control import drain, paths, protocol, render
from dbpool_mw.control.drain import Progress
from dbpool_mw.management.base import (
    NO_ANSWER,
    WorkerCommand,
    check_pids,
    control_dir,
    errors,
    no_worker,
    positive_seconds,
    write,
)

TIMED_OUT = 1
INTERRUPTED = 130

_RESUME = "manage.py dbpool_drain --resume"
_DONE = {
    "drain": "Drained: no pooled connection is left in",
    "pause": "Paused: no connection is left in",
    "recycle": "Recycled: every stale connection is closed in",
    "resume": "Resumed: pooling again in",
}
_ONGOING = {"drain": "draining", "pause": "pausing", "recycle": "recycling"}
_REMARKS = {
    "drain": f"""\
Requests are still served, each on a connection that is closed when the request ends.
The drain lasts until the workers restart, or until: {_RESUME}""",
    "pause": f"""\
Requests now wait for a connection, at most TIMEOUT seconds (DBPOOL_MW_TIMEOUT); after
that they get a 503. To end the pause: {_RESUME}""",
}


class Command(WorkerCommand):
    """Send a verb to every worker, then wait until it is done."""

    help = """\
Empty the connection pools of this project's running worker processes.

Idle connections are closed at once, those in use when they are returned. Requests that
arrive meanwhile are served, each on a connection that is closed when the request ends:
no request fails because of a drain. The command returns when every connection opened
before it (a stale one) is closed. Workers that start later are not drained."""

    examples = f"""\
examples:
  manage.py dbpool_drain                     before a deploy: empty every pool
  manage.py dbpool_drain --timeout 120       wait longer for slow requests
  manage.py dbpool_drain --no-wait           tell the workers and return
  manage.py dbpool_drain --recycle           replace every connection, go on pooling
  manage.py dbpool_drain --pause             before a failover: no connection at all;
                                             new requests wait DBPOOL_MW_TIMEOUT
                                             seconds at most, then get a 503
  {_RESUME}            after a drain or a pause
  manage.py dbpool_drain --alias default --pid 4711

exit codes:
  0  done
  1  timed out; the output names the holders, their requests and since when
  2  wrong usage, an --alias or --pid that no worker has, or DBPOOL_MW_CONTROL_DIR
     is False, so that no worker can be asked
  3  no worker was found
  4  some worker didn't answer (the output names it); the others are done"""

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
            help="Return as soon as the workers have confirmed.",
        )
        parser.add_argument(
            "--timeout",
            type=positive_seconds,
            default=30.0,
            metavar="SECONDS",
            help="How long to wait until stale connections are closed (default: 30).",
        )
        parser.add_argument(
            "--format",
            choices=["text", "json"],
            default="text",
            help="How to print the result (default: text).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Send the verb, wait until it is done and print the result."""
        verb = next((v for v in ("pause", "recycle", "resume") if options[v]), "drain")
        directory, aliases = control_dir(), options["alias"]
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
        write(self.stdout, text)
        self._check(progress, options["timeout"], waited=waits)

    def _choose(self, directory: Path, options: dict[str, Any]) -> list[Path]:
        """Return the sockets of the workers that get the verb. Raises like `ask`.

        With --alias these are the workers that have a pool for one of the aliases.
        """
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
        # A worker that didn't answer may have a pool for an alias and only be slow.
        return [a.path for a in answers if a.reply is None or a.aliases]

    def _wait(self, verb: str, progress: Progress, options: dict[str, Any]) -> Progress:
        display = _ProgressDisplay(self, verb, quiet=options["verbosity"] == 0)
        try:
            return drain.wait(
                progress, options["alias"], options["timeout"], display.report
            )
        except KeyboardInterrupt:
            display.end()
            write(
                self.stderr,
                f"Interrupted: no longer waiting; the workers go on {_ONGOING[verb]}. "
                f"To end that: {_RESUME}",
            )
            sys.exit(INTERRUPTED)
        finally:
            display.end()

    def _check(self, progress: Progress, timeout: float, *, waited: bool) -> None:
        """Raise CommandError with TIMED_OUT or NO_ANSWER unless the verb is done."""
        lines = []
        code = 0
        if progress.failed:
            code = NO_ANSWER
            lines.append(
                f"Not confirmed, so perhaps not done, in:\n{errors(progress.failed)}"
            )
        if waited and not progress.done:
            code = TIMED_OUT
            lines.append(
                f"Not done after {timeout:g} s: {_stale(progress)} still open."
            )
            if progress.silent:
                lines.append(f"No answer after confirming:\n{errors(progress.silent)}")
        if code:
            raise CommandError("\n".join(lines), returncode=code)


class _ProgressDisplay:
    """The progress on stderr: a line for each change, rewritten on a terminal."""

    def __init__(self, command: Command, verb: str, *, quiet: bool) -> None:
        self._stderr = command.stderr
        self._verb = verb
        self._quiet = quiet
        self._last = ""

    def report(self, progress: Progress) -> None:
        """Print the progress, unless it is the same as before."""
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
            write(self._stderr, f"\r{line}\x1b[K", "")
        else:
            write(self._stderr, line)

    def end(self) -> None:
        """End the line that was rewritten on a terminal."""
        if self._last and self._stderr.isatty():
            write(self._stderr, "")
        self._last = ""


def _text(verb: str, progress: Progress, seconds: float, *, waited: bool) -> str:
    if not progress.answers and not progress.gone:
        return f"No worker confirmed {verb}."
    workers = _workers(len(progress.answers) + len(progress.gone))
    if waited and not progress.done:
        lines = [f"Still open, {_ONGOING[verb]} in {workers}:"]
        lines += render.stale(progress.answers, time.time())
    elif waited or verb == "resume":
        lines = [f"{_DONE[verb]} {workers} ({render.duration(seconds)})."]
    else:
        lines = [f"Confirmed by {workers} ({_ONGOING[verb]}), not waiting."]
    if verb in _REMARKS and progress.answers:
        lines.append(_REMARKS[verb])
    return "\n".join(lines)


def _json(
    verb: str, directory: Path, progress: Progress, seconds: float, *, done: bool
) -> str:
    """Return the result as JSON: the document of dbpool_stats with five more keys.

    These are "verb", "done" (True if the command waited until no worker had a stale
    connection), "seconds" (how long it took), "left" (stale connections) and "gone"
    (pids of the workers that ended meanwhile).
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


def _stale(progress: Progress) -> str:
    number = progress.left
    return "1 stale connection" if number == 1 else f"{number} stale connections"


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"
