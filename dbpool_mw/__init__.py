"""A database connection pool for Django on psycopg2."""

from __future__ import annotations

__version__ = "0.1.0"
