"""What a statement leaves behind in its session, as its text shows.

The text decides because the server reports only a few of a session's settings, and
asking it would cost the round trip that pooling saves. A wrong guess costs a reset.
"""

from __future__ import annotations

import re
from functools import lru_cache

# What can stand between two words. The three alternatives begin with different
# characters, so that a search has one way to read a text.
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

# Where a statement can begin: at the start, after a semicolon, after a comment. Two
# patterns, because a search for a few characters is much faster than one for any place.
_FIRST = re.compile(_SESSION_STATEMENT, re.IGNORECASE)
_LATER = re.compile(r"(?:;|\*/|--[^\r\n]*[\r\n])" + _SESSION_STATEMENT, re.IGNORECASE)

# Each match of the pattern below contains one of these: a cheap test that spares most
# statements the search.
_SIGNS = ("set_", "setseed", "dblink_", "pg_", "temp")

# What changes a session from within a statement: functions, SELECT … INTO TEMP.
_SESSION_EXPRESSION = re.compile(
    r"\b(?:set_config|set_limit|setseed|dblink_connect\w*"
    r"|pg_(?:try_)?advisory_(?:un)?lock\w*|pg_replication_origin_session_(?:re)?set\w*"
    r"|pg_create_\w+_replication_slot|pg_temp(?:_\d+)?)\b"
    rf"|\bINTO{_GAP}+{_TEMP}",
    re.IGNORECASE,
)

# What DISCARD ALL leaves behind: a session that ran it can't be reset.
_NOT_RESETTABLE = re.compile(
    r"\b(?:setseed|dblink_connect\w*|pg_replication_origin_session_setup)\b",
    re.IGNORECASE,
)

# Longer statements are not cached, so that the cache stays small.
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
    """Tell whether a statement may leave something behind in its session.

    Errs towards True, which costs a reset. What a function does inside the server is
    not in the text, so it isn't seen.
    """
    if len(statement) > _CACHED_LENGTH:
        return _changes_session(statement)
    return _changes_session_cached(statement)


def not_resettable(statement: str) -> str | None:
    """Return the function in a statement whose effect no reset undoes, if any."""
    found = _NOT_RESETTABLE.search(statement)
    return found[0] if found is not None else None
