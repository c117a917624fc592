"""Read the settings: defaults, the aliases with a pool, and each pool's configuration.

``DBPOOL_MW_*`` is read through ``django.conf.settings``. What every request asks for is
remembered until a setting changes: ``AppConfig.ready()`` connects :func:`reset_cache`
to Django's ``setting_changed``. Whoever changes settings or ``DATABASES`` without that
signal calls it themselves.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from appconf import AppConf
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.utils import load_backend

from dbpool_mw.control import paths
from dbpool_mw.core.config import (
    APP_KEYS,
    POOL_KEYS,
    PoolConfig,
    Problem,
    app_problems,
    build,
    problems,
)

PREFIX = "DBPOOL_MW_"
KEYS = APP_KEYS + POOL_KEYS


class DbpoolMwConf(AppConf):  # type: ignore[misc]
    """Put the default of every setting that the project leaves out."""

    ENABLED = True
    LAZY = False
    EXEMPT = ()
    POOLS: ClassVar[dict[str, object]] = {}
    UNAVAILABLE_VIEW = None
    CONTROL_DIR = None
    WORKERS = None

    MIN_CONNS = PoolConfig().min_conns
    MAX_CONNS = PoolConfig().max_conns
    TIMEOUT = PoolConfig().timeout
    MAX_WAITING = PoolConfig().max_waiting
    MAX_IDLE = PoolConfig().max_idle
    MAX_LIFETIME = PoolConfig().max_lifetime
    CHECK_AFTER_IDLE = PoolConfig().check_after_idle
    RESET = PoolConfig().reset
    LEAK_AFTER = None
    MAX_HOLD = None

    class Meta:
        """Name the prefix, which AppConf would else guess."""

        prefix = "dbpool_mw"


class RequestSettings(NamedTuple):
    """What the middleware asks at every request."""

    aliases: tuple[str, ...]
    lazy: bool
    exempt: tuple[str, ...]


class _Cache:
    """Remember what settings say until one of them changes.

    Threads fill it without a lock: two that meet compute the same. One that computes
    while the settings change fills a cache that nobody reads any more.
    """

    def __init__(self) -> None:
        self.aliases: tuple[str, ...] | None = None
        self.request: RequestSettings | None = None
        self.configs: dict[str, PoolConfig] = {}


_cache = _Cache()


def reset_cache(**signal: object) -> None:
    """Forget what was read; a receiver of ``setting_changed``, cheap at any time."""
    global _cache
    _cache = _Cache()


def value(key: str) -> Any:
    """Return one setting by its key, which is its name without the prefix."""
    return getattr(settings, PREFIX + key)


def label(problem: Problem, alias: str | None = None) -> str:
    """Return the problem as a sentence that names the setting as the project does."""
    if alias is None:
        return f"{PREFIX}{problem.key} {problem.message}"
    if problem.key in pool_options(alias):
        return f"DATABASES[{alias!r}]['OPTIONS']: {problem.key} {problem.message}"
    return f"{PREFIX}POOLS: {problem.key} of {alias!r} {problem.message}"


def general() -> dict[str, object]:
    """Return the settings that every pool has unless its alias says otherwise."""
    return {key: value(key) for key in POOL_KEYS}


def pool_options(alias: str) -> dict[str, object]:
    """Return the pool's settings among the OPTIONS of an alias with an ENGINE of ours.

    With another ENGINE there are none: such keys go to libpq, which refuses them.
    """
    if not has_pooling_engine(alias):
        return {}
    options = connections.settings[alias]["OPTIONS"]
    return {key: options[key] for key in POOL_KEYS if key in options}


def own_settings(alias: str) -> dict[str, object]:
    """Return what the project sets for the pool of one alias, wherever it does.

    ``POOLS`` must be known to be right.
    """
    return {**pool_options(alias), **(value("POOLS").get(alias) or {})}


def pool_problems(alias: str) -> list[Problem]:
    """Return what is wrong with the settings of one alias, leaving out general faults.

    A fault of the general settings would otherwise be told once for each alias.
    ``POOLS`` must be known to be right.
    """
    everywhere = problems(general())
    own = own_settings(alias)
    twice = [
        Problem(
            key,
            "twice",
            f"is set in {PREFIX}POOLS as well.",
            "Keep one of the two.",
        )
        for key in pool_options(alias)
        if key in (value("POOLS").get(alias) or {})
    ]
    return twice + [
        problem
        for problem in problems({**general(), **own})
        if problem.key in own or problem not in everywhere
    ]


def pooled_aliases() -> tuple[str, ...]:
    """Return the aliases that have a pool, in the order of ``DATABASES``.

    Empty when ``ENABLED`` is False. An alias has a pool when its ENGINE is PostgreSQL
    and ``POOLS`` doesn't say None for it. Called at every request, from any thread.
    Raises ImproperlyConfigured when ``ENABLED`` or ``POOLS`` is nothing to go by.
    """
    known = _cache
    if known.aliases is None:
        _refuse(app_problems({key: value(key) for key in ("ENABLED", "POOLS")}))
        pools = value("POOLS")
        known.aliases = tuple(
            alias
            for alias in (connections.settings if value("ENABLED") else ())
            if pools.get(alias, {}) is not None and vendor(alias) == "postgresql"
        )
    return known.aliases


def for_request() -> RequestSettings:
    """Return what a request goes by. Called at every request, from any thread.

    Raises ImproperlyConfigured when one of these settings is nothing to go by.
    """
    known = _cache
    if known.request is None:
        _refuse(app_problems({key: value(key) for key in ("LAZY", "EXEMPT")}))
        known.request = RequestSettings(
            pooled_aliases(), value("LAZY"), tuple(value("EXEMPT"))
        )
    return known.request


def config_for(alias: str) -> PoolConfig:
    """Return the configuration of one alias's pool.

    Called at every request, from any thread. Raises ImproperlyConfigured naming every
    wrong value with its hint, and when Django runs on psycopg 3: a server that starts
    without running the system checks must not serve on half a pool.
    """
    known = _cache
    found = known.configs.get(alias)
    if found is None:
        _refuse(app_problems({"POOLS": value("POOLS")}))
        _refuse(problems(general()), alias, pool_problems(alias))
        if uses_psycopg3():
            raise ImproperlyConfigured(
                "dbpool_mw pools psycopg2 connections, and Django runs on psycopg 3. "
                "Uninstall psycopg, or leave the alias out with "
                f"{PREFIX}POOLS = {{{alias!r}: None}}."
            )
        found = known.configs[alias] = build({**general(), **own_settings(alias)})
    return found


def vendor(alias: str) -> str | None:
    """Return what kind of database an alias's ENGINE is for, None if it doesn't import.

    Asked of the ENGINE's class, so that engines built on Django's PostgreSQL one count
    as PostgreSQL. One that can't be imported is not for us to report: Django does.
    """
    found = _engine(alias)
    return None if found is None else found.vendor


def has_pooling_engine(alias: str) -> bool:
    """Say whether an alias's ENGINE is one of ours, or built on one."""
    return getattr(_engine(alias), "takes_pool_options", False)


