"""Judge every setting's value and build the frozen configuration of one pool.

This is the only place that says whether a value is right. It knows keys, not the names
that a project writes in its settings: ``dbpool_mw.conf`` adds the prefix, and
``dbpool_mw.checks`` turns each :class:`Problem` into a system check message.
"""

from __future__ import annotations

import difflib
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any

# Linux allows 107 bytes in a Unix socket's path, macOS 103. What this leaves is for
# the socket's own file name.
MAX_CONTROL_DIR_BYTES = 80

#: How a session is made fit for the next holder; a callable is the other way.
RESET_MODES = ("auto", "always", "never")

_FROM_ENVIRONMENT = "Environment variables are strings: convert with "


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Hold the settings of one pool; every duration is in seconds.

    One that is None in the settings, which means never, is ``math.inf`` here, so that
    arithmetic and comparisons need no special case. A blocking call takes no infinite
    time-out: cap it before you wait for it. ``reset`` is one of RESET_MODES or a
    function of a connection and of whether its session was touched.
    """

    min_conns: int = 0
    max_conns: int = 10
    timeout: float = 5.0
    max_waiting: int = 0
    max_idle: float = 600.0
    max_lifetime: float = 3600.0
    check_after_idle: float = 30.0
    reset: str | Callable[[Any, bool], object] = "auto"
    leak_after: float = math.inf
    max_hold: float = math.inf


@dataclass(frozen=True, slots=True)
class Problem:
    """Say what is wrong with one key.

    ``message`` is worded to follow the setting's name. ``code`` is one of ``unknown``,
    ``type``, ``range``, ``order``, ``pools``, ``exempt``, ``view`` and ``control_dir``.
    """

    key: str
    code: str
    message: str
    hint: str


POOL_KEYS = tuple(field.name.upper() for field in fields(PoolConfig))
APP_KEYS = (
    "ENABLED",
    "LAZY",
    "EXEMPT",
    "POOLS",
    "UNAVAILABLE_VIEW",
    "CONTROL_DIR",
    "WORKERS",
)

# The names that other pools give to the same thing.
_OTHER_NAMES = {
    "MIN_SIZE": "MIN_CONNS",
    "MINCONN": "MIN_CONNS",
    "MAX_SIZE": "MAX_CONNS",
    "MAXCONN": "MAX_CONNS",
    "POOL_SIZE": "MAX_CONNS",
    "POOL_TIMEOUT": "TIMEOUT",
    "RECYCLE": "MAX_LIFETIME",
    "CONN_MAX_AGE": "MAX_LIFETIME",
    "RESET_ON_RETURN": "RESET",
}

_Fault = tuple[str, str, str]  # code, message, hint
_Judge = Callable[[Any], "_Fault | None"]


def problems(values: Mapping[str, object]) -> list[Problem]:
    """Judge the settings of one pool and return what is wrong with them.

    Keys are those of :class:`PoolConfig` in upper case; one that is missing has its
    default and is right.
    """
    found = _judge(values, POOL_KEYS)
    if not any(problem.key in ("MIN_CONNS", "MAX_CONNS") for problem in found):
        low: Any = values.get("MIN_CONNS", PoolConfig().min_conns)
        high: Any = values.get("MAX_CONNS", PoolConfig().max_conns)
        if low > high:
            found.append(
                Problem(
                    "MIN_CONNS",
                    "order",
                    f"is {low}, which is more than MAX_CONNS, {high}.",
                    "Lower MIN_CONNS or raise MAX_CONNS. MIN_CONNS = 0 opens "
                    "connections only when they are needed.",
                )
            )
    return found


def app_problems(values: Mapping[str, object]) -> list[Problem]:
    """Judge the settings that are not about one pool (``APP_KEYS``)."""
    return _judge(values, APP_KEYS)


def build(values: Mapping[str, object]) -> PoolConfig:
    """Return the configuration of one pool; raise ValueError listing the problems."""
    found = problems(values)
    if found:
        raise ValueError(
            "\n".join(f"{each.key} {each.message} {each.hint}" for each in found)
        )
    return PoolConfig(**{key.lower(): _built(key, values[key]) for key in values})


def unknown(key: object, known: Sequence[str], prefix: str = "") -> Problem:
    """Describe a key that is none of the known ones, with the one it may stand for.

    ``prefix`` is what stands before a key where this one was written.
    """
    meant = _meant(key, known)
    if meant is None:
        hint = f"The settings are {', '.join(prefix + each for each in known)}."
    else:
        hint = f"Did you mean {prefix}{meant}?"
    return Problem(str(key), "unknown", "is not a setting.", hint)


def _judge(values: Mapping[str, object], known: tuple[str, ...]) -> list[Problem]:
    found = []
    for key, value in values.items():
        if key not in known:
            if known is POOL_KEYS and key in APP_KEYS:
                found.append(
                    Problem(
                        key,
                        "unknown",
                        "can't be set for one alias.",
                        f"{key} holds for all of them: make it a setting of its own.",
                    )
                )
            else:
                found.append(unknown(key, known))
            continue
        fault = _JUDGES[key](value)
        if fault is not None:
            found.append(Problem(key, *fault))
    return found


def _meant(key: object, known: Sequence[str]) -> str | None:
    if not isinstance(key, str):
        return None
    upper = key.upper()
    other = _OTHER_NAMES.get(upper)
    if other in known:
        return other
    # Lower case, or a prefix that doesn't belong here.
    for candidate in known:
        if upper == candidate or upper.endswith(f"_{candidate}"):
            return candidate
    close = difflib.get_close_matches(upper, known, n=1, cutoff=0.6)
    return close[0] if close else None


def _built(key: str, value: Any) -> Any:
    if value is None:
        return math.inf
    as_it_is = ("MIN_CONNS", "MAX_CONNS", "MAX_WAITING", "RESET")
    return value if key in as_it_is else float(value)


def _is_int(value: object) -> bool:
    # True and False are ints to Python, never to a reader of settings.
    return isinstance(value, int) and not isinstance(value, bool)


def _holds_number(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _not(value: object) -> str:
    return f"not {value!r}"


def _flag(value: object) -> _Fault | None:
    if isinstance(value, bool):
        return None
    hint = "Write True or False."
    if isinstance(value, str):
        hint += f' {_FROM_ENVIRONMENT}os.environ.get("NAME") == "1".'
    return "type", f"must be True or False, {_not(value)}.", hint


def _whole(least: int, hint: str, *, or_none: bool = False) -> _Judge:
    def judge(value: Any) -> _Fault | None:
        if value is None and or_none:
            return None
        if not _is_int(value):
            said = f"must be a whole number, {_not(value)}."
            if _holds_number(value):
                return "type", said, f'{_FROM_ENVIRONMENT}int(os.environ["NAME"]).'
            return "type", said, hint
        if value < least:
            return "range", f"must be {least} or more, {_not(value)}.", hint
        return None

    return judge


def _seconds(hint: str, *, zero: bool = False, or_none: bool = False) -> _Judge:
    def judge(value: Any) -> _Fault | None:
        if value is None and or_none:
            return None
        if not _is_int(value) and not isinstance(value, float):
            said = f"must be a number of seconds, {_not(value)}."
            if _holds_number(value):
                return "type", said, f'{_FROM_ENVIRONMENT}float(os.environ["NAME"]).'
            return "type", said, hint
        # Python refuses to wait longer than TIMEOUT_MAX. The comparison is written so
        # that nan, which is neither more nor less than anything, is refused too.
        if not 0 <= value <= threading.TIMEOUT_MAX or (value == 0 and not zero):
            least = "0 or more" if zero else "more than 0"
            return "range", f"must be {least} and finite, {_not(value)}.", hint
        return None

    return judge


def _exempt(value: object) -> _Fault | None:
    hint = 'Write a list of path prefixes, for example ["/health/", "/static/"].'
    if isinstance(value, str):
        hint = f"Put the text into a list: [{value!r}]."
    if not isinstance(value, (list, tuple)):
        return "exempt", f"must be a list or tuple of paths, {_not(value)}.", hint
    for item in value:
        if not isinstance(item, str) or not item.startswith("/"):
            return (
                "exempt",
                f'must hold paths that start with "/", {_not(item)}.',
                "A request's path starts with a slash; one that begins with one of "
                "these gets no connection.",
            )
    return None


def _pools(value: object) -> _Fault | None:
    hint = 'Write for example {"default": {"MAX_CONNS": 20}, "legacy": None}.'
    if not isinstance(value, dict):
        return "pools", f"must be a dict, {_not(value)}.", hint
    for alias, item in value.items():
        if item is not None and not isinstance(item, dict):
            return (
                "pools",
                f"must give a dict of settings or None for {alias!r}, {_not(item)}.",
                "A dict sets what differs from the general settings ({} for nothing); "
                "None leaves the alias without a pool.",
            )
    return None


def _reset(value: object) -> _Fault | None:
    if callable(value) or (isinstance(value, str) and value in RESET_MODES):
        return None
    return (
        "type",
        f"must be one of {', '.join(map(repr, RESET_MODES))}, or a function of a "
        f"connection and of whether its session was touched, {_not(value)}.",
        'Write "auto" to reset the sessions that were changed.',
    )


def _view(value: object) -> _Fault | None:
    if value is None or (isinstance(value, str) and "." in value.strip(".")):
        return None
    return (
        "view",
        f"must be the dotted path of a view, {_not(value)}.",
        'Write for example "project.views.busy", or None for the built-in answer.',
    )


def _control_dir(value: object) -> _Fault | None:
    if value is None:
        return None
    if not isinstance(value, (str, PurePath)):
        return (
            "control_dir",
            f"must be a path, {_not(value)}.",
            "Write a str, a pathlib.Path, or None for the default directory.",
        )
    if not os.path.isabs(value):
        return (
            "control_dir",
            f"must be an absolute path, not {str(value)!r}.",
            "The workers and the commands may run in different directories. Write the "
            'path from "/" on, or None for the default directory.',
        )
    size = len(os.fsencode(value))
    if size > MAX_CONTROL_DIR_BYTES:
        return (
            "control_dir",
            f"is {size} bytes long, and at most {MAX_CONTROL_DIR_BYTES} fit.",
            "The operating system limits the path of a Unix socket. Choose a shorter "
            'one, for example "/run/myproject".',
        )
    return None


_JUDGES: dict[str, _Judge] = {
    "ENABLED": _flag,
    "LAZY": _flag,
    "EXEMPT": _exempt,
    "POOLS": _pools,
    "UNAVAILABLE_VIEW": _view,
    "CONTROL_DIR": _control_dir,
    "WORKERS": _whole(
        1,
        "Give the number of worker processes, or None to go by WEB_CONCURRENCY.",
        or_none=True,
    ),
    "MIN_CONNS": _whole(0, "0 opens connections only when they are needed."),
    "MAX_CONNS": _whole(
        1, "Give the most connections that one process may have open at a time."
    ),
    "MAX_WAITING": _whole(0, "0 sets no limit to how many may wait."),
    "TIMEOUT": _seconds(
        "Give the seconds that a request may wait for a connection, for example 5.0."
    ),
    "MAX_IDLE": _seconds(
        "Give seconds, for example 600.0, or None to keep idle connections for good.",
        or_none=True,
    ),
    "MAX_LIFETIME": _seconds(
        "Give seconds, for example 3600.0, or None to let connections grow old.",
        or_none=True,
    ),
    "RESET": _reset,
    "LEAK_AFTER": _seconds(
        "Give seconds, for example 30.0, or None to look for no leaks.", or_none=True
    ),
    "MAX_HOLD": _seconds(
        "Give seconds, for example 300.0, or None to cancel nothing.", or_none=True
    ),
    "CHECK_AFTER_IDLE": _seconds(
        "Give seconds, for example 30.0. 0 asks the server at every checkout.",
        zero=True,
    ),
}
