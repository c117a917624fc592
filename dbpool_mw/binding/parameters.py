"""What a pool's connections are opened with: some of a wrapper's ``settings_dict``.

Not the result of ``get_connection_params()``: an ENGINE may put a fresh token into that
each time. And not keys that an ENGINE adds to the settings: that of django-tenants, for
one, keeps the present tenant there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

#: The keys that Django opens connections with, and sets their sessions up.
KEYS = (
    "NAME",
    "USER",
    "PASSWORD",
    "HOST",
    "PORT",
    "OPTIONS",
    "TIME_ZONE",
    "AUTOCOMMIT",
)

#: The values of KEYS, in their order.
Parameters = tuple[Any, ...]

#: Return the parameters in a ``settings_dict``, which Django fills up: no key is
#: missing. Later changes in place change them; see ``copied``.
read: Callable[[Mapping[str, Any]], Parameters] = itemgetter(*KEYS)


def copied(parameters: Parameters) -> Parameters:
    """Return parameters that changes in place of their containers don't reach.

    What isn't a container may be any object, and is compared by its own ``==``.
    """
    return tuple(map(_copied, parameters))


def _copied(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copied(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return value.copy() if type(value) is set else value


def as_settings(parameters: Parameters) -> dict[str, Any]:
    """Return the part of a ``settings_dict`` that has these parameters, as a copy."""
    return dict(zip(KEYS, copied(parameters), strict=True))


def address(parameters: Parameters) -> str:
    """Return ``database/user@host:port`` for reports; what isn't set is left out."""
    settings = as_settings(parameters)
    options = settings["OPTIONS"] or {}
    database = settings["NAME"] or options.get("service") or ""
    user, host, port = (
        settings[key] or options.get(key.lower()) or ""
        for key in ("USER", "HOST", "PORT")
    )
    place = f"{host}:{port}" if port else str(host)
    login = f"{user}@{place}" if place else str(user)
    return f"{database}/{login}" if login else str(database)
