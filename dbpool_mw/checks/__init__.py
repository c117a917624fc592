"""Tell the project what is wrong with its settings, as Django system checks.

Nothing here imports psycopg2, directly or not: without a driver these checks are what
says so. ``docs/settings.rst`` explains every id of :data:`IDS`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.module_loading import import_string

from dbpool_mw import conf
from dbpool_mw.checks import capacity, migration
from dbpool_mw.core.config import APP_KEYS, Problem, app_problems, problems, unknown

TAG = "dbpool_mw"
MIDDLEWARE = "dbpool_mw.middleware.ConnectionPoolMiddleware"
INSTALL = 'pip install "django-dbpool-mw[binary]"'

# What is wrong -> the id it is told under: E for errors, W for warnings, I for what is
# good to know. The first ones are the codes of dbpool_mw.core.config. An id keeps its
# meaning: projects silence it.
IDS = {
    "unknown": "dbpool_mw.E001",
    "type": "dbpool_mw.E002",
    "range": "dbpool_mw.E003",
    "order": "dbpool_mw.E004",
    "pools": "dbpool_mw.E005",
    "exempt": "dbpool_mw.E006",
    "view": "dbpool_mw.E007",
    "control_dir": "dbpool_mw.E008",
    "alias": "dbpool_mw.E009",
    "engine": "dbpool_mw.E010",
    "no_driver": "dbpool_mw.E011",
    "psycopg3": "dbpool_mw.E012",
    "native_pool": "dbpool_mw.E013",
    "conn_max_age": "dbpool_mw.E014",
    "twice": "dbpool_mw.E015",
    "leftover_engine": "dbpool_mw.E016",
    "leftover_option": "dbpool_mw.E017",
    "no_middleware": "dbpool_mw.W001",
    "not_first": "dbpool_mw.W002",
    "no_alias": "dbpool_mw.W003",
    "capacity": "dbpool_mw.W004",
    "leftover_setting": "dbpool_mw.W005",
    "keeper": "dbpool_mw.W006",
    "proxy": "dbpool_mw.I001",
}


def register() -> None:
    """Register the checks with Django; called from ``AppConfig.ready()``."""
    checks.register(check_settings, TAG)
    checks.register(check_project, TAG)
    checks.register(check_capacity, checks.Tags.database)


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Judge every setting of ours by itself, even if ``ENABLED`` is False."""
    return [*_unknown_settings(), *_wrong_values(), *_wrong_pools(), *_wrong_view()]


def check_project(**kwargs: Any) -> list[CheckMessage]:
    """Judge what surrounds the pools: aliases, ENGINEs, driver, options, middleware.

    Silent when ``ENABLED`` is False, and when ``ENABLED`` or ``POOLS`` is so wrong that
    which aliases are meant can't be told; :func:`check_settings` has told it then.
    """
    try:
        aliases = conf.pooled_aliases()
    except ImproperlyConfigured:
        return []
    if not conf.value("ENABLED"):
        return []
    wanted = [a for a in connections.settings if _pools().get(a, {}) is not None]
    elsewhere = migration.pooled_elsewhere(wanted)
    driver = _driver(aliases)
    # What another pool's ENGINE lacks is told when it is ours to pool.
    aliases = tuple(alias for alias in aliases if alias not in elsewhere)
    found = [*_wrong_aliases()]
    found += [_message(*each) for each in migration.kept_by_django(aliases)]
    found += [_message(*each) for each in migration.findings(wanted)]
    if driver is not None:
        found.append(driver)
    elif not aliases and not elsewhere:
        found.append(
            _message(
                "no_alias",
                "dbpool_mw is enabled, but no database alias has a pool.",
                "An alias has one when its ENGINE is PostgreSQL and "
                f"{conf.PREFIX}POOLS doesn't say None for it. Set "
                f"{conf.PREFIX}ENABLED = False where none is wanted.",
            )
        )
    if aliases:
        found += _wrong_middleware(aliases)
    return found


