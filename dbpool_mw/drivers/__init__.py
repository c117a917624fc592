"""Drivers: what is done to one physical connection."""

from __future__ import annotations


def can_import() -> bool:
    """Tell whether the database driver can be imported."""
    try:
        import psycopg2  # noqa: F401
    except ImportError:
        return False
    return True
