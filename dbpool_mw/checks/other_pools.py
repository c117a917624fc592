"""Know the other packages that pool Django's connections, and their settings in ours.

The names and defaults are those of the packages' own sources. None of them need be
installed: an ENGINE is known by its name, and if it loads, by what it is built on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from django.conf import settings
from django.db import connections
from django.db.utils import load_backend

from dbpool_mw.core.config import POOL_KEYS, problems

#: Where each of them keeps its settings.
OPTIONS, POOL_OPTIONS, ARGUMENTS = "OPTIONS", "POOL_OPTIONS", "DATABASE_POOL_ARGS"


class Elder(NamedTuple):
    """Another package that pools connections."""

    package: str
    place: str  # where its settings are
    size: int  # how many connections its pool keeps at most, unless set
    overflow: int  # how many it opens above that, unless set


CONNECTION_POOL = Elder("django-db-connection-pool", POOL_OPTIONS, 10, 10)
POSTGRESPOOL2 = Elder("django-postgrespool2", ARGUMENTS, 5, 10)

# By the beginning of their ENGINEs' names.
_ELDERS = {
    "dbpool.db.backends": Elder("django-db-pool", OPTIONS, 1, 0),
    "django_db_geventpool.backends": Elder("django-db-geventpool", OPTIONS, 4, 0),
    "django_postgrespool": Elder("django-postgrespool", ARGUMENTS, 5, 10),
    "django_postgrespool2": POSTGRESPOOL2,
    # Its ENGINEs for other databases are no affair of ours.
    "dj_db_conn_pool.backends.postgresql": CONNECTION_POOL,
    "dj_db_conn_pool.backends.postgis": CONNECTION_POOL,
}
#: The one of them that pools the ENGINE of a third package.
TENANTS = "dj_db_conn_pool.backends.postgresql.django_tenants"

#: Options of theirs that nothing takes the place of, and why they aren't missed.
DROPPED = {
    "REUSE_CONNS": "every idle connection is used again, until MAX_IDLE",
    "TEST_ON_BORROW": "a dead connection is noticed without a query",
    "TEST_ON_BORROW_QUERY": "a dead connection is noticed without a query",
}

# psycopg_pool's names for what Django's own pool takes, and its size unless set.
_NATIVE = {
    "min_size": "MIN_CONNS",
    "max_size": "MAX_CONNS",
    "timeout": "TIMEOUT",
    "max_waiting": "MAX_WAITING",
    "max_idle": "MAX_IDLE",
    "max_lifetime": "MAX_LIFETIME",
}
_NATIVE_SIZE = 4


def engine_name(alias: str) -> str:
    """Return the ENGINE of an alias as the project writes it."""
    return str(connections.settings[alias]["ENGINE"])


def classes(alias: str) -> tuple[type, ...]:
    """Return the classes of an alias's ENGINE, none if it can't be imported."""
    try:
        found: tuple[type, ...] = load_backend(engine_name(alias)).DatabaseWrapper.mro()
    except Exception:  # whatever the import of somebody else's module may raise
        return ()
    return tuple(found)


def elder_named(module: str) -> Elder | None:
    """Return whose module this is, None if it is no elder's."""
    for prefix, elder in _ELDERS.items():
        if f"{module}.".startswith(f"{prefix}."):
            return elder
    return None


def elder_of(alias: str) -> Elder | None:
    """Return whose ENGINE an alias has, or is built on; None if it is no elder's."""
    return next(filter(None, map(elder_named, _modules(alias))), None)


def successor(alias: str) -> str:
    """Return the ENGINE of ours that stands for the one an alias has."""
    is_gis = any("postgis" in module for module in _modules(alias))
    return f"dbpool_mw.backends.{'postgis' if is_gis else 'postgresql'}"


def _modules(alias: str) -> list[str]:
    return [engine_name(alias), *(each.__module__ for each in classes(alias))]


# --- Their settings in our words -----------------------------------------------------


def settings_of(elder: Elder, alias: str) -> dict[str, object]:
    """Return the project's settings for an elder's pool as settings of our pool."""
    database = connections.settings[alias]
    if elder.place == OPTIONS:
        return pool_keys(database["OPTIONS"])
    if elder.place == POOL_OPTIONS:
        return from_queue_pool(database.get(POOL_OPTIONS), elder)
    return from_arguments(elder)


def pool_keys(options: Mapping[str, object]) -> dict[str, object]:
    """Return the options that are called as our pool's settings are."""
    return {key: options[key] for key in POOL_KEYS if key in options}


def from_arguments(elder: Elder) -> dict[str, object]:
    """Translate DATABASE_POOL_ARGS, which is for all aliases."""
    return from_queue_pool(getattr(settings, ARGUMENTS, None), elder)


def from_queue_pool(values: object, elder: Elder) -> dict[str, object]:
    """Translate the arguments of SQLAlchemy's QueuePool.

    Its ``pool_size`` is how many it keeps and ``max_overflow`` how many it opens above
    that; 0 and -1 set no limit, which we can't do. ``recycle`` of -1 is never.
    """
    if not isinstance(values, Mapping):
        return {}
    said = {str(key).lower(): value for key, value in values.items()}
    found: dict[str, object] = {}
    if "pool_size" in said or "max_overflow" in said:
        size = said.get("pool_size", elder.size)
        overflow = said.get("max_overflow", elder.overflow)
        are_whole = isinstance(size, int) and isinstance(overflow, int)
        if are_whole and size > 0 and overflow >= 0:
            found["MAX_CONNS"] = size + overflow
    if "timeout" in said:
        found["TIMEOUT"] = said["timeout"]
    if "recycle" in said:
        found["MAX_LIFETIME"] = None if said["recycle"] == -1 else said["recycle"]
    return without_faults(found)


def from_native(options: object) -> dict[str, object]:
    """Translate the arguments of psycopg_pool; without max_size it is min_size."""
    if not isinstance(options, Mapping):
        return {}
    found = {ours: options[key] for key, ours in _NATIVE.items() if key in options}
    if {"MIN_CONNS", "MAX_CONNS"} & found.keys() and found.get("MAX_CONNS") is None:
        found["MAX_CONNS"] = found.get("MIN_CONNS", _NATIVE_SIZE)
    return without_faults(found)


def without_faults(values: Mapping[str, object]) -> dict[str, object]:
    """Leave out what we would refuse: what was allowed there may not be here."""
    wrong = {problem.key for problem in problems(values)}
    return {key: value for key, value in values.items() if key not in wrong}
