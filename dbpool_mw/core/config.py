"""Validate the value of every setting and build the configuration of one pool.

A value is validated here, read from Django's settings in ``dbpool_mw.conf``, and
reported as a system check message in ``dbpool_mw.checks``. This file therefore works
with keys such as ``MAX_CONNS``, without the prefix ``DBPOOL_MW_``.
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

# Linux allows 107 bytes in the path of a Unix socket, macOS 103. The bytes above this
# limit are for the file name of the socket.
MAX_CONTROL_DIR_BYTES = 80

#: The least length of METRICS_TOKEN.
MIN_TOKEN = 16

#: The names that RESET accepts. It accepts a function as well.
RESET_MODES = ("auto", "always", "never")

_FROM_ENVIRONMENT = "Environment variables are strings: convert with "


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """The settings of one pool. All durations are in seconds.

    A duration that is None in the settings, which means "never", is ``math.inf`` here,
    so that arithmetic and comparisons need no special case. Blocking calls reject an
    infinite timeout: replace ``math.inf`` before passing a duration to one.
    ``max_waiting`` of 0 means no limit, ``routes`` of 0 that nothing is counted by
    route. ``reset`` is one of RESET_MODES or a function
    that is called with the connection and with whether its session is dirty.
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
    stuck_after: float = 10.0
    routes: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """An invalid key or value, with the text that a user is shown.

    ``message`` continues a sentence that begins with the name of the setting.
    ``code`` is a key of ``dbpool_mw.checks.IDS``: this file uses ``unknown``, ``type``,
    ``range``, ``order``, ``pools``, ``exempt``, ``view``, ``control_dir``, ``eager``
    and ``token``.
    """

    key: str
    code: str
    message: str
    hint: str


POOL_KEYS = tuple(field.name.upper() for field in fields(PoolConfig))
APP_KEYS = (
    "ENABLED",
    "EAGER",
    "EXEMPT",
    "POOLS",
    "UNAVAILABLE_VIEW",
    "CONTROL_DIR",
    "WORKERS",
    "METRICS_TOKEN",
    "METRICS_LOOPBACK",
)

#: Arguments of psycopg_pool, and so of Django's own pool, with the equivalent key.
PSYCOPG_POOL_NAMES = {
    "min_size": "MIN_CONNS",
    "max_size": "MAX_CONNS",
    "timeout": "TIMEOUT",
    "max_waiting": "MAX_WAITING",
    "max_idle": "MAX_IDLE",
    "max_lifetime": "MAX_LIFETIME",
}

# Names of the same settings in other pools, in upper case, to suggest the right key.
_OTHER_NAMES = {
    **{name.upper(): key for name, key in PSYCOPG_POOL_NAMES.items()},
    "MINCONN": "MIN_CONNS",  # ThreadedConnectionPool
    "MAXCONN": "MAX_CONNS",
    "POOL_SIZE": "MAX_CONNS",  # SQLAlchemy
    "POOL_TIMEOUT": "TIMEOUT",
    "RECYCLE": "MAX_LIFETIME",
    "RESET_ON_RETURN": "RESET",
    "CONN_MAX_AGE": "MAX_LIFETIME",  # Django
}

# Settings of earlier versions, and what to write instead.
_REPLACED: dict[object, str] = {
    "LAZY": "Write {prefix}EAGER = () for LAZY = True, and nothing for LAZY = False.",
}

_Error = tuple[str, str, str]  # code, message, hint
_Validator = Callable[[Any], "_Error | None"]


def problems(values: Mapping[str, object]) -> list[Problem]:
    """Validate the settings of one pool and return the problems, none if all is valid.

    The keys of ``values`` are POOL_KEYS, the fields of :class:`PoolConfig` in upper
    case. A missing key has its default value.
    """
    found = _validate(values, POOL_KEYS)
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
    """Validate settings of the whole project (APP_KEYS) and return the problems."""
    return _validate(values, APP_KEYS)


def build(values: Mapping[str, object]) -> PoolConfig:
    """Return the configuration of one pool.

    The keys of ``values`` are POOL_KEYS. Raises ValueError with one line per problem.
    """
    found = problems(values)
    if found:
        raise ValueError(
            "\n".join(
                f"{problem.key} {problem.message} {problem.hint}" for problem in found
            )
        )
    return PoolConfig(**{key.lower(): _converted(key, values[key]) for key in values})


