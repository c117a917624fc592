"""What a view does with its connection while it waits for something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


@contextmanager
def closed() -> Iterator[None]:
    """Close the connection before the block, which returns it to Django's own pool."""
    connection.close()
    yield
