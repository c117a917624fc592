"""Notice settings left over from other ways to keep connections, and say what to write.

A finding is a code of ``dbpool_mw.checks``, a text, and a hint that holds the project's
own values. Nothing here imports psycopg2, directly or not.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.conf import settings
from django.db import connections

from dbpool_mw import conf
from dbpool_mw.checks import other_pools
from dbpool_mw.checks.other_pools import Elder
from dbpool_mw.core.config import POOL_KEYS, problems

Finding = tuple[str, str, str]  # code, text, hint

_POSTGRESQL = "django.db.backends.postgresql"
_POSTGIS = "django.contrib.gis.db.backends.postgis"
_DJANGOS = (_POSTGRESQL, f"{_POSTGRESQL}_psycopg2", _POSTGIS)

_SEE = "docs/migrating.rst says what differs."


def pooled_elsewhere(aliases: Iterable[str]) -> list[str]:
    """Return which of these aliases have the ENGINE of another pool."""
    return [alias for alias in aliases if other_pools.elder_of(alias) is not None]


def findings(aliases: Iterable[str]) -> Iterator[Finding]:
    """Yield what is left over in these aliases and in the settings around them."""
    for alias in aliases:
        elder = other_pools.elder_of(alias)
        if elder is not None:
            yield _engine(elder, alias)
        elif conf.has_pooling_engine(alias):
            yield from _options_of_ours(alias)
            yield from _pool_options(alias)
        elif other_pools.engine_name(alias) in _DJANGOS:
            yield from _options_of_djangos(alias)
            yield from _pool_options(alias)
        elif conf.vendor(alias) == "postgresql":
            yield from _keeper(alias)
    whose = [other_pools.elder_of(alias) for alias in connections.settings]
    if not any(elder and elder.place == other_pools.ARGUMENTS for elder in whose):
        yield from _arguments()


def kept_by_django(aliases: Iterable[str]) -> Iterator[Finding]:
    """Yield where Django itself keeps connections of aliases that have a pool."""
    for alias in aliases:
        database = connections.settings[alias]
        native, age = database["OPTIONS"].get("pool"), database["CONN_MAX_AGE"]
        if native:
            instead = _where(alias, other_pools.from_native(native))
            yield (
                "native_pool",
                f"DATABASES[{alias!r}] has Django's own pool on as well.",
                f'Remove "pool" from OPTIONS{_joined(" and write ", instead)}, or '
                f"leave the alias to it with {_none(alias)}.",
            )
        if age != 0:
            instead = _where(alias, other_pools.without_faults({"MAX_LIFETIME": age}))
            yield (
                "conn_max_age",
                f"DATABASES[{alias!r}] has CONN_MAX_AGE = {age!r}, and the pool needs "
                "0.",
                "Remove CONN_MAX_AGE. With it Django keeps a connection in each thread "
                "that uses one outside the pool, beyond its limit. The pool keeps "
                f"its own open for {conf.PREFIX}MAX_LIFETIME"
                f"{_joined('; to keep that age, write ', instead)}.",
            )


def _engine(elder: Elder, alias: str) -> Finding:
    name, ours = other_pools.engine_name(alias), other_pools.successor(alias)
    values = other_pools.settings_of(elder, alias)
    is_own = other_pools.elder_named(name) is None
    if name == other_pools.TENANTS:
        steps = "Write 'ENGINE': 'django_tenants.postgresql_backend', with the "
        steps += f"middleware{_joined(' and ', _where(alias, values))}."
    else:
        steps = f"Write 'ENGINE': {ours!r}"
        if is_own:
            steps = f"Build its DatabaseWrapper on that of {ours + '.base'!r}, or "
            steps += f"write 'ENGINE': {ours!r}"
        if elder.place == other_pools.ARGUMENTS:
            steps += f".{_arguments_instead(elder)}"
        elif values:
            steps += f" and {_in_options(values)}."
        else:
            steps += "."
    database = connections.settings[alias]
    gone = [key for key in other_pools.DROPPED if key in database["OPTIONS"]]
    gone += [other_pools.POOL_OPTIONS] if other_pools.POOL_OPTIONS in database else []
    if gone:
        steps += f" Remove {', '.join(gone)}."
    if "MAX_CONNS" not in values:
        steps += (
            f" Unless you set MAX_CONNS it is {conf.value('MAX_CONNS')}; there the "
            f"default was {elder.size + elder.overflow}."
        )
    return (
        "leftover_engine",
        f"The ENGINE of {alias!r}, {name!r}, is {'built on ' if is_own else ''}"
        f"{elder.package}'s, which is a pool of its own.",
        f"{steps} {_SEE} To stay with it, set {_none(alias)}.",
    )


def _options_of_ours(alias: str) -> Iterator[Finding]:
    """Yield the options that an ENGINE of ours would hand to libpq, which refuses them.

    libpq's own options are in lower case, and none is called as one of the pool's.
    """
    for key, value in connections.settings[alias]["OPTIONS"].items():
        at = f"DATABASES[{alias!r}]['OPTIONS']: {key}"
        if key in other_pools.DROPPED:
            yield "leftover_option", f"{at} is an option of another pool.", _remove(key)
        elif key not in POOL_KEYS and (
            str(key).isupper() or str(key).upper() in POOL_KEYS
        ):
            (problem,) = problems({key: value})
            yield problem.code, f"{at} {problem.message}", problem.hint


def _options_of_djangos(alias: str) -> Iterator[Finding]:
    options = connections.settings[alias]["OPTIONS"]
    values = other_pools.pool_keys(options)
    dropped = [key for key in other_pools.DROPPED if key in options]
    hints = [_remove(key) for key in dropped]
    if values:
        hints.insert(
            0,
            f"Write {_where(alias, values)}, or leave {', '.join(values)} there and "
            f"write 'ENGINE': {other_pools.successor(alias)!r}.",
        )
    if hints:
        yield (
            "leftover_option",
            f"DATABASES[{alias!r}]['OPTIONS'] has {', '.join([*values, *dropped])}, "
            f"which the ENGINE {other_pools.engine_name(alias)!r} hands to libpq, and "
            "libpq refuses.",
            " ".join(hints),
        )


def _pool_options(alias: str) -> Iterator[Finding]:
    database = connections.settings[alias]
    if other_pools.POOL_OPTIONS in database:
        elder = other_pools.CONNECTION_POOL
        values = other_pools.from_queue_pool(database[other_pools.POOL_OPTIONS], elder)
        yield (
            "leftover_setting",
            f"DATABASES[{alias!r}] has {other_pools.POOL_OPTIONS}, which is "
            f"{elder.package}'s, and nothing reads it.",
            f"Remove it{_joined(' and write ', _where(alias, values))}. {_SEE}",
        )


def _arguments() -> Iterator[Finding]:
    elder = other_pools.POSTGRESPOOL2
    for name in (other_pools.ARGUMENTS, "DATABASE_POOL_CLASS"):
        if hasattr(settings, name):
            instead = _arguments_instead(elder) if name == other_pools.ARGUMENTS else ""
            yield (
                "leftover_setting",
                f"{name} is a setting of {elder.package}, and nothing reads it.",
                f"Remove it.{instead} {_SEE}",
            )


def _arguments_instead(elder: Elder) -> str:
    values = other_pools.from_arguments(elder)
    lines = [f"{conf.PREFIX}{key} = {value!r}" for key, value in values.items()]
    written = f" In the place of {other_pools.ARGUMENTS} write {' and '.join(lines)}."
    return written if lines else ""


def _keeper(alias: str) -> Iterator[Finding]:
    """Yield a warning for an ENGINE that seems to keep connections itself.

    Such as a home-made one, with a connection in a module's global or in each thread:
    one physical connection would stand in two places of the pool.
    """
    options = other_pools.pool_keys(connections.settings[alias]["OPTIONS"])
    reasons = [f"its OPTIONS have {key}" for key in options]
    for each in other_pools.classes(alias):
        if each.__module__.split(".")[0] == "django":
            continue
        if "_close" in vars(each):
            reasons.append(f"{each.__module__} has a _close() of its own")
        elif _only_pretends(vars(each).get("close")):
            reasons.append(f"the close() of {each.__module__} closes nothing")
    if reasons:
        ours = other_pools.successor(alias)
        djangos = _POSTGIS if ours.endswith("postgis") else _POSTGRESQL
        yield (
            "keeper",
            f"The ENGINE of {alias!r}, {other_pools.engine_name(alias)!r}, seems to "
            f"keep connections itself: {', and '.join(reasons)}.",
            f"Write 'ENGINE': {ours!r}, or 'ENGINE': {djangos!r} with the middleware. "
            f"To stay with it, set {_none(alias)}. Silence this one if each of its "
            f"connections is a new one. {_SEE}",
        )


def _only_pretends(close: Any) -> bool:
    """Tell whether a method called close() calls nothing of that name."""
    code = getattr(inspect.unwrap(close), "__code__", None) if close else None
    return code is not None and not {"close", "_close"} & set(code.co_names)


# --- Phrases -------------------------------------------------------------------------


def _where(alias: str, values: Mapping[str, object]) -> str:
    """Return how to write settings of one alias, an empty text for none."""
    if not values:
        return ""
    if conf.has_pooling_engine(alias):
        return _in_options(values)
    return f"{conf.PREFIX}POOLS = {{{alias!r}: {values!r}}}"


def _in_options(values: Mapping[str, object]) -> str:
    return f"'OPTIONS': {values!r} (besides what libpq is to have)"


def _none(alias: str) -> str:
    return f"{conf.PREFIX}POOLS = {{{alias!r}: None}}"


def _joined(before: str, text: str) -> str:
    return before + text if text else ""


def _remove(key: str) -> str:
    return f"Remove {key}: {other_pools.DROPPED[key]}."
