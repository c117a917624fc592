"""What the commands share: whom to ask, how to write, which exit code means what.

A command reads the settings for the control directory and nothing else: it opens no
database connection and no pool, so it works while the database is down, and it has no
control socket, so it never counts itself.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)

from dbpool_mw.control import client, paths, protocol
from dbpool_mw.control.client import Answer
from dbpool_mw.control.render import printable

USAGE = 2
NO_WORKER = 3
NO_ANSWER = 4

_WHY_NO_WORKER = """\
A worker opens its control socket at its first checkout, so it isn't seen when
 - no server is running, or none has served a request on a pooled connection yet;
 - it runs as another user than you (uid {uid});
 - it runs with another settings module or from another copy of the project, or its
   DBPOOL_MW_CONTROL_DIR differs;
 - DBPOOL_MW_ENABLED is False there;
 - it can't write to the directory (its log has a warning of dbpool_mw.control), or has
   a /tmp of its own (PrivateTmp of systemd, a container): set DBPOOL_MW_CONTROL_DIR to
   a directory that both see."""


class Stream(Protocol):
    """What `say` needs of Django's wrappers around stdout and stderr."""

    def write(self, msg: str, style_func: Any = ..., ending: Any = ...) -> Any: ...
    def flush(self) -> None: ...


class _Formatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Django's order of the options, and our own line breaks."""


class AskingCommand(BaseCommand):
    """A command that asks running workers and needs nothing else to work."""

    requires_system_checks = []  # noqa: RUF012  Django's own way to say "none"
    examples = ""

    def create_parser(
        self, prog_name: str, subcommand: str, **kwargs: Any
    ) -> CommandParser:
        """Make a parser that shows the examples as they are written."""
        kwargs.setdefault("formatter_class", _Formatter)
        kwargs.setdefault("epilog", self.examples)
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options that choose workers and pools."""
        parser.add_argument(
            "--alias",
            action="append",
            metavar="ALIAS",
            help="Only the pools of this database alias. May be repeated.",
        )
        parser.add_argument(
            "--pid",
            action="append",
            type=int,
            metavar="PID",
            help="Only the worker process with this pid. May be repeated.",
        )

    def sockets(self, directory: Path, pids: Sequence[int] | None) -> list[Path]:
        """Return the workers' sockets, at least one.

        Raises CommandError: NO_WORKER, or USAGE for a pid that nobody has.
        """
        try:
            paths.check_directory(directory)
            found = paths.discover(directory)
        except paths.ControlDirMissing:
            found = []
        except paths.ControlDirError as error:
            raise no_worker(directory, str(error)) from error
        if not found:
            raise no_worker(directory)
        check_pids(directory, pids, found)
        return [path for path in found if not pids or paths.pid_of(path) in pids]

    def ask(
        self,
        directory: Path,
        request: dict[str, Any],
        timeout: float,
        *,
        aliases: Sequence[str] | None,
        pids: Sequence[int] | None,
    ) -> list[Answer]:
        """Ask the workers and return their answers, at least one.

        The answers hold only what belongs to `aliases`. Raises CommandError: NO_WORKER,
        or USAGE for an alias or a pid that nobody has.
        """
        found = self.sockets(directory, pids)
        try:
            answers = client.ask(found, request, timeout)
        except (paths.ControlDirError, protocol.ProtocolError) as error:
            raise no_worker(directory, str(error)) from error
        answers = [answer for answer in answers if not answer.gone]
        check_pids(directory, pids, [answer.path for answer in answers])
        if not answers:
            raise no_worker(directory)
        have = {alias for answer in answers for alias in answer.aliases}
        unknown = set(aliases or ()) - have
        # Silent workers might have it.
        if unknown and all(answer.reply is not None for answer in answers):
            raise CommandError(
                f"No worker has a pool for {_listed(map(repr, unknown))}; "
                f"open there: {_listed(map(printable, have)) or 'none'}.",
                returncode=USAGE,
            )
        return [answer.only(aliases or None) for answer in answers]


def check_pids(
    directory: Path, pids: Sequence[int] | None, found: Sequence[Path]
) -> None:
    """Raise CommandError (USAGE) for a pid that none of the sockets found has."""
    absent = set(pids or ()) - {paths.pid_of(path) for path in found}
    if absent:
        known = {paths.pid_of(path) for path in paths.discover(directory)} - absent
        raise CommandError(
            f"No worker with pid {_listed(absent)} in {directory}; "
            f"there is {_listed(known) or 'none'}.",
            returncode=USAGE,
        )


def no_worker(directory: Path, reason: str | None = None) -> CommandError:
    """Return the error that says where we looked, and why nobody may be there."""
    text = f"No running worker found.\nLooked in {directory}."
    if reason is not None:
        text += f"\nIt can't be used: {reason}."
    else:
        text += "\n" + _WHY_NO_WORKER.format(uid=os.geteuid())
    others = paths.other_users(directory)
    if others:
        text += "\nOther users have workers of this project, in " + ", ".join(
            str(other) for other in others
        )
        text += ": run the command as that user."
    return CommandError(text, returncode=NO_WORKER)


def positive_seconds(text: str) -> float:
    """Parse an option's number of seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def say(stream: Stream, text: str, ending: str = "\n") -> bool:
    """Write and flush; return False when nobody reads any more (`| head`).

    Never raises for that, and leaves nothing for Python to fail on at exit.
    """
    try:
        try:
            stream.write(text, str, ending)
        except UnicodeEncodeError:
            ascii_text = text.encode("ascii", "backslashreplace").decode()
            stream.write(ascii_text, str, ending)
        stream.flush()
    except BrokenPipeError:
        devnull = os.open(os.devnull, os.O_WRONLY)
        # Django 4.2's wrapper has a fileno() of its own, that always fails.
        wrapped: Any = getattr(stream, "_out", stream)
        with contextlib.suppress(OSError):
            os.dup2(devnull, wrapped.fileno())
        os.close(devnull)
        return False
    return True


def named(answers: Sequence[Answer]) -> str:
    """Name the workers that did not answer, and say why."""
    return "\n".join(f"  worker {a.pid}: {printable(a.error or '')}" for a in answers)


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in sorted(values))
