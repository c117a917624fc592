"""Check the names and values of the ``DBPOOL_MW_*`` settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage
from django.db import connections

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
    problem = conf.view_problem()
    if problem is not None:
        yield _from(problem)
