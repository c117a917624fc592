"""Read the settings: defaults, the aliases with a pool, each pool's configuration.

A value is validated in ``dbpool_mw.core.config``, read from Django's settings here, and
reported as a system check message in ``dbpool_mw.checks``.

The aliases and configurations that every request needs are cached until a setting
changes: ``AppConfig.ready()`` connects :func:`reset_cache` to Django's signal
``setting_changed``. Code that changes settings or ``DATABASES`` without sending that
signal must call :func:`reset_cache` itself.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from appconf import AppConf
from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.utils import load_backend
from django.utils.module_loading import import_string

from dbpool_mw import drivers
from dbpool_mw.control import location
from dbpool_mw.core.config import (
    APP_KEYS,
    POOL_KEYS,
    PoolConfig,
    Problem,
    app_problems,
    build,
    problems,
)
from dbpool_mw.drivers import Advice, Driver

PREFIX = "DBPOOL_MW_"
KEYS = APP_KEYS + POOL_KEYS


class DbpoolMwConf(AppConf):  # type: ignore[misc]
    """Add every setting that the project doesn't have, with its default."""

    ENABLED = True
    EAGER = ("default",)
    EXEMPT = ()
    POOLS: ClassVar[dict[str, object]] = {}
    UNAVAILABLE_VIEW = None
    CONTROL_DIR = None
    WORKERS = None
    METRICS_TOKEN = None
    METRICS_LOOPBACK = False

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
    STUCK_AFTER = PoolConfig().stuck_after
    ROUTES = PoolConfig().routes

    class Meta:
        """The prefix, which AppConf would otherwise derive from the module."""

        prefix = "dbpool_mw"


class RequestSettings(NamedTuple):
    """The settings that the middleware reads at every request."""

    aliases: tuple[str, ...]
    eager: tuple[str, ...]
    exempt: tuple[str, ...]


class _Cache:
    """Values computed from the settings, valid until a setting changes.

    Threads fill the cache without a lock: two threads at once compute equal values.
    After a change of the settings :func:`reset_cache` replaces the whole object, so a
    thread that began before the change can only write into the replaced one.
    """

    def __init__(self) -> None:
        self.aliases: tuple[str, ...] | None = None
        self.request: RequestSettings | None = None
        self.configs: dict[str, PoolConfig] = {}


_cache = _Cache()


def reset_cache(**signal: object) -> None:
    """Empty the cache. Any thread may call this receiver of ``setting_changed``."""
    global _cache
    _cache = _Cache()


def forget_alias(alias: str) -> None:
    """Take an alias that DATABASES doesn't have any more out of the cache."""
    cached = _cache
    if cached.aliases is not None:
        cached.aliases = tuple(one for one in cached.aliases if one != alias)
        cached.request = None


def cached_values() -> object:
    """Return an object that is another one after a change of the settings."""
    return _cache


def value(key: str) -> Any:
    """Return the setting ``DBPOOL_MW_<key>``."""
    return getattr(settings, PREFIX + key)


def is_switched_off() -> bool:
    """Tell whether ``ENABLED`` is False: Django is to be left as it is.

    Any other value that is not True is invalid, and refused.
    """
    return value("ENABLED") is False


def describe(problem: Problem, alias: str | None = None) -> str:
    """Return a sentence that names the setting where it is written, and the problem.

    ``alias`` is the alias that the setting is for, None for a general setting.
    """
    if alias is None:
        return f"{PREFIX}{problem.key} {problem.message}"
    if problem.key in pool_options(alias):
        return f"DATABASES[{alias!r}]['OPTIONS']: {problem.key} {problem.message}"
    return f"{PREFIX}POOLS: {problem.key} of {alias!r} {problem.message}"


def general() -> dict[str, object]:
    """Return the pool settings that apply to every alias which doesn't override them.

    The values are not validated.
    """
    return {key: value(key) for key in POOL_KEYS}


def pool_options(alias: str) -> dict[str, object]:
    """Return the pool settings in the OPTIONS of an alias with an ENGINE of dbpool_mw.

    Empty for every other ENGINE, which passes such options to libpq.
    """
    if not has_pooling_engine(alias):
        return {}
    options = connections.settings[alias]["OPTIONS"]
    return {key: options[key] for key in POOL_KEYS if key in options}


def pools() -> Mapping[Any, Any]:
    """Return ``POOLS``, or an empty dict if its value is invalid."""
    by_alias = value("POOLS")
    return {} if app_problems({"POOLS": by_alias}) else by_alias


def own_settings(alias: str) -> dict[str, object]:
    """Return the pool settings of one alias, from ``POOLS`` and from its OPTIONS.

    The caller must have validated ``POOLS``; the values are not validated.
    """
    return {**pool_options(alias), **(value("POOLS").get(alias) or {})}


