"""Recognise other packages that pool connections, and translate their settings.

The names and defaults are taken from the sources of those packages. A package need not
be installed: its ENGINE is recognised by name. An ENGINE of a project's own is
recognised by the modules of its base classes, if it can be imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from django.conf import settings
from django.db import connections
from django.db.utils import load_backend

from dbpool_mw.core.config import POOL_KEYS, PSYCOPG_POOL_NAMES, problems

#: Where a package has its settings: in two keys of DATABASES, in the options of the
#: pool of Django's own, or in a Django setting.
OPTIONS, POOL_OPTIONS, NATIVE_POOL = "OPTIONS", "POOL_OPTIONS", "pool"
POOL_ARGS = "DATABASE_POOL_ARGS"


class PoolPackage(NamedTuple):
    """Another package that pools connections."""

    name: str
    settings_in: str  # OPTIONS, POOL_OPTIONS, NATIVE_POOL or POOL_ARGS
    size: int  # default number of connections that its pool keeps
    overflow: int  # default number of connections that it opens beyond ``size``


#: psycopg_pool's default of min_size, which is also its maximum unless max_size is set.
PSYCOPG_POOL_SIZE = 4

CONNECTION_POOL = PoolPackage("django-db-connection-pool", POOL_OPTIONS, 10, 10)
POSTGRESPOOL2 = PoolPackage("django-postgrespool2", POOL_ARGS, 5, 10)

#: The key is the package part with which the names of its ENGINEs begin.
PACKAGES = {
    "dbpool.db.backends": PoolPackage("django-db-pool", OPTIONS, 1, 0),
    "django_db_geventpool.backends": PoolPackage("django-db-geventpool", OPTIONS, 4, 0),
    "django_postgrespool": PoolPackage("django-postgrespool", POOL_ARGS, 5, 10),
    "django_postgrespool2": POSTGRESPOOL2,
    # Built on django-db-connection-pool, and on Django's own pool.
    "django_pg_real_pool.dj_db_conn_pool": PoolPackage(
        "django-pg-real-pool", POOL_OPTIONS, 10, 10
    ),
    "django_pg_real_pool": PoolPackage(
        "django-pg-real-pool", NATIVE_POOL, PSYCOPG_POOL_SIZE, 0
    ),
    # django-db-connection-pool has ENGINEs for other databases too. They can stay.
    "dj_db_conn_pool.backends.postgresql": CONNECTION_POOL,
    "dj_db_conn_pool.backends.postgis": CONNECTION_POOL,
}

#: The ENGINE of django-db-connection-pool that is built on the one of django-tenants.
DJANGO_TENANTS_ENGINE = "dj_db_conn_pool.backends.postgresql.django_tenants"

#: Options of other packages that dbpool_mw doesn't have, and why it doesn't need them.
OBSOLETE_OPTIONS = {
    "REUSE_CONNS": "every idle connection is reused, until MAX_IDLE",
    "TEST_ON_BORROW": "a dead connection is detected without a query",
    "TEST_ON_BORROW_QUERY": "a dead connection is detected without a query",
}


def engine_name(alias: str) -> str:
    """Return the ENGINE of an alias as it is written in DATABASES."""
    return str(connections.settings[alias]["ENGINE"])


def engine_classes(alias: str) -> tuple[type, ...]:
    """Return the wrapper class of an alias's ENGINE and the base classes of it.

    Empty if the ENGINE can't be imported.
    """
    try:
        found: tuple[type, ...] = load_backend(engine_name(alias)).DatabaseWrapper.mro()
    except Exception:  # importing a third-party module may raise anything
        return ()
    return tuple(found)


def package_of_module(module: str) -> PoolPackage | None:
    """Return the pool package that a module belongs to, if any."""
    for prefix, package in PACKAGES.items():
        if f"{module}.".startswith(f"{prefix}."):
            return package
    return None


def package_of(alias: str) -> PoolPackage | None:
    """Return the pool package that an alias's ENGINE belongs to or is built on."""
    return next(filter(None, map(package_of_module, _modules(alias))), None)


