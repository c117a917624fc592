"""Check for settings of other pool packages, Django's own pool and CONN_MAX_AGE.

The hints contain the settings to write instead, with the project's own values.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage
from django.db import connections

from dbpool_mw import conf
from dbpool_mw.checks import other_pools
from dbpool_mw.checks.messages import message
from dbpool_mw.checks.other_pools import PoolPackage
from dbpool_mw.core import docs
from dbpool_mw.core.config import POOL_KEYS, problems

_POSTGRESQL = "django.db.backends.postgresql"
_POSTGIS = "django.contrib.gis.db.backends.postgis"
_DJANGO_ENGINES = (_POSTGRESQL, f"{_POSTGRESQL}_psycopg2", _POSTGIS)


def with_other_pool(aliases: Iterable[str]) -> list[str]:
    """Return the aliases whose ENGINE belongs to another pool package."""
    return [alias for alias in aliases if other_pools.package_of(alias) is not None]


def check_other_pools(aliases: Iterable[str]) -> Iterator[CheckMessage]:
    """Check these aliases, and the project, for settings of other pool packages."""
    for alias in aliases:
        package = other_pools.package_of(alias)
        if package is not None:
            yield _replace_engine(package, alias)
        elif conf.has_pooling_engine(alias):
            yield from _options_of_pooling_engine(alias)
            yield from _unread_pool_options(alias)
        elif other_pools.engine_name(alias) in _DJANGO_ENGINES:
            yield from _options_of_django_engine(alias)
            yield from _unread_pool_options(alias)
        elif conf.vendor(alias) == "postgresql":
            yield from _persistent_engine(alias)
    packages = [other_pools.package_of(alias) for alias in connections.settings]
    if not any(
        package is not None and package.settings_in == other_pools.POOL_ARGS
        for package in packages
    ):
        yield from _unread_pool_args()


def check_django_persistence(aliases: Iterable[str]) -> Iterator[CheckMessage]:
    """Check aliases that have a pool for Django's own pool and for CONN_MAX_AGE."""
    for alias in aliases:
        database = connections.settings[alias]
        native, age = database["OPTIONS"].get("pool"), database["CONN_MAX_AGE"]
        if native:
            values = other_pools.from_psycopg_pool(native)
            instead = _assignment(alias, values)
            size = _default_size(
                values, "Django's own pool", other_pools.PSYCOPG_POOL_SIZE
            )
            yield message(
                "native_pool",
                f"DATABASES[{alias!r}] enables Django's own pool as well.",
                f'Remove "pool" from OPTIONS{_prefixed(" and write ", instead)}, or '
                f"keep Django's own pool with {_no_pool(alias)}.{size} "
                f"{docs.see('migrating', 'django-s-own-pool')}",
            )
        if age != 0:
            values = other_pools.valid_only({"MAX_LIFETIME": age})
            instead = _assignment(alias, values)
            yield message(
                "conn_max_age",
                f"DATABASES[{alias!r}] has CONN_MAX_AGE = {age!r}; a pool requires 0.",
                "Remove CONN_MAX_AGE. It makes Django keep one connection per thread "
                "that queries without the pool, in addition to MAX_CONNS. The pool "
                f"keeps its connections open for {conf.PREFIX}MAX_LIFETIME"
                f"{_prefixed('; to keep the same age, write ', instead)}.",
            )


