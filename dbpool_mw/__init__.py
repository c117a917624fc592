"""A database connection pool for Django."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbpool_mw.binding.registry import stats as stats
    from dbpool_mw.binding.release import released as released
    from dbpool_mw.binding.scope import pooled as pooled
    from dbpool_mw.binding.warming import warm_up as warm_up
    from dbpool_mw.core.errors import ConnectFailed as ConnectFailed
    from dbpool_mw.core.errors import HoldCancelled as HoldCancelled
    from dbpool_mw.core.errors import HoldTooLong as HoldTooLong
    from dbpool_mw.core.errors import PoolError as PoolError
    from dbpool_mw.core.errors import PoolTimeout as PoolTimeout
    from dbpool_mw.core.errors import TooManyRequests as TooManyRequests

__version__ = "1.0.0.dev0"
__all__ = [
    "ConnectFailed",
    "HoldCancelled",
    "HoldTooLong",
    "PoolError",
    "PoolTimeout",
    "TooManyRequests",
    "pooled",
    "released",
    "stats",
    "warm_up",
]

#: Where each public name is defined. They are imported when they are first used:
#: settings name this package before Django can be set up.
_HOMES = {
    "ConnectFailed": "dbpool_mw.core.errors",
    "HoldCancelled": "dbpool_mw.core.errors",
    "HoldTooLong": "dbpool_mw.core.errors",
    "PoolError": "dbpool_mw.core.errors",
    "PoolTimeout": "dbpool_mw.core.errors",
    "TooManyRequests": "dbpool_mw.core.errors",
    "pooled": "dbpool_mw.binding.scope",
    "released": "dbpool_mw.binding.release",
    "stats": "dbpool_mw.binding.registry",
    "warm_up": "dbpool_mw.binding.warming",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