def _engine(alias: str) -> Any:
    """Return the wrapper class of an alias, None if there is none to be had."""
    try:
        return _load_engine(connections.settings[alias]["ENGINE"])
    except Exception:  # whatever the import of somebody else's module may raise
        return None


@cache
def _load_engine(engine: str) -> Any:
    # An exception is not remembered: what failed in the middle of a start may work.
    return load_backend(engine).DatabaseWrapper


def uses_psycopg3() -> bool:
    """Say whether Django chose psycopg 3, which it does whenever it can import it.

    For a project that has an alias with a pool: Django's backend can be imported.
    """
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    return bool(is_psycopg3)


def workers() -> int | None:
    """Return how many worker processes serve the project, None when nothing says so.

    ``WORKERS``, else the environment's WEB_CONCURRENCY, which gunicorn and uvicorn read
    too and which some hosts set. One that is no number above 0 says nothing. Raises
    ImproperlyConfigured when ``WORKERS`` is wrong.
    """
    _refuse(app_problems({"WORKERS": value("WORKERS")}))
    said = value("WORKERS")
    if said is None:
        text = os.environ.get("WEB_CONCURRENCY", "")
        said = int(text) if text.isascii() and text.isdigit() else None
    return said or None


def control_dir() -> Path:
    """Return the directory where workers and commands meet.

    ``CONTROL_DIR``, else a directory of this user's for this project. A project is its
    settings module together with the real path of that module's file: two checkouts of
    one project on one host are two projects, because draining the wrong one is worse
    than finding none. A deployment that puts each release in a directory of its own
    must set ``CONTROL_DIR``, or the new release's commands won't find the workers of
    the old one.

    Raises ImproperlyConfigured when ``CONTROL_DIR`` is wrong.
    """
    _refuse(app_problems({"CONTROL_DIR": value("CONTROL_DIR")}))
    said = value("CONTROL_DIR")
    return paths.default_directory(_project_key()) if said is None else Path(said)


def _project_key() -> str:
    """Return a text that is the same in every process of this project and user.

    Settings made by ``settings.configure()`` have no module. There the file of the URL
    configuration stands for the project, by its path alone: a project of one file calls
    it ``__main__`` when it runs as a script, and something else under a server. Without
    one, what is left is the directory that the program was started from.
    """
    module = _settings_module()
    if module is not None:
        return f"{module}:{_file_of(module)}"
    urls = getattr(settings, "ROOT_URLCONF", None)
    if isinstance(urls, str):
        file = _file_of(urls)
        if file:
            return f"urls:{file}"
    return f"path:{os.path.realpath(sys.path[0] if sys.path else '')}:{urls}"


def _settings_module() -> str | None:
    """Return the name of the settings module, also inside ``override_settings``.

    Overridden settings say None for SETTINGS_MODULE, and so do those of
    ``settings.configure()``; the first wrap others that may know.
    """
    source: Any = settings
    while source is not None:
        name = getattr(source, "SETTINGS_MODULE", None)
        if isinstance(name, str):
            return name
        source = getattr(source, "default_settings", None)
    return None


def _file_of(module: str) -> str:
    """Return the real path of a module's file, an empty text when it has none."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if file is None and loaded is None:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        file = spec.origin if spec is not None else None
    return os.path.realpath(file) if file else ""


def _refuse(
    found: list[Problem], alias: str | None = None, own: Sequence[Problem] = ()
) -> None:
    """Raise ImproperlyConfigured with the problems found, and those of one alias."""
    lines = [f"{label(problem)} {problem.hint}" for problem in found]
    lines += [f"{label(problem, alias)} {problem.hint}" for problem in own]
    if lines:
        raise ImproperlyConfigured("\n".join(lines))