def _replace_engine(package: PoolPackage, alias: str) -> CheckMessage:
    """Return the error for an ENGINE that belongs to, or is built on, ``package``."""
    name = other_pools.engine_name(alias)
    replacement = other_pools.replacement_engine(alias)
    values = other_pools.translated_settings(package, alias)
    is_derived = other_pools.package_of_module(name) is None
    if name == other_pools.DJANGO_TENANTS_ENGINE:
        assignment = _prefixed(" and ", _assignment(alias, values))
        steps = (
            "Write 'ENGINE': 'django_tenants.postgresql_backend', with the "
            f"middleware{assignment}."
        )
    else:
        steps = f"Write 'ENGINE': {replacement!r}"
        if is_derived:
            steps = (
                f"Derive its DatabaseWrapper from that of {replacement + '.base'!r}, "
                f"or write 'ENGINE': {replacement!r}"
            )
        if package.settings_in == other_pools.POOL_ARGS:
            steps += f".{_instead_of_pool_args(package)}"
        elif values:
            steps += f" and {_in_options(values)}."
        else:
            steps += "."
    database = connections.settings[alias]
    unused = [key for key in other_pools.OBSOLETE_OPTIONS if key in database["OPTIONS"]]
    if other_pools.POOL_OPTIONS in database:
        unused.append(other_pools.POOL_OPTIONS)
    if package.settings_in == other_pools.NATIVE_POOL:
        unused.append('"pool" from OPTIONS')
    if unused:
        steps += f" Remove {', '.join(unused)}."
    steps += _default_size(values, package.name, package.size + package.overflow)
    relation = "is built on" if is_derived else "belongs to"
    return message(
        "other_pool_engine",
        f"DATABASES[{alias!r}]: the ENGINE {name!r} {relation} {package.name}, which "
        "pools connections itself.",
        f"{steps} To keep {package.name}, set {_no_pool(alias)}. "
        f"{docs.see('migrating', package.name)}",
    )


def _options_of_pooling_engine(alias: str) -> Iterator[CheckMessage]:
    """Check the OPTIONS of an ENGINE of dbpool_mw for names that libpq would reject.

    The names of libpq's options are in lower case, and differ from those of the pool
    settings. So a name is reported if it is in upper case, or is a pool setting in
    lower case.
    """
    for key, value in connections.settings[alias]["OPTIONS"].items():
        option = f"DATABASES[{alias!r}]['OPTIONS']: {key}"
        if key in other_pools.OBSOLETE_OPTIONS:
            yield message(
                "other_pool_option",
                f"{option} is an option of another pool package.",
                _remove(key),
            )
        elif key not in POOL_KEYS and (
            str(key).isupper() or str(key).upper() in POOL_KEYS
        ):
            (problem,) = problems({key: value})
            yield message(problem.code, f"{option} {problem.message}", problem.hint)


def _options_of_django_engine(alias: str) -> Iterator[CheckMessage]:
    """Check for OPTIONS of a pool that Django's ENGINE passes to libpq."""
    options = connections.settings[alias]["OPTIONS"]
    values = other_pools.pool_keys(options)
    obsolete = [key for key in other_pools.OBSOLETE_OPTIONS if key in options]
    hints = [_remove(key) for key in obsolete]
    if values:
        hints.insert(
            0,
            f"Write {_assignment(alias, values)}, or keep {', '.join(values)} there "
            f"and write 'ENGINE': {other_pools.replacement_engine(alias)!r}.",
        )
    if hints:
        yield message(
            "other_pool_option",
            f"DATABASES[{alias!r}]['OPTIONS'] has {', '.join([*values, *obsolete])}, "
            f"which the ENGINE {other_pools.engine_name(alias)!r} passes to libpq, and "
            "libpq rejects.",
            " ".join(hints),
        )


def _unread_pool_options(alias: str) -> Iterator[CheckMessage]:
    """Check for POOL_OPTIONS, which only django-db-connection-pool reads."""
    database = connections.settings[alias]
    if other_pools.POOL_OPTIONS in database:
        package = other_pools.CONNECTION_POOL
        options = database[other_pools.POOL_OPTIONS]
        values = other_pools.from_queue_pool(options, package)
        yield message(
            "other_pool_setting",
            f"DATABASES[{alias!r}] has {other_pools.POOL_OPTIONS} of {package.name}, "
            "which nothing reads.",
            f"Remove it{_prefixed(' and write ', _assignment(alias, values))}. "
            f"{docs.see('migrating', package.name)}",
        )