def replacement_engine(alias: str) -> str:
    """Return the ENGINE of dbpool_mw that replaces the ENGINE of an alias."""
    is_gis = any("postgis" in module for module in _modules(alias))
    return f"dbpool_mw.backends.{'postgis' if is_gis else 'postgresql'}"


def _modules(alias: str) -> list[str]:
    return [engine_name(alias), *(cls.__module__ for cls in engine_classes(alias))]


# --- Translating settings ------------------------------------------------------------
#
# Each function returns settings of one pool by their keys, and leaves out what has no
# equivalent or what dbpool_mw would reject as invalid.


def translated_settings(package: PoolPackage, alias: str) -> dict[str, object]:
    """Translate the settings that ``package`` has for an alias."""
    database = connections.settings[alias]
    if package.settings_in == OPTIONS:
        return pool_keys(database["OPTIONS"])
    if package.settings_in == POOL_OPTIONS:
        return from_queue_pool(database.get(POOL_OPTIONS), package)
    if package.settings_in == NATIVE_POOL:
        return from_psycopg_pool(database["OPTIONS"].get(NATIVE_POOL))
    return from_pool_args(package)


def pool_keys(options: Mapping[str, object]) -> dict[str, object]:
    """Return the options that have the names of pool settings, without validation."""
    return {key: options[key] for key in POOL_KEYS if key in options}


def from_pool_args(package: PoolPackage) -> dict[str, object]:
    """Translate the setting DATABASE_POOL_ARGS, which applies to all aliases."""
    return from_queue_pool(getattr(settings, POOL_ARGS, None), package)


def from_queue_pool(values: object, package: PoolPackage) -> dict[str, object]:
    """Translate the arguments of SQLAlchemy's QueuePool, in upper or lower case.

    A QueuePool keeps ``pool_size`` connections and opens ``max_overflow`` more. A
    ``pool_size`` of 0 or a ``max_overflow`` of -1 means no limit, which dbpool_mw
    doesn't have. A ``recycle`` of -1 means no maximum age.
    """
    if not isinstance(values, Mapping):
        return {}
    arguments = {str(key).lower(): value for key, value in values.items()}
    found: dict[str, object] = {}
    if "pool_size" in arguments or "max_overflow" in arguments:
        size = arguments.get("pool_size", package.size)
        overflow = arguments.get("max_overflow", package.overflow)
        are_ints = isinstance(size, int) and isinstance(overflow, int)
        if are_ints and size > 0 and overflow >= 0:
            found["MAX_CONNS"] = size + overflow
    if "timeout" in arguments:
        found["TIMEOUT"] = arguments["timeout"]
    if "recycle" in arguments:
        recycle = arguments["recycle"]
        found["MAX_LIFETIME"] = None if recycle == -1 else recycle
    return valid_only(found)


def from_psycopg_pool(options: object) -> dict[str, object]:
    """Translate the arguments of psycopg_pool, which Django's own pool is given.

    Without ``max_size`` such a pool has ``min_size`` connections at most. Django takes
    ``True`` for a pool with all defaults.
    """
    if options is True:
        options = {"min_size": PSYCOPG_POOL_SIZE}
    if not isinstance(options, Mapping):
        return {}
    found = {
        key: options[name]
        for name, key in PSYCOPG_POOL_NAMES.items()
        if name in options
    }
    if {"MIN_CONNS", "MAX_CONNS"} & found.keys() and found.get("MAX_CONNS") is None:
        found["MAX_CONNS"] = found.get("MIN_CONNS", PSYCOPG_POOL_SIZE)
    return valid_only(found)


def valid_only(values: Mapping[str, object]) -> dict[str, object]:
    """Return the settings without the invalid ones."""
    invalid = {problem.key for problem in problems(values)}
    return {key: value for key, value in values.items() if key not in invalid}
