"""What a statement may leave behind in its session, as its text shows.

The text decides because the server reports only a few of a session's settings, and
asking it would cost the round trip that pooling saves. It is an allow-list: a statement
that begins with a word known to be harmless, and names nothing that is known to change
a session, leaves nothing behind; every other one counts as a change and costs a reset.

Literals, comments and quoted identifiers are skipped by ``lexer``. Every step is linear
in the length of the text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from .lexer import read


class Effect(NamedTuple):
    """What a statement may do to its session.

    ``dirty``: the session has to be reset before another holder gets it.
    ``not_resettable`` names what no reset undoes, None if there is no such thing.
    """

    dirty: bool
    not_resettable: str | None = None


CLEAN = Effect(False)
DIRTY = Effect(True)

#: A comment with this word marks its statement as one that changes its session: for
#: functions of the project's that do so inside the server.
MARK = "set_config"

#: Longer statements are not cached, so that the cache stays small.
_CACHED_LENGTH = 2000

#: Statements that begin with these words change no session, unless they name something
#: of ``_NAMES``. SET, PREPARE, CREATE and EXPLAIN are looked at more closely.
_HARMLESS = frozenset(
    re.findall(
        r"\w+",
        "ABORT ALTER ANALYSE ANALYZE BEGIN CHECKPOINT CLOSE CLUSTER COMMENT COMMIT "
        "COPY DELETE DROP END FETCH GRANT IMPORT INSERT LOCK MERGE MOVE NOTIFY "
        "REASSIGN REFRESH REINDEX RELEASE REVOKE ROLLBACK SAVEPOINT SECURITY SELECT "
        "SHOW START TABLE TRUNCATE UPDATE VACUUM VALUES WITH",
    )
)

# Where each statement begins, and the first word there, or what stands there instead.
_BEGIN = re.compile(r"(?:\A|;)[\s(]*")
_WORD = re.compile(r"(?P<word>\w*)(?P<other>[^\s;\w]?)")
_CLOSER_LOOKS = {
    "SET": re.compile(r"SET\s+(?:LOCAL|TRANSACTION|CONSTRAINTS)\b(?!\s*\.)", re.I),
    "PREPARE": re.compile(r"PREPARE\s+TRANSACTION\s*['%]", re.I),
    "CREATE": re.compile(
        r"CREATE\b(?!\s+(?:OR\s+REPLACE\s+)?(?:(?:LOCAL|GLOBAL)\s+)?TEMP(?:ORARY)?\b)",
        re.I,
    ),
}
_SETS = re.compile(rf"(?:\A|;)[\s(]*SET\b|\b{MARK}\b", re.I)
# A function of a C library loads it into the session. A name in quotes may be C.
_LANGUAGE_C = re.compile(r"\bLANGUAGE\s+(?:C\b|['\"])", re.I)
_EXPLAIN = re.compile(
    r"EXPLAIN\b\s*(?:\([^()]*\)|(?:(?:ANALYZE|ANALYSE|VERBOSE)\b\s*)*)[\s(]*", re.I
)

# What changes a session wherever it stands: functions, what is in the schema of
# temporary objects, and the target of SELECT … INTO. Functions that execute a text can
# do anything.
_NAMES = re.compile(
    r"""\b(?:
        (?P<set_config> set_config)
      | (?P<not_resettable>
            setseed
          | dblink_connect\w*
          | pg_replication_origin_session_setup
          | pg_(?:create|copy)_\w+_replication_slot
          | pg_(?:backup_start|start_backup)
          | hypopg_\w+ )
      | set_limit | isn_weak
      | pg_(?:try_)?advisory_(?:un)?lock\w*
      | dblink\w*
      | pg_replication_origin_session_reset
      | pg_(?:backup_stop|stop_backup)
      | pg_temp(?:_\d+)?
      | \w+_to_xml\w* | ts_stat | ts_rewrite | crosstab\w* | connectby | xpath_table
      | INTO\s+(?:(?:LOCAL|GLOBAL)\s+)?TEMP(?:ORARY)?
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)

#: Each match of ``_NAMES`` contains one of these, which are much faster to look for.
_SIGNS = (
    *("set_", "setseed", "advisory_", "dblink", "replication_", "temp", "backup"),
    *("hypopg_", "isn_weak", "_to_xml", "ts_stat", "ts_rewrite", "crosstab"),
    *("connectby", "xpath_"),
)

_WRITES = re.compile(r"\b(?:UPDATE|MERGE)\b", re.I)

# What an analysis of calls of set_config looks at.
_CALLS = re.compile(r"\bset_config\b\s*\(|\bset_config\b|[(),]", re.I)
_IS_LOCAL = re.compile(r"\s*(?:is_local\s*(?:=>|:=)\s*)?true\s*\Z", re.I)
_LONGEST_FLAG = 80


