"""Check the names and values of the ``DBPOOL_MW_*`` settings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage
from django.db import connections
from django.utils.module_loading import import_string

from dbpool_mw import conf
from dbpool_mw.checks.messages import message
from dbpool_mw.core.config import APP_KEYS, Problem, app_problems, problems, unknown


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Check each setting by itself, even if ``ENABLED`` is False."""
    return [*_unknown_names(), *_general_values(), *_values_of_aliases(), *_view()]


def _from(problem: Problem, alias: str | None = None) -> CheckMessage:
    return message(problem.code, conf.describe(problem, alias), problem.hint)


def _unknown_names() -> Iterator[CheckMessage]:
    for name in dir(settings):
        key = name.removeprefix(conf.PREFIX)
        if key != name and key not in conf.KEYS:
            yield _from(unknown(key, conf.KEYS, conf.PREFIX))


def _general_values() -> Iterator[CheckMessage]:
    for problem in app_problems({key: conf.value(key) for key in APP_KEYS}):
        yield _from(problem)
    for problem in problems(conf.general()):
        yield _from(problem)


def _values_of_aliases() -> Iterator[CheckMessage]:
    """Check POOLS and OPTIONS, for the aliases of POOLS that don't exist as well.

    Nothing is reported if the value of ``POOLS`` itself is invalid: that is one of the
    general values.
    """
    if app_problems({"POOLS": conf.value("POOLS")}):
        return
    for alias in dict.fromkeys([*conf.pools(), *connections.settings]):
        for problem in conf.pool_problems(alias):
            yield _from(problem, alias)


def _view() -> Iterator[CheckMessage]:
    """Check that UNAVAILABLE_VIEW can be imported, and called with two arguments."""
    path = conf.value("UNAVAILABLE_VIEW")
    if path is None or app_problems({"UNAVAILABLE_VIEW": path}):
        return
    name = f"{conf.PREFIX}UNAVAILABLE_VIEW"
    try:
        view = import_string(path)
    except Exception as error:  # importing a project's module may raise anything
        yield message(
            "view",
            f"{name} can't be imported: {error}",
            f"Correct the dotted path {path!r}, or set None for the built-in response.",
        )
        return
    try:
        inspect.signature(view).bind(object(), object())
    except TypeError:  # not callable, or not with two positional arguments
        yield message(
            "view",
            f"{name} is {path!r}, which can't be called with a request and an "
            "exception.",
            "Write a function view(request, exception) that returns a response.",
        )
    except ValueError:
        return  # some functions of extension modules have no signature
