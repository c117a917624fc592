"""A private PgBouncer in front of the run's PostgreSQL."""

from __future__ import annotations

import pytest

from sandbox.pgbouncer import PROGRAM, pgbouncer

__all__ = ["needs_pgbouncer", "pgbouncer"]

needs_pgbouncer = pytest.mark.skipif(
    PROGRAM is None, reason="no pgbouncer on PATH or in /usr/sbin: install it to test"
)