def effect(statement: str) -> Effect:
    """Return what a text, of one statement or several, may do to its session.

    What a function does inside the server is not in the text, so it isn't seen.
    """
    if statement.startswith("/*") or statement.endswith("*/"):
        statement = _without_tracers_comments(statement)
    if len(statement) > _CACHED_LENGTH:
        return _effect(statement)
    return _cached_effect(statement)


def _without_tracers_comments(statement: str) -> str:
    """Cut off a comment at the start and one at the end, if both are simple.

    Tracers write such comments, another one for each statement: the cache would be of
    no use. Only a comment on one line, with no other in it, is cut off. Where such an
    end is no comment, but the end of a literal or of a line comment, the cut leaves a
    literal open, which counts as a change, or cuts a part of the line comment.
    """
    if statement.startswith("/*"):
        end = statement.find("*/", 2)
        if end > 0 and _is_simple(statement[2:end]):
            statement = statement[end + 2 :].lstrip()
    if statement.endswith("*/"):
        start = statement.rfind("/*")
        if start >= 0 and _is_simple(statement[start + 2 : -2]):
            statement = statement[:start].rstrip()
    return statement


def _is_simple(comment: str) -> bool:
    parts = ("/*", "*/", "\n", "\r", MARK)
    return not any(part in comment for part in parts)


def _effect(statement: str) -> Effect:
    code = read(statement)
    if code is None:
        return Effect(True, "a statement that can't be read")
    if any(MARK in comment.lower() for comment in code.comments):
        return DIRTY
    quoted = "\0".join(code.quoted)
    effects = [_effect_of_names(code.text), _effect_of_names(quoted)]
    if _updates_settings(code.text, quoted):
        effects.append(DIRTY)
    if _LANGUAGE_C.search(code.text):
        effects.append(Effect(True, "LANGUAGE C"))
    for begin in _BEGIN.finditer(code.text):
        start = begin.end()
        explain = _EXPLAIN.match(code.text, start)
        # EXPLAIN ANALYZE does what it explains.
        effects.append(_effect_of_start(code.text, explain.end() if explain else start))
    lasting = next((each for each in effects if each.not_resettable), None)
    if lasting is None and "seed" in statement.lower() and _SETS.search(code.text):
        # SET seed is setseed(), and so is set_config('seed', …); SET LOCAL is no less.
        return Effect(True, "seed")
    return lasting or (DIRTY if DIRTY in effects else CLEAN)


_cached_effect = lru_cache(maxsize=2048)(_effect)


def _effect_of_start(text: str, start: int) -> Effect:
    """Return what the statement at a place may do, by the words it begins with."""
    first = _WORD.match(text, start)
    assert first is not None
    word = first["word"].upper()
    if word in _HARMLESS or (not word and not first["other"]):
        return CLEAN
    closer_look = _CLOSER_LOOKS.get(word)
    if closer_look is not None and closer_look.match(text, start):
        return CLEAN
    return Effect(True, "LOAD") if word == "LOAD" else DIRTY


def _effect_of_names(text: str) -> Effect:
    """Return what a text may do by what it names, wherever that stands."""
    lower = text.lower()
    if not any(sign in lower for sign in _SIGNS):
        return CLEAN
    found = CLEAN
    for match in _NAMES.finditer(text):
        if match["not_resettable"]:
            return Effect(True, match["not_resettable"])
        if not match["set_config"]:
            found = DIRTY
    if found is CLEAN and MARK in lower and not _every_set_config_is_local(text):
        return DIRTY
    return found


def _updates_settings(text: str, quoted: str) -> bool:
    """Tell whether a text may change the view pg_settings, which sets settings."""
    is_named = "pg_settings" in text.lower() or "pg_settings" in quoted
    return is_named and _WRITES.search(text) is not None


def _every_set_config_is_local(text: str) -> bool:
    """Tell whether each call of set_config has a literal true as its third argument.

    Such a setting ends with its transaction.
    """
    # For each parenthesis that is open: whether it is a call's, how many arguments were
    # begun, and where the last one begins.
    open_ones: list[tuple[bool, int, int]] = []
    for token in _CALLS.finditer(text):
        kind = token[0][-1]
        if kind == "(":
            open_ones.append((len(token[0]) > 1, 1, token.end()))
        elif kind not in ",)":
            return False  # the function's name, and no call of it
        elif open_ones:
            is_call, count, begin = open_ones.pop()
            if kind == ",":
                open_ones.append((is_call, count + 1, token.end()))
            elif is_call:
                is_short = token.start() - begin <= _LONGEST_FLAG
                last = text[begin : token.start()] if is_short else ""
                if count != 3 or not _IS_LOCAL.match(last):
                    return False
    return not any(is_call for is_call, _, _ in open_ones)
