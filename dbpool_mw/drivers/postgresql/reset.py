"""The SQL that makes a session like a new one, in one round trip.

What the server does by itself when a session begins is not done again: the SQL that
follows a connect finds out whether there is such a thing.

``DISCARD ALL`` is refused in a transaction, and so in a text of several statements. It
is "equivalent to executing" a list of others (PostgreSQL's reference, DISCARD), which
are not; so what is pinned can be set again in the same round trip.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Settings that Django and psycopg2 rely on, and that the server reports whenever they
#: change: the client knows their values without asking. psycopg2 decides at connecting
#: how it quotes a backslash, and what it quoted so is code to a server that reads
#: strings in the other way.
PINNED = (
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "client_encoding",
    "standard_conforming_strings",
)

#: The classes of SQLSTATEs with which a server says that it doesn't know, or doesn't
#: allow, a statement.
_REFUSALS = ("0A", "42")

_RESET = (
    "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; DEALLOCATE ALL; "
    "UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD PLANS; DISCARD TEMP; "
    "DISCARD SEQUENCES"
)

#: Event triggers at a login came with this version, as libpq gives it. They may set
#: anything in a session, which a reset removes.
_LOGIN_TRIGGERS_SINCE = 170000
_LOGIN_TRIGGERS = (
    "SELECT string_agg(evtname, ', ') FROM pg_catalog.pg_event_trigger "
    "WHERE evtevent = 'login' AND evtenabled <> 'D'"
)


def opening_statement(pinned: Iterable[tuple[str, str]], server_version: int) -> str:
    """Return the statements for a session that has just begun, "" for none.

    They set what is pinned; then, where the server can have login triggers, the one row
    of the last statement has the names of those that are enabled, or NULL.
    ``server_version`` is libpq's number.
    """
    asked = _LOGIN_TRIGGERS if server_version >= _LOGIN_TRIGGERS_SINCE else ""
    return "; ".join(filter(None, (set_statement(pinned), asked)))


def reset_statement(pinned: Iterable[tuple[str, str]]) -> str:
    """Return the statements that reset a session and set what is pinned again."""
    return "; ".join(filter(None, (_RESET, set_statement(pinned))))


def set_statement(settings: Iterable[tuple[str, str]]) -> str:
    """Return the statements that set these settings for the session."""
    return "; ".join(f"SET {name} TO {_literal(value)}" for name, value in settings)


def is_refusal(sqlstate: str | None) -> bool:
    """Tell whether a server would refuse a reset that failed so at any other time."""
    return sqlstate is not None and sqlstate[:2] in _REFUSALS


def _literal(value: str) -> str:
    escaped = value.replace("'", "''")
    return f"'{escaped}'"
