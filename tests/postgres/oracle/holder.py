"""What the holder of a connection does by a row, and what the next one finds."""

from __future__ import annotations

from typing import Any

from django.db import connection

from tests.vocabulary import Error, execute, sqlstate

from .rows import ANY, Row, Step
from .snapshot import Snapshot, half, snapshot


def administer(raw: Any, step: Step) -> Any:
    """Take an administrator's step; return what its function returns."""
    if callable(step):
        return step(raw)
    return execute(raw, step) if step else None


def act(row: Row, raw: Any, kept: list[object]) -> None:
    """Do what the row says, on the thread's connection; keep what its functions return.

    Raises RuntimeError if it ends in another way than the row says.
    """
    ended = None
    try:
        for step in row.steps:
            if callable(step):
                kept.append(step(raw))
            else:
                with connection.cursor() as cursor:
                    cursor.execute(step)
    except Exception as error:
        # Django raises its own class, from the driver's.
        ended = error.__cause__ or error
    if row.error == ANY:
        expected = ended is None or isinstance(ended, Error)
    elif isinstance(row.error, str):
        expected = sqlstate(ended) == row.error
    else:
        expected = isinstance(ended, row.error or type(None))
    if not expected:
        raise RuntimeError(f"ended with {ended!r}, not {row.error!r}")


def look(raw: Any, kept: Any = ()) -> Snapshot:
    """Take a snapshot of the session, and of what a former holder still shares."""
    found = snapshot(raw)
    for name, what in half.shared(raw, kept).items():
        found.session[f"client: {name}"] = what
    return found