def source(alias: str, key: str) -> str:
    """Return where an alias's value of a pool setting is written, or has to be."""
    if key in pool_options(alias):
        return f"DATABASES[{alias!r}]['OPTIONS'][{key!r}]"
    if key in own_settings(alias):
        return f"{PREFIX}POOLS[{alias!r}][{key!r}]"
    return f"{PREFIX}{key}"


def pool_problems(alias: str) -> list[Problem]:
    """Return the problems in the settings of one alias.

    A problem that the general settings have by themselves is left out: it would be
    reported again for every alias. The caller must have validated ``POOLS``.
    """
    general_problems = problems(general())
    own = own_settings(alias)
    twice = [
        Problem(
            key,
            "twice",
            f"is set in {PREFIX}POOLS as well.",
            "Remove one of the two.",
        )
        for key in pool_options(alias)
        if key in (value("POOLS").get(alias) or {})
    ]
    return twice + [
        problem
        for problem in problems({**general(), **own})
        if problem.key in own or problem not in general_problems
    ]


def pooled_aliases() -> tuple[str, ...]:
    """Return the aliases that have a pool, in the order of ``DATABASES``.

    Empty when ``ENABLED`` is False. An alias has a pool when its ENGINE is PostgreSQL
    and ``POOLS`` has no None for it. Called at every request, from any thread. Raises
    ImproperlyConfigured when ``ENABLED`` or ``POOLS`` is invalid.
    """
    cached = _cache
    if cached.aliases is None:
        cached.aliases = () if is_switched_off() else _pooled_aliases()
    return cached.aliases


def _pooled_aliases() -> tuple[str, ...]:
    _raise_any(app_problems({key: value(key) for key in ("ENABLED", "POOLS")}))
    by_alias = value("POOLS")
    return tuple(
        alias
        for alias in connections.settings
        if by_alias.get(alias, {}) is not None and vendor(alias) == "postgresql"
    )


def for_request() -> RequestSettings:
    """Return the settings of the middleware. Called at every request, from any thread.

    Raises ImproperlyConfigured when ``ENABLED``, ``POOLS``, ``EAGER`` or ``EXEMPT`` is
    invalid.
    """
    cached = _cache
    if cached.request is None:
        _raise_any(app_problems({key: value(key) for key in ("EAGER", "EXEMPT")}))
        cached.request = RequestSettings(
            pooled_aliases(), tuple(value("EAGER")), tuple(value("EXEMPT"))
        )
    return cached.request


def config_for(alias: str) -> PoolConfig:
    """Return the configuration of one alias's pool.

    Called at every request, from any thread. Raises ImproperlyConfigured with one line
    per invalid value, and when the alias's database library has no driver. The values
    are validated here as well as in the system checks, because a server such as
    gunicorn runs no checks.
    """
    cached = _cache
    config = cached.configs.get(alias)
    if config is None:
        _raise_any(app_problems({"POOLS": value("POOLS")}))
        _raise_any(problems(general()), alias, pool_problems(alias))
        advice = library_advice(alias)
        if advice is not None:
            problem, hint = advice
            raise ImproperlyConfigured(
                f"{alias!r} can't have a pool: {problem} {hint} Or exclude the alias "
                f"with {PREFIX}POOLS = {{{alias!r}: None}}."
            )
        config = cached.configs[alias] = build({**general(), **own_settings(alias)})
    return config


def vendor(alias: str) -> str | None:
    """Return the vendor of an alias's ENGINE, such as "postgresql".

    The vendor is an attribute of the ENGINE's class, so an ENGINE that is built on
    Django's for PostgreSQL has the same vendor. None if there is no such alias or if
    its ENGINE can't be imported, which Django itself reports.
    """
    wrapper_class = _wrapper_class(alias)
    return None if wrapper_class is None else wrapper_class.vendor


def has_pooling_engine(alias: str) -> bool:
    """Return whether an alias's ENGINE is one of dbpool_mw, or built on one."""
    return getattr(_wrapper_class(alias), "takes_pool_options", False)


def _wrapper_class(alias: str) -> Any:
    """Return the DatabaseWrapper class of an alias, None if it can't be imported."""
    try:
        return _load_wrapper_class(connections.settings[alias]["ENGINE"])
    except Exception:  # importing a third-party module may raise anything
        return None


@cache
def _load_wrapper_class(engine: str) -> Any:
    # functools.cache doesn't cache exceptions, so an import that failed while Django
    # was starting is tried again.
    return load_backend(engine).DatabaseWrapper


def driver_for(alias: str) -> Driver | None:
    """Return the driver for the database library of an alias's ENGINE, None if none.

    The alias must have a pool, so that its ENGINE can be imported.
    """
    return drivers.find(_wrapper_class(alias).Database.__name__)