def unknown(key: object, known: Sequence[str], prefix: str = "") -> Problem:
    """Return the problem of an unknown key, with the most similar known key as a hint.

    ``prefix`` is put before the keys in the hint.
    """
    suggestion = _suggestion(key, known)
    if key in _REPLACED:
        hint = _REPLACED[key].format(prefix=prefix)
    elif suggestion is None:
        hint = f"The settings are {', '.join(prefix + name for name in known)}."
    else:
        hint = f"Did you mean {prefix}{suggestion}?"
    return Problem(str(key), "unknown", "is not a setting.", hint)


def _validate(values: Mapping[str, object], known: tuple[str, ...]) -> list[Problem]:
    found = []
    for key, value in values.items():
        if key not in known:
            if known is POOL_KEYS and key in APP_KEYS:
                found.append(
                    Problem(
                        key,
                        "unknown",
                        "can't be set for one alias.",
                        f"{key} applies to all aliases: set it for the whole project.",
                    )
                )
            else:
                found.append(unknown(key, known))
            continue
        error = _VALIDATORS[key](value)
        if error is not None:
            found.append(Problem(key, *error))
    return found


def _suggestion(key: object, known: Sequence[str]) -> str | None:
    if not isinstance(key, str):
        return None
    upper = key.upper()
    other = _OTHER_NAMES.get(upper)
    if other in known:
        return other
    # The right key in lower case or with a prefix.
    for candidate in known:
        if upper == candidate or upper.endswith(f"_{candidate}"):
            return candidate
    close = difflib.get_close_matches(upper, known, n=1, cutoff=0.6)
    return close[0] if close else None


def _converted(key: str, value: Any) -> Any:
    if value is None:
        return math.inf
    not_durations = ("MIN_CONNS", "MAX_CONNS", "MAX_WAITING", "RESET", "ROUTES")
    return value if key in not_durations else float(value)


def _is_int(value: object) -> bool:
    # bool is a subclass of int, but MAX_CONNS = True is a mistake.
    return isinstance(value, int) and not isinstance(value, bool)


def _is_numeric_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _not(value: object) -> str:
    return f"not {value!r}"


def _flag(value: object) -> _Error | None:
    if isinstance(value, bool):
        return None
    hint = "Write True or False."
    if isinstance(value, str):
        hint += f' {_FROM_ENVIRONMENT}os.environ.get("NAME") == "1".'
    return "type", f"must be True or False, {_not(value)}.", hint


def _whole(
    least: int, hint: str, *, most: float = math.inf, or_none: bool = False
) -> _Validator:
    def validate(value: Any) -> _Error | None:
        if value is None and or_none:
            return None
        if not _is_int(value):
            message = f"must be a whole number, {_not(value)}."
            if _is_numeric_text(value):
                return "type", message, f'{_FROM_ENVIRONMENT}int(os.environ["NAME"]).'
            return "type", message, hint
        if value < least:
            return "range", f"must be {least} or more, {_not(value)}.", hint
        if value > most:
            return "range", f"must be at most {most}, {_not(value)}.", hint
        return None

    return validate


def _seconds(hint: str, *, zero: bool = False, or_none: bool = False) -> _Validator:
    def validate(value: Any) -> _Error | None:
        if value is None and or_none:
            return None
        if not _is_int(value) and not isinstance(value, float):
            message = f"must be a number of seconds, {_not(value)}."
            if _is_numeric_text(value):
                return "type", message, f'{_FROM_ENVIRONMENT}float(os.environ["NAME"]).'
            return "type", message, hint
        # Locks reject timeouts above TIMEOUT_MAX. "not 0 <= value" rejects nan as well,
        # because every comparison with nan is false.
        if not 0 <= value <= threading.TIMEOUT_MAX or (value == 0 and not zero):
            least = "0 or more" if zero else "more than 0"
            return "range", f"must be {least} and finite, {_not(value)}.", hint
        return None

    return validate


def _eager(value: object) -> _Error | None:
    hint = 'Write a tuple or list of aliases, for example ("default",), or () for none.'
    if isinstance(value, str):
        hint = f"Put the alias into a tuple: ({value!r},)."
    if not isinstance(value, (list, tuple)):
        return "eager", f"must be a tuple or list of aliases, {_not(value)}.", hint
    for item in value:
        if not isinstance(item, str):
            return "eager", f"must hold names of aliases, {_not(item)}.", hint
    return None


def _exempt(value: object) -> _Error | None:
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
                "Write the beginning of the request's path with its leading slash, for "
                'example "/health/".',
            )
    return None


