"""Separate the code of a statement from its literals, comments and quoted names.

It reads what PostgreSQL's own lexer reads (chapter "Lexical Structure" of its
documentation): strings with and without backslash escapes, dollar quotes, quoted
identifiers, comments to the end of a line, and comments that nest. Every character is
read a fixed number of times, so the time is linear in the length of a text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# To PostgreSQL every character that isn't ASCII is a letter.
_LETTER = r"A-Za-z_\x80-\U0010ffff"
# What begins something that isn't code. The alternatives begin with literal characters:
# the search for them is a search for one of a set of characters.
_BEGIN = re.compile(
    rf"""'|"|--|/\*|\$(?<![{_LETTER}0-9$]\$)(?:[{_LETTER}][{_LETTER}0-9]*)?\$"""
)
# Literals in a row, and the code between them if nothing else can begin in it.
_LITERALS = re.compile(r"""(?:'[^']*'[^'"$/-]*){2,500}""")
_QUOTES = re.compile(r"'+")
_LINE_END = re.compile(r"[\r\n]")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_NO_ASCII_NAME = re.compile(r"[^\x00-\x7f]|\$")
_SPACE = " \t\n\r\f\v"


class Code(NamedTuple):
    """The parts of a statement.

    In ``text`` each literal is one ``'`` (an empty one may be spaces), each quoted name
    one ``"``, each comment a space; letters that aren't ASCII, and dollar signs in
    names, are underscores. ``quoted`` has the quoted names in lower case, ``literals``
    what the literals contain, with spaces for doubled quotes and backslashes, and
    ``comments`` the comments.
    """

    text: str
    quoted: list[str]
    literals: list[str]
    comments: list[str]


def read(statement: str, escapes: bool = False) -> Code | None:
    """Return the parts of a statement; None if something in it has no end.

    PostgreSQL executes nothing of such a text. ``escapes``: a backslash escapes in each
    string, not only in ``E'…'``, as with ``standard_conforming_strings`` off.
    """
    # Two backslashes end no string of either kind, and are no escape of what follows.
    # All replacements are as long as what they replace, and join no neighbours.
    if "\\" in statement:
        statement = statement.replace("\\\\", "  ")
    strings = _Strings(statement, escapes)
    pieces: list[str] = []
    quoted: list[str] = []
    literals: list[str] = []
    comments: list[str] = []
    position = 0
    while (begin := _BEGIN.search(statement, position)) is not None:
        start, kind = begin.start(), begin[0]
        code = statement[position:start]
        pieces.append(code)
        if kind != "'" and (kind != "--" or code.strip(_SPACE)):
            strings.end_row()
        if kind == "'":
            # The first string of a row is looked at alone: it may be the only one, and
            # long.
            run = strings.run(start) if literals else None
            if run is not None:
                parts = run[0].split("'")
                pieces.append("'".join(parts[::2]))
                literals += parts[1::2]
                position = run.end()
                continue
            end = strings.end(start, code)
            literals.append(statement[start + 1 : end - 1])
            pieces.append("'")
        elif kind == '"':
            end = statement.find('"', start + 1) + 1
            quoted.append(statement[start + 1 : end - 1].lower())
            pieces.append('"')
        elif kind == "--":
            line_end = _LINE_END.search(statement, start)
            end = len(statement) if line_end is None else line_end.start()
            comments.append(statement[start:end])
            pieces.append(" ")
        elif kind == "/*":
            end = _end_of_comment(statement, start)
            comments.append(statement[start:end])
            pieces.append(" ")
        else:
            end = statement.find(kind, begin.end()) + len(kind)
            if end < begin.end():
                return None
            literals.append(statement[begin.end() : end - len(kind)])
            pieces.append("'")
        if end == 0:
            return None
        position = end
    pieces.append(statement[position:])
    text = "".join(pieces)
    if "$" in text or not text.isascii():
        text = _NO_ASCII_NAME.sub("_", text)
    return Code(text, quoted, literals, comments)


class _Strings:
    """Where the strings in quotes of one statement end.

    Quotes inside of them are taken out of the whole text at once, which takes a small
    part of the time that a look at each of them would take.
    """

    def __init__(self, statement: str, escapes: bool) -> None:
        self._statement = statement
        self._escapes = escapes
        self._has_backslashes = "\\" in statement
        # Whether there are escapes: the text without escaped quotes, and that without
        # doubled quotes too.
        self._texts: dict[bool, tuple[str, str]] = {}
        # Whether the string before this one has escapes, if only spaces and comments
        # have come since.
        self._before: bool | None = None

    def run(self, start: int) -> re.Match[str] | None:
        """Return strings in a row and the code after each; None if there is no row.

        Only where no backslash is in the text: all kinds of strings end alike then.
        """
        if self._has_backslashes:
            return None
        return _LITERALS.match(self._text(False)[1], start)

    def end(self, start: int, code: str) -> int:
        """Return where a string ends that begins at ``start``; 0 if it has no end.

        ``code`` is what stands before it, from the last literal or comment on.
        """
        escapes = self._has_backslashes and self._has_escapes(start, code)
        self._before = escapes
        text, without_doubled = self._text(escapes)
        opening = _QUOTES.match(text, start)
        if opening is None:
            return 0  # behind a backslash that isn't in a string
        if (opening.end() - start) % 2 == 0:
            return opening.end()
        return without_doubled.find("'", opening.end()) + 1

    def end_row(self) -> None:
        """Say that a string after this does not continue the last one."""
        self._before = None

    def _has_escapes(self, start: int, code: str) -> bool:
        if self._before is not None and not code.strip(_SPACE):
            # It continues the string before, if a line has ended between them; without
            # that it would be a syntax error.
            return self._before
        kind = code[-1:].upper()
        if kind not in ("E", "B", "X") or _is_of_name(code[-2:-1]):
            return self._escapes
        return kind == "E"

    def _text(self, escapes: bool) -> tuple[str, str]:
        if escapes not in self._texts:
            text = self._statement
            if escapes:
                text = text.replace("\\'", "  ")
            self._texts[escapes] = text, text.replace("''", "  ")
        return self._texts[escapes]


def _is_of_name(character: str) -> bool:
    """Tell whether a character can stand in an identifier; False for none."""
    return character.isalnum() or character in ("_", "$") or character >= "\x80"


def _end_of_comment(statement: str, start: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(statement, start):
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            return edge.end()
    return 0
