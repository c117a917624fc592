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
# Literals in a row, and the code between them if nothing else can begin in it. Spaces
# alone don't separate two literals.
_LITERALS = re.compile(r"""(?:'[^']*'(?!\s*')[^'"$/-]*){2,500}""", re.ASCII)
# The rest of a quoted name after a doubled quote.
_NAMES = re.compile(r"""(?:"[^"]*"){1,500}""")
_QUOTES = re.compile(r"'+")
_NO_ASCII_NAME = re.compile(r"[^\x00-\x7f]|\$")
_SPACE = " \t\n\r\f\v"
# Characters from which on a text is searched as bytes.
_LONG = 1000


class Code(NamedTuple):
    """The parts of a statement.

    In ``text`` each literal is one ``'`` (an empty one may be spaces), each quoted name
    one ``"``, each comment a space; letters that aren't ASCII, and dollar signs in
    names, are underscores. ``quoted`` has the quoted names in lower case, ``literals``
    what the literals contain, with spaces for doubled quotes and backslashes, and
    ``comments`` the comments. Strings of which one continues the other on another line
    are one literal.
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
        statement = _blanked(statement, "\\\\")
    # Each end of a line is found by one search for one character.
    lines = statement.replace("\r", "\n")
    strings = _Strings(statement, escapes)
    pieces: list[str] = []
    quoted: list[str] = []
    literals: list[str] = []
    continued: set[int] = set()  # the indices of literals that continue another one
    comments: list[str] = []
    position = 0
    while (begin := _BEGIN.search(statement, position)) is not None:
        start, kind = begin.start(), begin[0]
        code = statement[position:start]
        pieces.append(code)
        if kind != "'" and (kind != "--" or code.strip(_SPACE)):
            strings.end_row()
        if kind == "'":
            continues = strings.continues(code)
            # The first string of a row is looked at alone: it may be the only one, and
            # long.
            run = None if continues or not literals else strings.run(start)
            if run is not None:
                parts = run[0].split("'")
                pieces.append("'".join(parts[::2]))
                literals += parts[1::2]
                position = run.end()
                if parts[-1].strip(_SPACE):
                    strings.end_row()
                continue
            end = strings.end(start, code)
            if continues:
                continued.add(len(literals))
            else:
                pieces.append("'")
            literals.append(statement[start + 1 : end - 1])
        elif kind == '"':
            names = None if code else _NAMES.match(statement, start)
            if names is not None:
                parts = names[0].lower().split('"')[1::2]
                pieces.append('"' * len(parts))
                quoted += parts
                position = names.end()
                continue
            end = statement.find('"', start + 1) + 1
            quoted.append(statement[start + 1 : end - 1].lower())
            pieces.append('"')
        elif kind == "--":
            end = lines.find("\n", start)
            if end < 0:
                end = len(statement)
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
    if continued:
        literals = _joined(literals, continued)
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
        # The text without escaped quotes; whether there are escapes: the text without
        # doubled quotes too. Both are made when a string needs them.
        self._unescaped: str | None = None
        self._texts: dict[bool, str] = {}
        # Whether the string before this one has escapes, if only spaces and comments
        # to the end of a line have come since.
        self._before: bool | None = None

    def run(self, start: int) -> re.Match[str] | None:
        """Return strings in a row and the code after each; None if there is no row.

        Only where no backslash is in the text: all kinds of strings end alike then.
        """
        if self._has_backslashes:
            return None
        run = _LITERALS.match(self._without_doubled(False), start)
        if run is not None:
            self._before = False
        return run

    def continues(self, code: str) -> bool:
        """Tell whether a string after such code is one with the string before."""
        return (
            self._before is not None
            and ("\n" in code or "\r" in code)
            and not code.strip(_SPACE)
        )

    def end(self, start: int, code: str) -> int:
        """Return where a string ends that begins at ``start``; 0 if it has no end.

        ``code`` is what stands before it, from the last literal or comment on.
        """
        escapes = self._has_backslashes and self._has_escapes(start, code)
        self._before = escapes
        text = self._text(escapes)
        opening = _QUOTES.match(text, start)
        if opening is None:
            return 0  # behind a backslash that isn't in a string
        if (opening.end() - start) % 2 == 0:
            return opening.end()
        end = text.find("'", opening.end()) + 1
        if text.startswith("'", end):
            end = self._without_doubled(escapes).find("'", opening.end()) + 1
        return end

    def end_row(self) -> None:
        """Say that a string after this does not continue the last one."""
        self._before = None

    def _has_escapes(self, start: int, code: str) -> bool:
        if self._before is not None and self.continues(code):
            return self._before
        kind = code[-1:].upper()
        if kind not in ("E", "B", "X") or _is_of_name(code[-2:-1]):
            return self._escapes
        return kind == "E"

    def _text(self, escapes: bool) -> str:
        if not escapes:
            return self._statement
        if self._unescaped is None:
            self._unescaped = _blanked(self._statement, "\\'")
        return self._unescaped

    def _without_doubled(self, escapes: bool) -> str:
        text = self._texts.get(escapes)
        if text is None:
            text = self._texts[escapes] = _blanked(self._text(escapes), "''")
        return text


def _joined(literals: list[str], continued: set[int]) -> list[str]:
    """Return literals, each with those that continue it."""
    rows: list[list[str]] = []
    for index, literal in enumerate(literals):
        if index in continued:
            rows[-1].append(literal)
        else:
            rows.append([literal])
    return ["".join(row) for row in rows]


def _blanked(text: str, pair: str) -> str:
    """Return a text with two spaces in the place of each such pair of characters."""
    # A text of many pairs takes less time as bytes, a short one more.
    if len(text) < _LONG or not text.isascii():
        return text.replace(pair, "  ")
    return text.encode().replace(pair.encode(), b"  ").decode()


def _is_of_name(character: str) -> bool:
    """Tell whether a character can stand in an identifier; False for none."""
    return character.isalnum() or character in ("_", "$") or character >= "\x80"


def _end_of_comment(statement: str, start: int) -> int:
    depth, position = 0, start
    while (closing := statement.find("*/", position)) >= 0:
        depth += statement.count("/*", position, closing + 1)
        # In /*/ the star belongs to the comment's beginning.
        if statement.startswith("/", closing - 1) and closing > position:
            position = closing + 1
            continue
        depth -= 1
        position = closing + 2
        if not depth:
            return position
    return 0
