"""What both commands share: finding and asking workers, output and exit codes.

The commands read nothing but the control directory from the settings. They open no
database connection, so they work while the database is down, and no pool or control
socket, so they never list themselves as a worker.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)

from dbpool_mw import conf
from dbpool_mw.control import client, drain, orders, paths, protocol, render, sweeping
from dbpool_mw.control.client import Answer
from dbpool_mw.core.text import ERROR, NAME, shortened
from dbpool_mw.management.output import NO_OUTPUT

USAGE = 2
NO_WORKER = 3
NO_ANSWER = 4

_NO_OUTPUT = "The output can't be written"
_WHY_NO_WORKER = """\
A server is seen about a second after it has loaded the middleware; uWSGI's
workers, task queues and projects without the middleware from their first request
or checkout on. A worker isn't seen when
 - no server is running;
 - it runs as another user than you (uid {uid});
 - it runs with another settings module or from another copy of the project, or
   its DBPOOL_MW_CONTROL_DIR differs;
 - DBPOOL_MW_ENABLED is False there;
 - it can't write to the directory (its log has a warning of dbpool_mw.control),
   or has a /tmp of its own (PrivateTmp of systemd, a container): set
   DBPOOL_MW_CONTROL_DIR to a directory that both see."""


class Stream(Protocol):
    """The methods of Django's wrappers around stdout and stderr that `write` calls."""

    def write(self, msg: str, style_func: Any = ..., ending: Any = ...) -> Any: ...
    def flush(self) -> None: ...


class _Formatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Django's order of the options; line breaks stay as they are written."""


class WorkerCommand(BaseCommand):
    """A command that sends a request to running workers.

    `examples` is the text below the options in the command's help.
    """

    # No checks, so that the command runs while the database is down.
    requires_system_checks = []  # noqa: RUF012  Django documents a list here
    examples = ""

    def create_parser(
        self, prog_name: str, subcommand: str, **kwargs: Any
    ) -> CommandParser:
        """Return a parser whose help ends with the examples, line by line."""
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
        """Return the sockets of all workers or of those with `pids`; at least one.

        Raises CommandError: NO_WORKER without any, USAGE for a pid that no worker has.
        """
        try:
            paths.check_directory(directory)
            found = paths.discover(directory)
        except paths.ControlDirMissing:
            found = []
        except paths.ControlDirError as error:
            raise no_worker(directory, str(error)) from error
        if not found:
            sweeping.sweep(directory)
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

        Waits `timeout` seconds at most. The answers have the pools and holders of
        `aliases` only, if given. Raises CommandError: NO_WORKER without any worker,
        USAGE for an alias or a pid that no worker has.
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
        known = {alias for answer in answers for alias in answer.aliases}
        # A worker opens the pool of an alias at its first checkout.
        unknown = set(aliases or ()) - known
        unknown -= set(conf.pooled_aliases()) if unknown else set()
        # A worker that didn't answer may have the alias.
        if unknown and all(answer.reply is not None for answer in answers):
            raise CommandError(
                f"No worker has a pool for {_joined(map(repr, unknown))}; "
                f"open there: {_joined(shortened(a, NAME) for a in known) or 'none'}.",
                returncode=USAGE,
            )
        return [answer.only(aliases or None) for answer in answers]

    def check_aliases(
        self, directory: Path, aliases: Sequence[str] | None, pids: Sequence[int] | None
    ) -> None:
        """Refuse an alias that no settings and no worker pool. Raises as `ask` does.

        A misspelt one would be kept, and do nothing. No worker is asked if the settings
        pool all `aliases`.
        """
        if set(aliases or ()) - set(conf.pooled_aliases()):
            stats, seconds = protocol.request("stats"), drain.ANSWER_SECONDS
            self.ask(directory, stats, seconds, aliases=aliases, pids=pids)


def check_pids(
    directory: Path, pids: Sequence[int] | None, found: Sequence[Path]
) -> None:
    """Raise CommandError (USAGE) for a pid that none of the sockets `found` has."""
    absent = set(pids or ()) - {paths.pid_of(path) for path in found}
    if absent:
        known = {paths.pid_of(path) for path in paths.discover(directory)} - absent
        raise CommandError(
            f"No worker with pid {_joined(absent)} in {directory}; "
            f"there is {_joined(known) or 'none'}.",
            returncode=USAGE,
        )


def control_dir() -> Path:
    """Return the control directory; raise CommandError (USAGE) if there is none."""
    directory = conf.control_dir()
    if directory is None:
        raise CommandError(
            "DBPOOL_MW_CONTROL_DIR is False: the workers have no control sockets, so "
            "no command can see or steer them.",
            returncode=USAGE,
        )
    return directory


def no_worker(directory: Path, reason: str | None = None) -> CommandError:
    """Return the error for no worker: the directory, and what the reasons may be.

    `reason` says why the directory can't be used, None if it can.
    """
    text = f"No running worker found.\nLooked in {directory}."
    if reason is not None:
        text += f"\nIt can't be used: {reason}."
    else:
        text += "\n" + _WHY_NO_WORKER.format(uid=os.geteuid())
        kept = render.orders(kept_orders(directory)[0])
        text += f"\n{kept}" if kept else ""
    others = paths.other_users(directory)
    if others:
        text += "\nOther users have workers of this project, in " + ", ".join(
            str(other) for other in others
        )
        text += ": run the command as that user."
    return CommandError(text, returncode=NO_WORKER)


def kept_orders(directory: Path) -> tuple[list[dict[str, Any]], str | None]:
    """Return the orders kept in the control directory, or why they can't be used."""
    try:
        return orders.described(orders.read(directory), time.monotonic()), None
    except (orders.OrdersError, paths.ControlDirError) as error:
        return [], str(error)


def positive_seconds(text: str) -> float:
    """Parse an option's number of seconds, above 0 and finite."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def write(stream: Stream, text: str, ending: str = "\n") -> bool:
    """Write and flush; return False if the reader has closed the pipe (`| head`).

    Raises CommandError (NO_OUTPUT) if it can't be written for another reason. After
    either the stream writes to /dev/null, so that Python's flush at exit doesn't fail.
    Characters that the stream's encoding lacks are escaped.
    """
    # The fileno() of Django 4.2's wrapper always fails.
    wrapped: Any = getattr(stream, "_out", stream)
    if wrapped is None:
        raise CommandError(f"{_NO_OUTPUT}: it is closed.", returncode=NO_OUTPUT)
    try:
        try:
            stream.write(text, str, ending)
        except UnicodeEncodeError:
            ascii_text = text.encode("ascii", "backslashreplace").decode()
            stream.write(ascii_text, str, ending)
        stream.flush()
    except OSError as error:
        devnull = os.open(os.devnull, os.O_WRONLY)
        with contextlib.suppress(OSError):
            os.dup2(devnull, wrapped.fileno())
        os.close(devnull)
        if isinstance(error, BrokenPipeError):
            return False
        text = f"{_NO_OUTPUT}: {error.strerror or error}."
        raise CommandError(text, returncode=NO_OUTPUT) from error
    return True


def errors(answers: Sequence[Answer]) -> str:
    """Return a line for each worker that didn't answer: its pid and the error."""
    return "\n".join(
        f"  worker {a.pid}: {shortened(a.error or '', ERROR)}" for a in answers
    )


def _joined(values: Any) -> str:
    return ", ".join(str(value) for value in sorted(values))