def _unread_pool_args() -> Iterator[CheckMessage]:
    """Check for the settings that only the django-postgrespool packages read."""
    package = other_pools.POSTGRESPOOL2
    for name in (other_pools.POOL_ARGS, "DATABASE_POOL_CLASS"):
        if hasattr(settings, name):
            is_args = name == other_pools.POOL_ARGS
            instead = _instead_of_pool_args(package) if is_args else ""
            yield message(
                "other_pool_setting",
                f"{name} is a setting of {package.name}, which nothing reads.",
                f"Remove it.{instead} {docs.see('migrating', package.name)}",
            )


def _persistent_engine(alias: str) -> Iterator[CheckMessage]:
    """Check whether a project's own ENGINE seems to keep connections.

    An example is an ENGINE that keeps a connection in a module global or per thread.
    Two entries of the pool would then hold the same connection. The check can only
    guess from the class, so it is a warning.
    """
    options = other_pools.pool_keys(connections.settings[alias]["OPTIONS"])
    reasons = [f"its OPTIONS have {key}" for key in options]
    for cls in other_pools.engine_classes(alias):
        if cls.__module__.split(".")[0] == "django":
            continue
        if "_close" in vars(cls):
            reasons.append(f"{cls.__module__} overrides _close()")
        elif _closes_nothing(vars(cls).get("close")):
            reasons.append(f"the close() of {cls.__module__} closes nothing")
    if reasons:
        replacement = other_pools.replacement_engine(alias)
        django_engine = _POSTGIS if replacement.endswith("postgis") else _POSTGRESQL
        yield message(
            "persistent_engine",
            f"DATABASES[{alias!r}]: the ENGINE {other_pools.engine_name(alias)!r} "
            f"seems to keep connections itself: {', and '.join(reasons)}.",
            f"Write 'ENGINE': {replacement!r}, or 'ENGINE': {django_engine!r} with the "
            f"middleware. To keep the ENGINE, set {_no_pool(alias)}. Silence this "
            "warning if the ENGINE opens a new connection on every connect. "
            f"{docs.see('migrating', 'a-persistent-engine-of-your-own')}",
        )


def _closes_nothing(close: Any) -> bool:
    """Return whether a ``close`` method exists and calls neither close nor _close."""
    code = getattr(inspect.unwrap(close), "__code__", None) if close else None
    return code is not None and not {"close", "_close"} & set(code.co_names)


# --- Parts of hints ------------------------------------------------------------------


def _assignment(alias: str, values: Mapping[str, object]) -> str:
    """Return how to write pool settings of one alias, "" if there are none."""
    if not values:
        return ""
    if conf.has_pooling_engine(alias):
        return _in_options(values)
    return f"{conf.PREFIX}POOLS = {{{alias!r}: {values!r}}}"


def _in_options(values: Mapping[str, object]) -> str:
    return f"'OPTIONS': {values!r} (in addition to libpq's options)"


def _default_size(values: Mapping[str, object], pool: str, size: int) -> str:
    """Return a sentence for values without MAX_CONNS, "" for others."""
    if "MAX_CONNS" in values:
        return ""
    return (
        f" Unless you set MAX_CONNS, it is {conf.value('MAX_CONNS')}; the default of "
        f"{pool} is {size}."
    )


def _instead_of_pool_args(package: PoolPackage) -> str:
    """Return a sentence with the settings that replace DATABASE_POOL_ARGS, or ""."""
    values = other_pools.from_pool_args(package)
    lines = [f"{conf.PREFIX}{key} = {value!r}" for key, value in values.items()]
    if not lines:
        return ""
    return f" Instead of {other_pools.POOL_ARGS} write {' and '.join(lines)}."


def _no_pool(alias: str) -> str:
    return f"{conf.PREFIX}POOLS = {{{alias!r}: None}}"


def _prefixed(prefix: str, text: str) -> str:
    return prefix + text if text else ""


def _remove(key: str) -> str:
    return f"Remove {key}: {other_pools.OBSOLETE_OPTIONS[key]}."
