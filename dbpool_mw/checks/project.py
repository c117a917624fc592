"""Check what the pools depend on: aliases, ENGINEs, the driver, the middleware."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.module_loading import import_string

from dbpool_mw import conf, drivers
from dbpool_mw.checks import migration
from dbpool_mw.checks.messages import message
from dbpool_mw.checks.order import MAKES_NO_QUERY
from dbpool_mw.core import platform
from dbpool_mw.core.config import app_problems

MIDDLEWARE = "dbpool_mw.middleware.ConnectionPoolMiddleware"

#: The name and the label of the app.
_APP = "dbpool_mw"


def check_project(**kwargs: Any) -> list[CheckMessage]:
    """Check the aliases, their ENGINEs and options, the driver and the middleware.

    Returns nothing when ``ENABLED`` is False. Returns nothing either when ``ENABLED``
    or ``POOLS`` is invalid, because it is then unknown which aliases have a pool;
    ``check_settings`` reports the invalid value.
    """
    try:
        pooled = conf.pooled_aliases()
    except ImproperlyConfigured:
        return []
    if not conf.value("ENABLED"):
        return []
    wanted = [
        alias
        for alias in connections.settings
        if conf.pools().get(alias, {}) is not None
    ]
    with_other_pool = migration.with_other_pool(wanted)
    # Until the ENGINE of another pool package is replaced, only the ENGINE is reported.
    pooled_here = tuple(alias for alias in pooled if alias not in with_other_pool)
    driver = _check_driver(pooled)
    found = [
        *_check_aliases(),
        *_check_eager(pooled),
        *migration.check_django_persistence(pooled_here),
        *migration.check_other_pools(wanted),
        *driver,
    ]
    if not driver and not pooled_here and not with_other_pool:
        found.append(
            message(
                "no_alias",
                "dbpool_mw is enabled, but no database alias has a pool.",
                "An alias has a pool if its ENGINE is PostgreSQL and "
                f"{conf.PREFIX}POOLS has no None for it. Set "
                f"{conf.PREFIX}ENABLED = False if no alias needs a pool.",
            )
        )
    if pooled_here:
        found += _check_platform()
        found += _check_middleware(pooled_here)
        found += _check_installation()
    return found


def _check_aliases() -> Iterator[CheckMessage]:
    known = list(connections.settings)
    for alias, values in conf.pools().items():
        if alias not in known:
            close = difflib.get_close_matches(str(alias), known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else ""
            yield message(
                "alias",
                f"{conf.PREFIX}POOLS names the alias {alias!r}, which DATABASES "
                "doesn't have.",
                hint or f"The aliases are {', '.join(map(repr, known))}.",
            )
        elif values is not None and conf.vendor(alias) not in (None, "postgresql"):
            yield message(
                "engine",
                f"{conf.PREFIX}POOLS configures a pool for {alias!r}, whose ENGINE "
                f"{connections.settings[alias]['ENGINE']!r} is not PostgreSQL.",
                f"Remove {alias!r} from {conf.PREFIX}POOLS, or set None for it.",
            )


def _check_eager(pooled: Sequence[str]) -> Iterator[CheckMessage]:
    """Check that each alias of ``EAGER`` has a pool; "default" is there by default.

    An ENGINE that can't be imported, and an invalid ``EAGER``, are reported elsewhere.
    """
    eager = conf.value("EAGER")
    if app_problems({"EAGER": eager}):
        return
    known = list(connections.settings)
    for alias in eager:
        named = f"{conf.PREFIX}EAGER names the alias {alias!r}, "
        if alias not in known:
            close = difflib.get_close_matches(alias, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else ""
            yield message(
                "eager_alias",
                f"{named}which DATABASES doesn't have.",
                hint or f"The aliases are {', '.join(map(repr, known))}.",
            )
        elif not (
            alias in pooled or alias == DEFAULT_DB_ALIAS or conf.vendor(alias) is None
        ):
            yield message(
                "eager_alias",
                f"{named}which has no pool.",
                f"Remove {alias!r} from {conf.PREFIX}EAGER.",
            )


# --- The driver ----------------------------------------------------------------------


def _check_driver(pooled: Sequence[str]) -> list[CheckMessage]:
    """Check that a database library with a driver is installed, and Django uses it.

    ``pooled`` are the aliases that have a pool, those with another package's included.
    """
    advices = {alias: conf.library_advice(alias) for alias in pooled}
    without_pool = ", ".join(f"{alias!r}: None" for alias in pooled if advices[alias])
    for advice in filter(None, advices.values()):
        return [
            message(
                "no_driver_for_library",
                advice.problem,
                f"{advice.hint} Or exclude what has no such library: "
                f"{conf.PREFIX}POOLS = {{{without_pool}}}.",
            )
        ]
    # Without a database library Django's PostgreSQL backend can't be imported. Its
    # aliases are then among those whose vendor is unknown.
    unknown_vendor = [
        alias
        for alias in connections.settings
        if conf.vendor(alias) is None and conf.pools().get(alias, {}) is not None
    ]
    if unknown_vendor and not drivers.can_import():
        return [message("no_library", *drivers.NOT_INSTALLED)]
    return []


def _check_platform() -> Iterator[CheckMessage]:
    problem = platform.problem()
    if problem is not None:
        text, hint = problem
        yield message(
            "platform",
            text,
            f"{hint} With {conf.PREFIX}ENABLED = False Django works as without "
            "dbpool_mw.",
        )


# --- The middleware ------------------------------------------------------------------


def _check_middleware(pooled: Sequence[str]) -> Iterator[CheckMessage]:
    entries = list(settings.MIDDLEWARE)
    position = next(
        (index for index, entry in enumerate(entries) if _is_pool_middleware(entry)),
        None,
    )
    if position is None:
        if all(map(conf.has_pooling_engine, pooled)):
            return
        yield message(
            "no_middleware",
            f"MIDDLEWARE doesn't contain {MIDDLEWARE!r}, so no request uses a pool.",
            f"Put it first in MIDDLEWARE, or set {conf.PREFIX}ENABLED = False. Silence "
            "this warning if only code outside requests uses the pools.",
        )
        return
    before = [entry for entry in entries[:position] if entry not in MAKES_NO_QUERY]
    if before:
        yield message(
            "not_first",
            f"{entries[position]!r} is not first in MIDDLEWARE. Before it, and may "
            f"query: {', '.join(map(repr, before))}.",
            "Move it above these. What queries above it takes a connection of its own, "
            "and responds with 500 where there is none. SecurityMiddleware, "
            "CorsMiddleware, WhiteNoiseMiddleware and others that make no query may "
            "stay above: their responses then need no connection, and a 503 has their "
            "headers. Silence this warning if yours make no query either.",
        )


def _check_installation() -> Iterator[CheckMessage]:
    """Check that the middleware is there once, and has the app."""
    entries = [entry for entry in settings.MIDDLEWARE if _is_pool_middleware(entry)]
    if len(entries) > 1:
        yield message(
            "middleware_twice",
            f"MIDDLEWARE has the middleware of dbpool_mw {len(entries)} times: "
            f"{', '.join(map(repr, entries))}.",
            "Leave the first one and remove the rest.",
        )
    # A test may have taken the app away for a while.
    loaded = (apps.app_configs, *apps.stored_app_configs)
    if entries and not any(_APP in app_configs for app_configs in loaded):
        yield message(
            "no_app",
            f"MIDDLEWARE has {entries[0]!r}, and INSTALLED_APPS doesn't have {_APP!r}.",
            f"Add {_APP!r} to INSTALLED_APPS: manage.py has its checks and its "
            "commands only then.",
        )


def _is_pool_middleware(entry: str) -> bool:
    """Return whether an entry of MIDDLEWARE is the pool's middleware or a subclass.

    False for an entry that can't be imported, which Django itself reports.
    """
    if entry == MIDDLEWARE:
        return True
    try:
        middleware, candidate = import_string(MIDDLEWARE), import_string(entry)
    except Exception:  # importing a third-party module may raise anything
        return False
    return isinstance(candidate, type) and issubclass(candidate, middleware)
