"""What a statement leaves behind in its session, as far as its text tells."""

from __future__ import annotations

import re
from functools import lru_cache

# What can stand between two words. Each of the three begins in its own way, so that a
# search never has two ways to read the same text.
_GAP = r"(?:\s|/\*(?:[^*]|\*(?!/))*\*/|--[^\r\n]*[\r\n])"
_TEMP = rf"(?:(?:LOCAL|GLOBAL){_GAP}+)?TEMP(?:ORARY)?\b"

# Statements whose effect outlives a transaction. SET LOCAL, SET CONSTRAINTS and SET
# TRANSACTION end with theirs. DO and CALL run code that the text does not show.
_SESSION_STATEMENT = (
    r"[\s(]*(?:SET\b(?!\s*(?:LOCAL|CONSTRAINTS|TRANSACTION)\b)|RESET\b|DISCARD\b"
    r"|LISTEN\b|UNLISTEN\b|PREPARE\b(?!\s*TRANSACTION\b)|DEALLOCATE\b|DECLARE\b"
    r"|LOAD\b|DO\b|CALL\b"
    # EXPLAIN ANALYZE does what it explains.
    rf"|(?:EXPLAIN\b[^;]*?\b)?CREATE{_GAP}+(?:OR{_GAP}+REPLACE{_GAP}+)?{_TEMP})"
)

# Where a statement can begin: at the start, after a semicolon, after a comment. Apart,
# because a search for one of a few characters is many times as fast.
_FIRST = re.compile(_SESSION_STATEMENT, re.IGNORECASE)
_LATER = re.compile(r"(?:;|\*/|--[^\r\n]*[\r\n])" + _SESSION_STATEMENT, re.IGNORECASE)

# What each of the following has in it, for a look at statements that have none.
_SIGNS = ("set_", "setseed", "dblink_", "pg_", "temp")

# The same from within a statement: functions, and the target of SELECT … INTO.
_SESSION_EXPRESSION = re.compile(
    r"\b(?:set_config|set_limit|setseed|dblink_connect\w*"
    r"|pg_(?:try_)?advisory_(?:un)?lock\w*|pg_replication_origin_session_(?:re)?set\w*"
    r"|pg_create_\w+_replication_slot|pg_temp(?:_\d+)?)\b"
    rf"|\bINTO{_GAP}+{_TEMP}",
    re.IGNORECASE,
)

# What DISCARD ALL leaves behind: such a session can't be made a fresh one again.
_LASTING = re.compile(
    r"\b(?:setseed|dblink_connect\w*|pg_replication_origin_session_setup)\b",
    re.IGNORECASE,
)

# Longer statements are judged anew each time, so that the cache stays small.
_CACHED_LENGTH = 2000


def _changes_session(statement: str) -> bool:
    if _FIRST.match(statement) or _LATER.search(statement):
        return True
    lower = statement.lower()
    return any(sign in lower for sign in _SIGNS) and bool(
        _SESSION_EXPRESSION.search(statement)
    )


_changes_session_cached = lru_cache(maxsize=2048)(_changes_session)


def changes_session(statement: str) -> bool:
    """Tell whether a statement's text may leave something behind in its session.

    It errs towards True, which costs a reset. What a function or a procedure does
    inside the server is not in the text and is not seen.
    """
    if len(statement) > _CACHED_LENGTH:
        return _changes_session(statement)
    return _changes_session_cached(statement)


def lasting(statement: str) -> str | None:
    """Name what a statement leaves behind that no reset takes away, if anything."""
    found = _LASTING.search(statement)
    return found[0] if found is not None else None
