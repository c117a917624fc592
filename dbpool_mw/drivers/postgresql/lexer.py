"""Separate the code of a statement from its literals, comments and quoted names.

It reads what PostgreSQL's own lexer reads (chapter "Lexical Structure" of its
documentation): strings with and without backslash escapes, dollar quotes, quoted
identifiers, comments to the end of a line, and comments that nest. Every character is
read a fixed number of times, so the time is linear in the length of a text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# What begins something that isn't code. The alternatives begin with literal characters:
# the search for them is a search for one of a set of characters.
_BEGIN = re.compile(r"'|\"|\$|--|/\*")
_ESCAPE_STRING = re.compile(r"'[^'\\]*(?:(?:\\.?|'')[^'\\]*)*'?", re.DOTALL)
_DOLLAR_QUOTE = re.compile(r"\$(?:[^\W\d]\w*)?\$")
_TO_LINE_END = re.compile(r"[^\r\n]*")
_COMMENT_EDGE = re.compile(r"/\*|\*/")


class Code(NamedTuple):
    """The parts of a statement.

    In ``text`` each literal is one ``'``, each quoted name one ``"``, and each comment
    a space. ``quoted`` has the quoted names, ``comments`` the comments.
    """

    text: str
    quoted: list[str]
    comments: list[str]


def read(statement: str) -> Code | None:
    """Return the parts of a statement; None if it can't be read with certainty.

    That is a statement in which something has no end, one with a name in the form
    ``U&"…"``, and one in which a backslash stands before a quote that may end a string
    or may not, depending on ``standard_conforming_strings``.
    """
    statement = _simplified(statement)
    pieces: list[str] = []
    quoted: list[str] = []
    comments: list[str] = []
    position = 0
    while (begin := _BEGIN.search(statement, position)) is not None:
        start, kind = begin.start(), begin[0]
        end: int | None
        replacement = " "
        if kind == "'":
            end, replacement = _end_of_string(statement, start), "'"
        elif kind == '"':
            end, replacement = _end_of(statement, '"', start + 1), '"'
            if end is not None:
                quoted.append(statement[start + 1 : end - 1].lower())
            if statement[max(start - 2, 0) : start] in ("U&", "u&"):
                return None
        elif kind == "$":
            tag = _DOLLAR_QUOTE.match(statement, start)
            if tag is None or _is_part_of_word(statement, start - 1):
                end, replacement = start + 1, "$"
            else:
                end, replacement = _end_of(statement, tag[0], tag.end()), "'"
        elif kind == "--":
            line = _TO_LINE_END.match(statement, start + 2)
            assert line is not None
            comments.append(line[0])
            end = line.end()
        else:
            end = _end_of_comment(statement, start)
            comments.append(statement[start:end])
        if end is None:
            return None
        pieces += statement[position:start], replacement
        position = end
    pieces.append(statement[position:])
    return Code("".join(pieces), quoted, comments)


def _simplified(statement: str) -> str:
    """Take doubled backslashes and doubled quotes out, where that changes no border.

    They are what a hostile text would have most of, and each would cost a step. Two
    backslashes end no string of either kind. Two quotes in a string are one of its
    characters, and outside of one they are an empty string; only behind a backslash,
    the first of them may belong to the backslash.
    """
    if "\\\\" in statement:
        statement = statement.replace("\\\\", "")
    if "''" in statement and "\\'" not in statement:
        # The long runs first: what takes time is the number of replacements.
        statement = statement.replace("''" * 16, " ").replace("''", " ")
    return statement


def _end_of_string(statement: str, start: int) -> int | None:
    """Return where a string ends that begins with the quote at ``start``."""
    has_escapes = (
        statement[start - 1 : start] in ("e", "E")
        and start > 0
        and not _is_part_of_word(statement, start - 2)
    )
    if not has_escapes:
        end = statement.find("'", start + 1)
        # With standard_conforming_strings off, the backslash would escape the quote.
        if end < 0 or statement[end - 1] == "\\":
            return None
        return end + 1
    string = _ESCAPE_STRING.match(statement, start)
    assert string is not None
    is_closed = len(string[0]) > 1 and string[0].endswith("'")
    return string.end() if is_closed else None


def _end_of(statement: str, closing: str, start: int) -> int | None:
    found = statement.find(closing, start)
    return None if found < 0 else found + len(closing)


def _end_of_comment(statement: str, start: int) -> int | None:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(statement, start):
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            return edge.end()
    return None


def _is_part_of_word(statement: str, position: int) -> bool:
    """Tell whether the character at a position can stand in an identifier."""
    if position < 0:
        return False
    character = statement[position]
    return character.isalnum() or character in "_$"