def check_capacity(
    databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Compare what all workers may open with what each server allows.

    Django runs it with ``--database`` only.
    """
    return [_message(*found) for found in capacity.findings(databases or ())]


def _message(code: str, text: str, hint: str) -> CheckMessage:
    identity = IDS[code]
    kinds = {"E": checks.Error, "W": checks.Warning, "I": checks.Info}
    return kinds[identity.split(".")[1][0]](text, hint=hint, id=identity)


def _from(problem: Problem, alias: str | None = None) -> CheckMessage:
    return _message(problem.code, conf.label(problem, alias), problem.hint)


def _unknown_settings() -> Iterator[CheckMessage]:
    for name in dir(settings):
        key = name.removeprefix(conf.PREFIX)
        if key != name and key not in conf.KEYS:
            yield _from(unknown(key, conf.KEYS, conf.PREFIX))


def _wrong_values() -> Iterator[CheckMessage]:
    for problem in app_problems({key: conf.value(key) for key in APP_KEYS}):
        yield _from(problem)
    for problem in problems(conf.general()):
        yield _from(problem)


def _pools() -> Mapping[Any, Any]:
    """Return ``POOLS``, or nothing when it is so wrong that it can't be read."""
    pools = conf.value("POOLS")
    return {} if app_problems({"POOLS": pools}) else pools


def _wrong_pools() -> Iterator[CheckMessage]:
    if app_problems({"POOLS": conf.value("POOLS")}):
        return
    for alias in dict.fromkeys([*_pools(), *connections.settings]):
        for problem in conf.pool_problems(alias):
            yield _from(problem, alias)


def _wrong_view() -> Iterator[CheckMessage]:
    path = conf.value("UNAVAILABLE_VIEW")
    if path is None or app_problems({"UNAVAILABLE_VIEW": path}):
        return
    name = f"{conf.PREFIX}UNAVAILABLE_VIEW"
    try:
        view = import_string(path)
    except Exception as error:  # a module of the project's may raise anything
        yield _message(
            "view",
            f"{name} can't be imported: {error}",
            f"Correct the dotted path {path!r}, or set None for the built-in answer.",
        )
        return
    try:
        inspect.signature(view).bind(object(), object())
    except TypeError:  # not callable, or called in another way
        yield _message(
            "view",
            f"{name} names {path!r}, which can't be called with a request and an "
            "exception.",
            "Write a function view(request, exception) that returns a response.",
        )
    except ValueError:
        return  # some callables of extension modules don't tell their signature


def _wrong_aliases() -> Iterator[CheckMessage]:
    known = list(connections.settings)
    for alias, own in _pools().items():
        if alias not in known:
            close = difflib.get_close_matches(str(alias), known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else ""
            yield _message(
                "alias",
                f"{conf.PREFIX}POOLS names the alias {alias!r}, which DATABASES "
                "doesn't have.",
                hint or f"The aliases are {', '.join(map(repr, known))}.",
            )
        elif own is not None and conf.vendor(alias) not in (None, "postgresql"):
            yield _message(
                "engine",
                f"{conf.PREFIX}POOLS asks for a pool for {alias!r}, whose ENGINE "
                f"{connections.settings[alias]['ENGINE']!r} is not PostgreSQL.",
                f"Take {alias!r} out of {conf.PREFIX}POOLS, or say None for it.",
            )


def _driver(aliases: Sequence[str]) -> CheckMessage | None:
    """Return what is wrong with the driver of the aliases that have or want a pool."""
    if aliases and conf.uses_psycopg3():
        return _message(
            "psycopg3",
            "dbpool_mw pools psycopg2 connections, and Django runs on psycopg 3.",
            "Django prefers psycopg 3 whenever it can be imported. Run: pip uninstall "
            f"psycopg && {INSTALL}. Or leave the aliases out: {conf.PREFIX}POOLS = "
            f"{{{', '.join(f'{alias!r}: None' for alias in aliases)}}}.",
        )
    # Without a driver Django's PostgreSQL backend can't be imported, so the aliases
    # that need one are among those whose ENGINE doesn't load.
    unloadable = [
        alias
        for alias in connections.settings
        if conf.vendor(alias) is None and _pools().get(alias, {}) is not None
    ]
    if unloadable and not _imports("psycopg2") and not _imports("psycopg"):
        return _message(
            "no_driver",
            "psycopg2 can't be imported, and dbpool_mw pools its connections.",
            f"Run: {INSTALL}. With the extra [psycopg2] it is compiled on this "
            "machine instead.",
        )
    return None


def _imports(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:  # also one that is there but lacks its libpq
        return False
    return True


def _wrong_middleware(aliases: Sequence[str]) -> Iterator[CheckMessage]:
    entries = list(settings.MIDDLEWARE)
    place = next((at for at, entry in enumerate(entries) if _is_ours(entry)), None)
    if place is None:
        if all(map(conf.has_pooling_engine, aliases)):
            return
        yield _message(
            "no_middleware",
            f"MIDDLEWARE doesn't have {MIDDLEWARE!r}, so no request uses a pool.",
            f"Put it first in MIDDLEWARE, or set {conf.PREFIX}ENABLED = False. Silence "
            "this one if only code outside requests is to use the pools.",
        )
    elif place > 0:
        yield _message(
            "not_first",
            f"{entries[place]!r} is not first in MIDDLEWARE: before it "
            f"{'stand' if place > 1 else 'stands'} "
            f"{', '.join(repr(before) for before in entries[:place])}.",
            "Move it to the top. What stands before it queries outside the pool, and "
            "does its work before a request is refused for want of a connection.",
        )


def _is_ours(entry: str) -> bool:
    """Say whether an entry of MIDDLEWARE is ours or a subclass, as Django's admin does.

    An entry that can't be imported is another one: Django reports it.
    """
    if entry == MIDDLEWARE:
        return True
    try:
        ours, candidate = import_string(MIDDLEWARE), import_string(entry)
    except Exception:  # whatever the import of somebody else's module may raise
        return False
    return isinstance(candidate, type) and issubclass(candidate, ours)
