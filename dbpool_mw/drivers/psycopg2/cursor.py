"""Cursors that know in which checkout of their connection they were opened.

A cursor may be kept after its holder has given the connection back. What it executes
is refused where psycopg2 gets it (see ``tracking``); a named cursor also sends
statements when rows are fetched from it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from psycopg2 import extensions


class TrackedCursor(extensions.cursor):
    """A cursor of a ``TrackedConnection``, opened by ``connection.cursor()``."""

    connection: Any
    #: The connection's ``lease`` when the cursor was opened.
    lease: int | None = None


class TrackedNamedCursor(TrackedCursor):
    """A named cursor of a ``TrackedConnection``: it asks the server for its rows."""

    def fetchone(self) -> Any:
        self.connection.check(self)
        return super().fetchone()

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        self.connection.check(self)
        return super().fetchmany(*args, **kwargs)

    def fetchall(self) -> Any:
        self.connection.check(self)
        return super().fetchall()

    def scroll(self, *args: Any, **kwargs: Any) -> None:
        self.connection.check(self)
        super().scroll(*args, **kwargs)

    def __next__(self) -> Any:
        self.connection.check(self)
        return super().__next__()


# Bounded: django-prometheus makes a cursor class for each connection it opens.
@lru_cache(maxsize=256)
def tracked_cursor(base: Any, is_named: bool = False) -> Any:
    """Return a cursor class with tracking mixed in."""
    return mixed(TrackedNamedCursor if is_named else TrackedCursor, base)


def mixed(tracked: type, base: type) -> type:
    """Return a class that is both; one of them if it is the other already.

    ``tracked`` comes after ``base``, so that it gets what ``base`` makes of a call.
    """
    if issubclass(base, tracked):
        return base
    if issubclass(tracked, base):
        return tracked
    return type(base.__name__, (base, tracked), {"__module__": base.__module__})