def _pools(value: object) -> _Error | None:
    hint = 'Write for example {"default": {"MAX_CONNS": 20}, "legacy": None}.'
    if not isinstance(value, dict):
        return "pools", f"must be a dict, {_not(value)}.", hint
    for alias, item in value.items():
        if item is not None and not isinstance(item, dict):
            return (
                "pools",
                f"must give a dict of settings or None for {alias!r}, {_not(item)}.",
                "Write a dict with the settings that differ for the alias, which may "
                "be empty, or None for no pool.",
            )
    return None


def _reset(value: object) -> _Error | None:
    if callable(value) or (isinstance(value, str) and value in RESET_MODES):
        return None
    return (
        "type",
        f"must be one of {', '.join(map(repr, RESET_MODES))}, or a function "
        f"reset(connection, dirty), {_not(value)}.",
        'Write "auto" to reset only the sessions that may have been changed.',
    )


def _view(value: object) -> _Error | None:
    if value is None or (isinstance(value, str) and "." in value.strip(".")):
        return None
    return (
        "view",
        f"must be the dotted path of a view, {_not(value)}.",
        'Write for example "project.views.busy", or None for the built-in response.',
    )


def _control_dir(value: object) -> _Error | None:
    if value is None or value is False:
        return None
    if not isinstance(value, (str, PurePath)):
        return (
            "control_dir",
            f"must be a path, {_not(value)}.",
            "Write a str, a pathlib.Path, None for the default directory, or False for "
            "no control sockets.",
        )
    if not os.path.isabs(value):
        return (
            "control_dir",
            f"must be an absolute path, not {str(value)!r}.",
            "The workers and the commands may have different working directories. "
            'Write a path that starts with "/", or None for the default directory.',
        )
    size = len(os.fsencode(value))
    if size > MAX_CONTROL_DIR_BYTES:
        return (
            "control_dir",
            f"is {size} bytes long; the limit is {MAX_CONTROL_DIR_BYTES} bytes.",
            "The operating system limits the path of a Unix socket. Choose a shorter "
            'path, for example "/run/myproject".',
        )
    return None


def _token(value: object) -> _Error | None:
    """Validate a secret, which no message shows."""
    if value is None or (
        isinstance(value, str)
        and len(value) >= MIN_TOKEN
        # What a header can carry as it is.
        and value.isascii()
        and value.isprintable()
        and " " not in value
    ):
        return None
    return (
        "token",
        f"must be a str of {MIN_TOKEN} or more ASCII characters without spaces.",
        "Write a random one, as python -c 'import secrets; "
        "print(secrets.token_urlsafe())' prints, or None for no token.",
    )


_VALIDATORS: dict[str, _Validator] = {
    "ENABLED": _flag,
    "EAGER": _eager,
    "EXEMPT": _exempt,
    "POOLS": _pools,
    "UNAVAILABLE_VIEW": _view,
    "CONTROL_DIR": _control_dir,
    "WORKERS": _whole(
        1,
        "Give the number of worker processes, or None to use WEB_CONCURRENCY.",
        or_none=True,
    ),
    "METRICS_TOKEN": _token,
    "METRICS_LOOPBACK": _flag,
    "MIN_CONNS": _whole(0, "Give a number; 0 opens connections only when needed."),
    "MAX_CONNS": _whole(
        1, "Give the maximum number of open connections per process and alias."
    ),
    "MAX_WAITING": _whole(0, "Give a number of waiting requests; 0 sets no limit."),
    "TIMEOUT": _seconds(
        "Give the seconds that a request may wait for a connection, for example 5.0."
    ),
    "MAX_IDLE": _seconds(
        "Give seconds, for example 600.0, or None to never close idle connections.",
        or_none=True,
    ),
    "MAX_LIFETIME": _seconds(
        "Give seconds, for example 3600.0, or None for no maximum age.",
        or_none=True,
    ),
    "RESET": _reset,
    "LEAK_AFTER": _seconds(
        "Give seconds, for example 30.0, or None to report no leaks.", or_none=True
    ),
    "MAX_HOLD": _seconds(
        "Give seconds, for example 300.0, or None for no limit.", or_none=True
    ),
    "STUCK_AFTER": _seconds(
        "Give seconds, for example 10.0, or None to never call a pool stuck.",
        or_none=True,
    ),
    "ROUTES": _whole(
        0,
        "Give the number of routes and tasks to count by name, for example 50; 0 "
        "counts none.",
        most=200,
    ),
    "CHECK_AFTER_IDLE": _seconds(
        "Give seconds, for example 30.0. 0 checks with a query at every checkout.",
        zero=True,
    ),
}
