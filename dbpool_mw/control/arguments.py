"""Show a process's arguments without the secrets that may stand in them.

What is a secret is told by the name before it, and by a URL's form. Rather too much is
hidden than too little. A letter alone, such as `-p`, tells nothing: it means a port or
a file for most programs.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

MASK = "***"

_SECRET = (
    r"pass(?:words?|wd|phrase|code)?(?![a-z])|pwd|secret|token|(?<!mon)key|credential|"
    r"dsn|auth(?!or(?!i))"
)
# Bounded, because anybody's argument must take a time that is linear in its length.
_NAME = re.compile(
    rf"[\w.-]{{0,60}}?(?:{_SECRET})[\w.-]{{0,60}}", re.IGNORECASE | re.ASCII
)
# A name and its value inside a longer argument: of a connection string, a query string,
# a JSON object, or a header.
_PAIR = re.compile(
    rf"""(
        (?:{_SECRET}) [\w.-]{{0,60}}
        (?: ["']\s*: | ["']?\s*= | :\s ) \s*
        (?: (?:bearer|basic|token) \s+ )?
    )
    (?: '(?:[^'\\]|\\.)*'? | "(?:[^"\\]|\\.)*"? | [^\s&'"]+ )
    """,
    re.IGNORECASE | re.ASCII | re.DOTALL | re.VERBOSE,
)
_SPACES = re.compile(r"(\s+)")


def command_line() -> str:
    """Return the command line of this process, masked, at most 200 characters."""
    program, *arguments = sys.argv or [""]
    directory, name = os.path.split(program)
    if name == "__main__.py":  # as with python -m celery
        name = os.path.basename(directory)
    return " ".join([name or "python", *masked(arguments)])[:200]


def masked(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with each password, key or other secret as `***`.

    Masked are the value of an option or a variable whose name says so (`--password=x`,
    `--password x`, `PGPASSWORD=x`), such pairs inside an argument (`host=db
    password='x'`), and the password of a URL.
    """
    shown = []
    is_value = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        is_secret = _NAME.fullmatch(name) is not None
        if is_value and not argument.startswith("-"):
            shown.append(MASK)
            is_value = False
            continue
        is_value = is_secret and not equals and name.startswith("-")
        if is_secret and equals:
            shown.append(f"{name}={MASK}")
        else:
            shown.append(_PAIR.sub(rf"\1{MASK}", _without_passwords(argument)))
    return shown


def _without_passwords(text: str) -> str:
    """Mask the passwords of URLs."""
    return "".join(map(_without_password, _SPACES.split(text)))


def _without_password(word: str) -> str:
    """Mask everything from the user of a URL to its last "@"."""
    scheme, separator, rest = word.partition("://")
    userinfo, at, host = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    if not (separator and at and colon):
        return word
    return f"{scheme}://{user}:{MASK}@{host}"
