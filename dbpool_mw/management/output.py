"""Where the commands' output goes: a terminal, a pipe or a file."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from dbpool_mw.control import tables
from dbpool_mw.control.tables import Paint, Tone

NO_OUTPUT = 5

_HOME_AND_CLEAR = "\x1b[H\x1b[2J"
_HOME = "\x1b[H"
_CLEAR_LINE = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"
# A line that is too long is cut by the terminal, so that each takes one row of it.
_CUT, _WRAP = "\x1b[?7l", "\x1b[?7h"


def is_terminal(stream: Any) -> bool:
    """Tell whether a stream is a terminal that moves its cursor."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def width_of(stream: Any) -> int | None:
    """Return the width for which to lay out, None for any.

    It is what the environment's COLUMNS says; else the terminal's width. A pipe and a
    file have none.
    """
    columns = os.environ.get("COLUMNS", "")
    if not stream.isatty() and not (columns.isdecimal() and int(columns)):
        return None
    return shutil.get_terminal_size().columns


def painter(command: BaseCommand, options: dict[str, Any]) -> Paint:
    """Return what paints with the command's style, on a terminal or if it is forced.

    Django's options --no-color and --force-color count, its variable DJANGO_COLORS, and
    NO_COLOR.
    """
    wanted = is_terminal(command.stdout) and not os.environ.get("NO_COLOR")
    if not options.get("force_color") and not wanted:
        return tables.plain
    style: Any = command.style

    def paint(text: str, tone: Tone) -> str:
        painted: str = getattr(style, tone.upper())(text) if tone else text
        return painted

    return paint


class Screen:
    """Draw one text over another on a terminal, without clearing it in between."""

    def __init__(self) -> None:
        self._is_drawn = False

    @property
    def height(self) -> int:
        """The number of lines of the terminal, now."""
        return shutil.get_terminal_size().lines

    def drawn(self, text: str) -> str:
        """Return what to write to the terminal; lines that it has no room for are cut.

        The next call's text replaces what it shows.
        """
        height = self.height
        lines = text.split("\n")
        if len(lines) > height:
            hidden = len(lines) - height + 1
            lines = [*lines[: height - 1], f"... {hidden} more lines"]
        begin = _HOME if self._is_drawn else _HOME_AND_CLEAR
        self._is_drawn = True
        body = f"{_CLEAR_LINE}\n".join(lines)
        return f"{begin}{_CUT}{body}{_CLEAR_LINE}{_CLEAR_BELOW}{_WRAP}"


def replace_file(path: Path, text: str) -> None:
    """Write a whole file: a reader sees what it was before, or all that it is now.

    A file that is made has the mode that the umask leaves of 0666, as with a shell's
    redirection. Raises CommandError (NO_OUTPUT), and leaves the file as it was, if it
    can't be written, or is anything but a regular file.
    """
    try:
        if path.exists():
            _check_replaceable(path)
        # A link stays one.
        file_path = Path(os.path.realpath(path))
        # Collectors read *.prom, and not this.
        new = file_path.with_name(f".{file_path.name}.{secrets.token_hex(4)}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(new, flags, 0o666), "w", encoding="utf-8") as file:
            try:
                file.write(text)
                file.close()
                os.replace(new, file_path)
            except BaseException:
                with contextlib.suppress(OSError):
                    new.unlink()
                raise
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


def _check_replaceable(path: Path) -> None:
    """Raise CommandError unless a path is a file that may be replaced by another."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise _unwritable(path, "it isn't a regular file")
    # By such a name as /dev/stdout.
    for standard in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(found, os.fstat(standard)):
                raise _unwritable(path, "standard output or standard error goes there")


def _unwritable(path: Path, reason: str) -> CommandError:
    return CommandError(f"Can't write {path}: {reason}.", returncode=NO_OUTPUT)