def library_advice(alias: str) -> Advice | None:
    """Return what is wrong with the database library of an alias, None if nothing is.

    The alias must have a pool, so that its ENGINE can be imported. Django decides at
    the import of its own ENGINE which library all that inherit from it run on.
    """
    engine = _wrapper_class(alias)
    djangos = sys.modules.get("django.db.backends.postgresql.base")
    of_django = None
    if djangos is not None and issubclass(engine, djangos.DatabaseWrapper):
        of_django = djangos.Database.__name__
    return drivers.not_supported(alias, engine.Database.__name__, of_django)


def view_problem() -> Problem | None:
    """Return what is wrong with the view of ``UNAVAILABLE_VIEW``, None if nothing is.

    Imports the view. That the setting is a dotted path is validated elsewhere.
    """
    path = value("UNAVAILABLE_VIEW")
    if app_problems({"UNAVAILABLE_VIEW": path}) or path is None:
        return None
    hint = "Write a function view(request, exception) that returns a response."
    try:
        view = import_string(path)
    except Exception as error:  # importing a project's module may raise anything
        text = f"can't be imported: {error}"
        hint = (
            f"Correct the dotted path {path!r}, or set None for the built-in response."
        )
        return Problem("UNAVAILABLE_VIEW", "view", text, hint)
    called = getattr(type(view), "__call__", None)  # noqa: B004  may be async as well
    if iscoroutinefunction(view) or iscoroutinefunction(called):
        text = f"is {path!r}, which is async: nothing awaits the response."
        hint = "Write a function with def, not async def."
        return Problem("UNAVAILABLE_VIEW", "view", text, hint)
    try:
        inspect.signature(view).bind(object(), object())
    except TypeError:  # not callable, or not with two positional arguments
        text = f"is {path!r}, which can't be called with a request and an exception."
        return Problem("UNAVAILABLE_VIEW", "view", text, hint)
    except ValueError:
        pass  # some functions of extension modules have no signature
    return None


def workers() -> int | None:
    """Return the number of worker processes of the project, None if it is not known.

    The number is ``WORKERS`` or else the environment variable WEB_CONCURRENCY, which
    gunicorn and uvicorn read and some hosting platforms set. A WEB_CONCURRENCY that is
    not a number above 0 is ignored. Raises ImproperlyConfigured when ``WORKERS`` is
    invalid.
    """
    number = value("WORKERS")
    _raise_any(app_problems({"WORKERS": number}))
    if number is None:
        text = os.environ.get("WEB_CONCURRENCY", "")
        number = int(text) if text.isascii() and text.isdigit() else None
    return number or None


def metrics_token() -> str | None:
    """Return the secret that shows a request the workers' figures, None without one.

    Raises ImproperlyConfigured when ``METRICS_TOKEN`` is invalid.
    """
    token: str | None = value("METRICS_TOKEN")
    _raise_any(app_problems({"METRICS_TOKEN": token}))
    return token


def permits_loopback() -> bool:
    """Tell whether requests from the loopback interface may see the workers' figures.

    Raises ImproperlyConfigured when ``METRICS_LOOPBACK`` is invalid.
    """
    permits: bool = value("METRICS_LOOPBACK")
    _raise_any(app_problems({"METRICS_LOOPBACK": permits}))
    return permits


def control_dir() -> Path | None:
    """Return the directory of the control sockets, in which commands look for workers.

    None if ``CONTROL_DIR`` is False: then no process has a control socket.

    The directory is ``CONTROL_DIR`` or else one that belongs to the current user and
    this project. A project is identified by its settings module and the real path of
    that module's file, so two checkouts on one host have two directories, and
    ``dbpool_drain`` in one can't drain the other. A deployment that puts each release
    in a directory of its own must set ``CONTROL_DIR``: otherwise the commands of the
    new release can't find the workers of the old one.

    Raises ImproperlyConfigured when ``CONTROL_DIR`` is invalid.
    """
    directory = value("CONTROL_DIR")
    _raise_any(app_problems({"CONTROL_DIR": directory}))
    if directory is False:
        return None
    if directory is not None:
        return Path(directory)
    urls = getattr(settings, "ROOT_URLCONF", None)
    return location.default_directory(location.project_key(_settings_module(), urls))


def _settings_module() -> str | None:
    """Return the name of the settings module, None after ``settings.configure()``.

    Inside ``override_settings`` SETTINGS_MODULE is None; the settings that are
    overridden have the name.
    """
    layer: Any = settings
    while layer is not None:
        name = getattr(layer, "SETTINGS_MODULE", None)
        if isinstance(name, str):
            return name
        layer = getattr(layer, "default_settings", None)
    return None


def _raise_any(
    found: list[Problem], alias: str | None = None, own: Sequence[Problem] = ()
) -> None:
    """Raise ImproperlyConfigured if there are problems, with one line for each.

    ``found`` are problems of general settings, ``own`` those of ``alias``.
    """
    lines = [f"{describe(problem)} {problem.hint}" for problem in found]
    lines += [f"{describe(problem, alias)} {problem.hint}" for problem in own]
    if lines:
        raise ImproperlyConfigured("\n".join(lines))
