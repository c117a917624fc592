"""A database connection pool for Django on psycopg2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbpool_mw.binding.scope import pooled as pooled

__version__ = "0.1.0"
__all__ = ["pooled"]


def __getattr__(name: str) -> Any:
    # Lazy: settings name this package before Django can be set up.
    if name == "pooled":
        from dbpool_mw.binding.scope import pooled

        return pooled
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
