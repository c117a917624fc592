"""What a statement may leave behind in its session, as its text shows.

The text decides because the server reports only a few of a session's settings, and
asking it would cost the round trip that pooling saves. It is an allow-list: a statement
that begins with a word known to be harmless, and names nothing that is known to change
a session, leaves nothing behind; every other one counts as a change and costs a reset.
What no reset undoes costs the connection.

Literals, comments and quoted identifiers are told apart by ``lexer``. Every step is
linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from .lexer import Code, read


class Effect(NamedTuple):
    """What a statement may do to its session.

    ``dirty``: the session has to be reset before another holder gets it.
    ``not_resettable`` names what no reset undoes, None if there is no such thing.
    """

    dirty: bool
    not_resettable: str | None = None


CLEAN = Effect(False)
DIRTY = Effect(True)


class Judgement(NamedTuple):
    """The effect of a text, and when it holds.

    ``is_final``: parameters don't change it, if each is written as a literal.
    ``escapes``: how the backslashes in the text were read; None if there are none.
    """

    effect: Effect
    is_final: bool
    escapes: bool | None


#: A comment with this word marks its statement as one that changes its session: for
#: functions of the project's that do so inside the server.
MARK = "set_config"

#: Longer statements are not kept, and no more than so many, so that little memory is
#: used.
_KEPT_LENGTH = 2000
_KEPT = 2048

_FLAGS = re.IGNORECASE | re.ASCII

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
#: Statements that execute what a literal contains, or may give it to one that does.
_EXECUTING = frozenset({"DO", "CALL", "EXECUTE"})

# Where each statement begins, and the first word there, or what stands there instead.
_BEGIN = re.compile(r"(?:\A|;)[\s(;]*", re.ASCII)
_WORD = re.compile(r"(?P<word>\w*)(?P<other>[^\s;\w]?)", re.ASCII)
_CLOSER_LOOKS = {
    "SET": re.compile(r"SET\s+(?:LOCAL|TRANSACTION|CONSTRAINTS)\b(?!\s*\.)", _FLAGS),
    "PREPARE": re.compile(r"PREPARE\s+TRANSACTION\s*'", _FLAGS),
    "CREATE": re.compile(
        r"CREATE\b(?!\s+(?:OR\s+REPLACE\s+)?(?:(?:LOCAL|GLOBAL)\s+)?TEMP(?:ORARY)?\b)",
        _FLAGS,
    ),
}
# What loads a library into the session. A quoted name of a language may be C, and a
# language is created as an extension.
_LOADS = re.compile(
    r"""
    \b(?:
        CREATE\s+EXTENSION\b
      | ALTER\s+EXTENSION\s+(?:\w+|")\s+UPDATE\b
      | CREATE\s+(?:OR\s+REPLACE\s+)?(?:TRUSTED\s+)?(?:PROCEDURAL\s+)?LANGUAGE\b
      | LANGUAGE\s+(?:C\b|[EU]&?['"]|['"])
    )""",
    _FLAGS | re.VERBOSE,
)
_EXPLAIN = re.compile(
    r"EXPLAIN\b\s*(?:\([^()]*\)|(?:(?:ANALYZE|ANALYSE|VERBOSE)\b\s*)*)[\s(]*", _FLAGS
)
_UNICODE_NAME = re.compile(r"\bU&\"", _FLAGS)

# What no reset undoes.
_LASTING = r"""
    setseed
  | dblink_connect\w*
  | pg_replication_origin_session_setup
  | pg_(?:create|copy)_\w+_replication_slot
  | pg_(?:backup_start|start_backup)
  | hypopg_\w+"""
# What changes a session wherever it stands: functions, what is in the schema of
# temporary objects, and the target of SELECT … INTO. Functions that execute a text can
# do anything.
_NAMES = re.compile(
    rf"""\b(?:
        (?P<set_config> set_config)
      | (?P<lasting> {_LASTING})
      | set_limit | isn_weak
      | pg_(?:try_)?advisory_(?:un)?lock\w*
      | pg_replication_origin_session_reset
      | pg_(?:backup_stop|stop_backup)
      | pg_temp(?:_\d+)?
      | INTO\s+(?:(?:LOCAL|GLOBAL)\s+)?TEMP(?:ORARY)?
      | (?P<executing>
            dblink\w* | \w+_to_xml\w* | ts_stat | ts_rewrite | crosstab\w* | connectby
          | xpath_table )
    )\b""",
    _FLAGS | re.VERBOSE,
)
# The same in a text that something executes.
_LASTING_WITHIN = re.compile(
    rf"\b(?:{_LASTING} | LOAD | seed | (?:CREATE|ALTER)\s+EXTENSION)\b",
    _FLAGS | re.VERBOSE,
)

#: Each match of ``_NAMES`` contains one of these, which are much faster to look for.
_SIGNS = (
    *("set_", "setseed", "advisory_", "dblink", "replication_", "temp", "backup"),
    *("hypopg_", "isn_weak", "_to_xml", "ts_stat", "ts_rewrite", "crosstab"),
    *("connectby", "xpath_"),
)

#: Each text that begins with a harmless word, and isn't clean, contains one of these.
_ALL_SIGNS = (";", "u&", "language", "extension", "pg_settings", *_SIGNS)
#: In a text that is longer, with a quote or placeholder among so many characters at
#: least, looking for all signs takes less time than reading the literals.
_LONG = 4000
_CLOSE = 40

_WRITES = re.compile(r"\b(?:UPDATE|MERGE)\b", _FLAGS)

# A SET, and its setting if that has a meaning of its own: what SET LOCAL search_path
# leads to is not undone by the end of the transaction, and no reset undoes SET seed.
_SETS = re.compile(
    r"""(?:\A|;)[\s(]*SET\b\s*(?:(?:LOCAL|SESSION)\b\s*)?
    (?:(?P<path>search_path|SCHEMA)\b|(?P<seed>seed)\b(?!\s*\.)|(?P<quoted>"))?""",
    _FLAGS | re.VERBOSE,
)
# A call whose text shows the setting and its value.
_PLAIN_CALL = re.compile(rf"\b{MARK}\s*\(\s*'\s*,(?P<value>\s*(?:'\s*)?,)?", _FLAGS)
_WITH_ESCAPES = re.compile(r"\bE'", _FLAGS)
_WITH_UNICODE = re.compile(r"\bU&'", _FLAGS)

# What an analysis of calls of set_config looks at.
_CALLS = re.compile(r"\bset_config\b\s*\(|\bset_config\b|[][(),]", _FLAGS)
_IS_LOCAL = re.compile(r"\s*(?:is_local\s*(?:=>|:=)\s*)?true\s*\Z", _FLAGS)
_LONGEST_FLAG = 80

# A placeholder of which the literal written there can't join what stands beside it.
_PLACEHOLDER = re.compile(r"""(?<![\w'"&])%(?:\(\w+\))?s(?![\w'"&])""", re.ASCII)
# A literal after another one, which it may continue. An empty one may be spaces.
_ADJOINING = re.compile(r"""['E](?<!\wE)\s+'""", _FLAGS)

_kept: dict[str, Judgement] = {}

#: Of the texts kept, those that change no session whatever literals their parameters
#: are: most statements of an application are found here.
harmless: set[str] = set()


def judge(statement: str, reads_escapes: Callable[[], bool]) -> Judgement:
    """Return what a text, of one statement or several, may do to its session.

    What a function does inside the server is not in the text, so it isn't seen.
    ``reads_escapes`` tells whether the server reads every backslash in a string as an
    escape, as with ``standard_conforming_strings`` off; it is asked where a text has
    one.
    """
    found = _kept.get(statement)
    if found is not None and (
        found.escapes is None or found.escapes is reads_escapes()
    ):
        return found
    escapes = reads_escapes() if "\\" in statement else None
    text, has_placeholder = _without_tracers_comments(statement)
    found = _kept.get(text)
    if found is None or found.escapes is not escapes:
        found = _judge(text, escapes)
        if len(text) <= _KEPT_LENGTH:
            if len(_kept) >= _KEPT:
                _kept.clear()
                harmless.clear()
            _kept[text] = found
            if found.is_final and escapes is None:
                harmless.add(text)
    return found._replace(is_final=False) if has_placeholder else found


def effect(statement: str, escapes: bool = False) -> Effect:
    """Return what a text may do to its session, without parameters."""
    return judge(statement, lambda: escapes).effect


def _without_tracers_comments(statement: str) -> tuple[str, bool]:
    """Cut off simple comments at both ends; tell whether they have a placeholder.

    Tracers write such comments, another one for each statement: what was judged before
    would be of no use. Only a comment on one line, with no other in it, is cut off.
    Where such an end is no comment, but the end of a literal or of a line comment, the
    cut leaves a literal open, which counts as a change, or cuts a part of the line
    comment.
    """
    cut: list[str] = []
    if statement.startswith("/*"):
        end = statement.find("*/", 2)
        if end > 0 and _is_simple(statement[2:end]):
            cut.append(statement[2:end])
            statement = statement[end + 2 :].lstrip(" \n\t")
    statement = statement.rstrip("; \n\t")
    if statement.endswith("*/"):
        start = statement.rfind("/*")
        if start >= 0 and _is_simple(statement[start + 2 : -2]):
            cut.append(statement[start + 2 : -2])
            statement = statement[:start].rstrip("; \n\t")
    else:
        start = statement.rfind("--")
        comment = statement[start + 2 :]
        # Without a quote it is in no literal, which would have no end.
        if start >= 0 and _is_simple(comment) and not _ENDS.search(comment):
            cut.append(comment)
            statement = statement[:start].rstrip("; \n\t")
    return statement, any("%" in comment.replace("%%", "") for comment in cut)


_ENDS = re.compile("['\"$]")


def _is_simple(comment: str) -> bool:
    parts = ("/*", "*/", "\n", "\r")
    return MARK not in comment.lower() and not any(part in comment for part in parts)


def _judge(statement: str, escapes: bool | None) -> Judgement:
    if _is_plainly_clean(statement):
        return Judgement(CLEAN, False, escapes)
    code = read(statement, bool(escapes))
    if code is None:
        # The server refuses it, and executes nothing of it.
        return Judgement(DIRTY, False, escapes)
    rest = code.text.replace("%%", " ")
    text, count = _PLACEHOLDER.subn("'", rest)
    found = _effect(code._replace(text=text), bool(escapes))
    is_final = (
        found is CLEAN
        and count == rest.count("%") == _percents(statement)
        and MARK not in text.lower()
        and _SETS.search(text) is None
        and _ADJOINING.search(text) is None
    )
    return Judgement(found, is_final, escapes)


def _is_plainly_clean(statement: str) -> bool:
    """Tell of a long text with many literals whether it has no sign of a change at all.

    An INSERT of many rows is such a text, of which the literals needn't be read. False
    means that it has to be read.
    """
    if len(statement) < _LONG or not statement.isascii():
        return False
    if (statement.count("'") + statement.count("%")) * _CLOSE < len(statement):
        return False
    text = statement.lower().replace("$", "_")  # as in ``Code.text``
    begin = _BEGIN.match(text)
    first = begin and _WORD.match(text, begin.end())
    if not first or first["word"].upper() not in _HARMLESS:
        return False
    return not any(sign in text for sign in _ALL_SIGNS)


def _percents(statement: str) -> int:
    """Return how many signs of percent are no doubled ones."""
    return statement.replace("%%", "").count("%") if "%" in statement else 0


def _effect(code: Code, escapes: bool) -> Effect:
    text, quoted = code.text, "\0".join(code.quoted)
    # A literal with an escape says something else than what stands there. UESCAPE makes
    # any sign the one that begins an escape.
    has_backslash = any("\\" in literal for literal in code.literals)
    in_plain_ones = escapes and has_backslash
    has_escapes = (
        in_plain_ones
        or (has_backslash and _WITH_ESCAPES.search(text) is not None)
        or _WITH_UNICODE.search(text) is not None
    )
    if _UNICODE_NAME.search(text):
        return Effect(True, 'a name in the form U&"…"')
    # Each statement may execute a literal; all literals are searched once.
    execution = cache(lambda: _effect_of_execution(code, has_escapes))
    found = [
        _effect_of_names(text, execution),
        _effect_of_names(quoted, execution),
        _effect_of_settings(code, quoted, has_escapes, in_plain_ones),
    ]
    if any(MARK in comment.lower() for comment in code.comments):
        found.append(DIRTY)
    if _updates_settings(text, quoted):
        found.append(DIRTY)
    if _LOADS.search(text):
        found.append(Effect(True, "the load of a library"))
    for begin in _BEGIN.finditer(text):
        start = begin.end()
        explain = _EXPLAIN.match(text, start)
        # EXPLAIN ANALYZE does what it explains.
        start = explain.end() if explain else start
        found.append(_effect_of_start(text, start, execution))
    lasting = next((each for each in found if each.not_resettable), None)
    return lasting or (DIRTY if DIRTY in found else CLEAN)


def _effect_of_start(text: str, start: int, execution: Callable[[], Effect]) -> Effect:
    """Return what the statement at a place may do, by the words it begins with."""
    first = _WORD.match(text, start)
    assert first is not None
    word = first["word"].upper()
    if word in _HARMLESS or (not word and not first["other"]):
        return CLEAN
    closer_look = _CLOSER_LOOKS.get(word)
    if closer_look is not None and closer_look.match(text, start):
        return CLEAN
    if word in _EXECUTING:
        return execution()
    return Effect(True, "LOAD") if word == "LOAD" else DIRTY


def _effect_of_names(text: str, execution: Callable[[], Effect]) -> Effect:
    """Return what a text may do by what it names, wherever that stands.

    ``execution`` returns what a statement may do that executes its literals.
    """
    lower = text.lower()
    if not any(sign in lower for sign in _SIGNS):
        return CLEAN
    found = CLEAN
    for match in _NAMES.finditer(text):
        if match["lasting"]:
            return Effect(True, match["lasting"])
        if match["executing"] and execution().not_resettable:
            return execution()
        if not match["set_config"]:
            found = DIRTY
    if found is CLEAN and MARK in lower and not _every_set_config_is_local(text):
        return DIRTY
    return found


def _effect_of_execution(code: Code, has_escapes: bool) -> Effect:
    """Return what a statement may do that executes its literals."""
    if has_escapes:
        return Effect(True, "a text with escapes that is executed")
    for literal in code.literals:
        lasting = _LASTING_WITHIN.search(literal) or _LOADS.search(literal)
        if lasting is not None:
            return Effect(True, lasting[0])
    return DIRTY


def _effect_of_settings(
    code: Code, quoted: str, has_escapes: bool, in_plain_ones: bool
) -> Effect:
    """Return what SET LOCAL and set_config() leave behind, whatever their scope."""
    text = code.text
    count = text.lower().count(MARK) + quoted.count(MARK)
    sets = list(_SETS.finditer(text))
    if not count and not sets:
        return CLEAN
    literals = {literal.lower() for literal in code.literals}
    calls = list(_PLAIN_CALL.finditer(text))
    if len(calls) < count or (count and in_plain_ones):
        return Effect(True, f"{MARK} of a setting whose name is no plain literal")
    of_quoted = any(each["quoted"] for each in sets)
    if (
        any(each["seed"] for each in sets)
        or (count and "seed" in literals)
        or (of_quoted and "seed" in code.quoted)
    ):
        return Effect(True, "seed")
    names_path = (
        any(each["path"] for each in sets)
        or (count > 0 and "search_path" in literals)
        or (of_quoted and "search_path" in code.quoted)
    )
    # Tables are created in the first schema of the path, which may be that of temporary
    # ones.
    if names_path and (
        any(not call["value"] for call in calls)
        or has_escapes
        or any("pg_temp" in literal for literal in literals)
    ):
        return DIRTY
    return CLEAN


def _updates_settings(text: str, quoted: str) -> bool:
    """Tell whether a text may change the view pg_settings, which sets settings."""
    is_named = "pg_settings" in text.lower() or "pg_settings" in quoted
    return is_named and _WRITES.search(text) is not None


def _every_set_config_is_local(text: str) -> bool:
    """Tell whether each call of set_config has a literal true as its third argument.

    Such a setting ends with its transaction.
    """
    # For each parenthesis or bracket that is open: whether it is a call's, how many
    # arguments were begun, and where the last one begins.
    open_ones: list[tuple[bool, int, int]] = []
    for token in _CALLS.finditer(text):
        kind = token[0][-1]
        if kind in "([":
            open_ones.append((len(token[0]) > 1, 1, token.end()))
        elif kind not in ",)]":
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
