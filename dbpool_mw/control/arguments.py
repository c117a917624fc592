"""Show a process's arguments without the secrets that may stand in them.

What is a secret is told by the name before it, and by a URL's form. Rather too much is
hidden than too little. A letter alone, such as `-p`, tells nothing: it means a port or
a file for most programs; but `-u` with a colon in its value means a login.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

MASK = "***"

_PASSWORD = r"pass(?:words?|wd|phrase|code)?(?![a-z])|pwd|(?<![a-z])pw(?![a-z])"
_SECRET = (
    rf"{_PASSWORD}|secret|token|(?<!mon)key|credential|dsn|auth(?!or(?!i))|"
    r"session|cookie|bearer|signature|webhook|"
    r"(?<![a-z])(?:creds?|jwt|pat|salt|sig)(?![a-z])"
)
_USER = r"-u|--(?:[\w-]{0,60}-)?(?:user(?:name)?|login|cert)"
_FLAGS = re.IGNORECASE | re.ASCII | re.DOTALL | re.VERBOSE
# Bounded, because anybody's argument must take a time that is linear in its length.
_NAME = re.compile(rf"[\w.-]{{0,60}}?(?:{_SECRET})[\w.-]{{0,60}}", _FLAGS)
# A name and its value inside a longer argument: of a connection string, a query string,
# a JSON object, or a command line.
_PAIR = re.compile(
    rf"""(
        (?:{_SECRET}) [\w.-]{{0,60}} (?: ["']\s*: | ["']?\s*= ) \s*
        (?: (?:bearer|basic|token) \s+ )?
        |
        (?<![\w.-]) -{{1,2}} (?:[\w.-]{{0,60}}?) (?:{_SECRET}) [\w.-]{{0,60}}
        (?: :\s* | \s+ (?! -.(?:\s|$) | -{{1,2}}[\w.-]{{0,60}}?(?:{_SECRET}) ) )
        |
        (?<![\w.]) (?:{_PASSWORD}) :
    )
    (?: '(?:[^'\\]|\\.)*'? | "(?:[^"\\]|\\.)*"? | [^\s&'"][^\s&]* )
    """,
    _FLAGS,
)
# A header and its value, which may be of several words. Without a space after the colon
# it may be a module and its application, or a host and its port.
_HEADER = re.compile(
    rf"""(
        (?:{_SECRET}) [\w.-]{{0,60}} :\s
        |
        (?<![\w./-]) (?: (?:[\w-]{{0,60}}-)? (?:authorization|cookie)
            | [\w-]{{0,60}}-(?:{_SECRET}) ) : (?!\d{{1,5}}\b)
    )
    [^\r\n]+
    """,
    _FLAGS,
)
# A user and a password after an option that says so.
_LOGIN = re.compile(
    rf"((?:^|(?<=[\s\"'])) (?:{_USER}) (?:\s|=)? [^\s:=]{{1,200}} :) [^\s\"']+", _FLAGS
)
# What may have a value as the next argument: an option, or the name of a setting.
_BARE = re.compile(r"--?\w[\w.-]*|[A-Z][A-Z\d]*_[A-Z\d_]+", re.ASCII)
# An option, in the place of a value. A value may begin with two dashes as well.
_OPTION = re.compile(r"-.?", re.DOTALL)
_WORD = re.compile(r"\S+")
# What stands before a colon without being a user.
_NO_USER = re.compile(r"\b(?:file|mailto|unix)$", re.IGNORECASE)


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
    password='x'`), headers, the password of a URL and of `name:password@host`, a user
    without a password in a URL of http, who is a token, and the password in the
    `name:password` of a user. After an option without a value, such as `--no-auth`, the
    next argument is masked too, be it an option.
    """
    shown = []
    before = ""
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        is_secret = _NAME.fullmatch(name) is not None
        is_value = before != "" and not _OPTION.fullmatch(argument)
        if is_value and _NAME.fullmatch(before):
            shown.append(MASK)
        elif is_secret and equals:
            shown.append(f"{name}={MASK}")
        elif is_value:
            # The regular expression for a login needs the option before it.
            text = _without_secrets(f"{before} {argument}")
            shown.append(text.removeprefix(f"{before} "))
        else:
            shown.append(_without_secrets(argument))
        # Also what was masked may be an option that has a value.
        before = argument if _BARE.fullmatch(argument) else ""
    return shown


def _without_secrets(text: str) -> str:
    for pattern in (_HEADER, _LOGIN, _PAIR):
        text = pattern.sub(rf"\1{MASK}", text)
    return _WORD.sub(_without_logins, _without_url_password(text))


def _without_logins(word: re.Match[str]) -> str:
    """Mask the password of each `name:password@host` in a word, URL or not."""
    return "://".join(map(_without_login, word[0].split("://")))


def _without_login(text: str) -> str:
    userinfo, at, host = text.rpartition("@")
    user, _, password = userinfo.partition(":")
    if not password or (":" not in password and _NO_USER.search(user)):
        return text
    return f"{user}:{MASK}{at}{host}"


def _without_url_password(text: str) -> str:
    """Mask everything from the user of a URL to the last "@", even with spaces."""
    start, separator, rest = text.partition("://")
    userinfo, at, host = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    if not (separator and at):
        return text
    if colon:
        return f"{start}://{user}:{MASK}@{host}"
    is_token = start.lower().endswith(("http", "https")) and "/" not in user
    return f"{start}://{MASK}@{host}" if is_token else text
