"""The parts of a statement, compared with those that a scanner of characters finds."""

from __future__ import annotations

import random
import re
import string

import pytest

from dbpool_mw.drivers.postgresql.lexer import read

_NAME = {*string.ascii_letters, *string.digits, "_", "é", "€"}
_TAG = re.compile(r"\$(?:[A-Za-z_é€][A-Za-z0-9_é€]*)?\$")

ATOMS = ["'", "''", '"', '""', "\\", "\\'", "\\\\", "$", "$$", "$a$", "$é$", "/", "*"]
ATOMS += ["/*", "*/", "-", "--", ";", "E", "e'", "E'", "B'", "xE'", "U&'", "', '"]
ATOMS += ["x", "_", "1", "é", "€", " ", "\n", "\r"]


class Scanner:
    """Reads a statement character by character."""

    def __init__(self, text, escapes):
        self.text, self.escapes = text, escapes
        self.code, self.names, self.literals, self.comments = "", [], [], []
        self.position = 0
        # The code since the last part that is none, and whether the string before it
        # has escapes: another one after the end of a line continues it, if only spaces
        # and line comments are between them.
        self.last_code, self.continued = "", None

    def scan(self):
        """Read all; raise IndexError where something has no end."""
        while self.position < len(self.text):
            begin = self.position
            tag = _TAG.match(self.text, begin)
            if self.is_at("'"):
                continues = self.continues()
                literal = self.string()
                if continues:
                    self.literals[-1] += literal
                else:
                    self.literals.append(literal)
            elif self.is_at('"'):
                self.names.append(self.until('"', begin + 1).lower())
            elif tag and not (begin and self.text[begin - 1] in {*_NAME, "$"}):
                self.literals.append(self.until(tag[0], tag.end()))
            elif self.is_at("--"):
                while self.position < len(self.text) and not self.is_at("\n", "\r"):
                    self.position += 1
                self.comments.append(self.text[begin : self.position])
                if not self.is_blank():
                    self.continued = None
                self.end_code()
                continue
            elif self.is_at("/*"):
                self.comments.append(self.nested())
            else:
                self.last_code += self.text[begin]
                self.position += 1
                continue
            if self.text[begin] != "'":
                self.continued = None
            self.end_code()
        self.end_code()

    def end_code(self):
        self.code += self.last_code + " "
        self.last_code = ""

    def is_blank(self):
        # A backslash in code is an error to the server; two are spaces to the lexer.
        return not self.last_code.replace("\\\\", "").strip(" \n\r")

    def is_at(self, *parts):
        return self.text.startswith(parts, self.position)

    def until(self, end, begin):
        self.position = begin
        while not self.is_at(end):
            self.text[self.position]  # raises at the end
            self.position += 1
        self.position += len(end)
        return self.text[begin : self.position - len(end)]

    def nested(self):
        begin, depth = self.position, 0
        while True:
            if self.is_at("/*"):
                depth, self.position = depth + 1, self.position + 2
            elif self.is_at("*/"):
                depth, self.position = depth - 1, self.position + 2
            else:
                self.text[self.position]
                self.position += 1
            if not depth:
                return self.text[begin : self.position]

    def string(self):
        escapes = self.has_escapes()
        backslashes = len(self.last_code) - len(self.last_code.rstrip("\\"))
        if escapes and backslashes % 2:
            raise IndexError("no string begins behind a backslash")
        self.continued = escapes
        self.position += 1
        begin = self.position
        while True:
            if self.is_at("''") or (escapes and self.is_at("\\")):
                self.text[self.position + 1]
                self.position += 2
            elif self.is_at("'"):
                self.position += 1
                return self.text[begin : self.position - 1]
            else:
                self.text[self.position]
                self.position += 1

    def continues(self):
        # After a line comment the end of its line is code.
        is_line = "\n" in self.last_code or "\r" in self.last_code
        return self.continued is not None and is_line and self.is_blank()

    def has_escapes(self):
        if self.continues():
            return self.continued
        kind = self.last_code[-1:].upper()
        if kind in ("E", "B", "X") and self.last_code[-2:-1] not in {*_NAME, "$"}:
            return kind == "E"
        return self.escapes


def scanned(text, escapes):
    """Return what the scanner finds, None where something has no end."""
    scanner = Scanner(text, escapes)
    try:
        scanner.scan()
    except IndexError:
        return None
    found = scanner.names, scanner.literals, scanner.comments
    return plain(scanner.code), *map(contents, found)


def read_by_lexer(text, escapes):
    code = read(text, escapes)
    if code is None:
        return None
    return plain(code.text), *map(contents, code[1:])


def plain(code):
    """Return code without what stands for the other parts, and without spaces."""
    return re.sub(r"""[ '"]""", "", re.sub("[é€$]", "_", code.replace("\\\\", "  ")))


def contents(parts):
    """Return parts without what has spaces in its place, and no empty ones.

    These are doubled quotes and backslashes; at both ends, spaces as well.
    """
    spaced = (part.replace("\\\\", "  ").replace("''", "  ") for part in parts)
    return [part for part in map(str.strip, spaced) if part]


@pytest.mark.parametrize("escapes", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_the_parts_are_those_that_a_scanner_of_characters_finds(seed, escapes):
    chance = random.Random(seed)
    whole = 0
    for _ in range(200):
        atoms = chance.sample(ATOMS, chance.randint(2, len(ATOMS)))
        text = "".join(chance.choices(atoms, k=chance.randint(1, 40)))
        found = scanned(text, escapes)
        assert read_by_lexer(text, escapes) == found, text
        whole += found is not None
    assert whole > 20


@pytest.mark.parametrize("after", ["", "é", "€"])
@pytest.mark.parametrize("seed", range(20))
def test_the_parts_of_a_long_text_are_found_alike(seed, after):
    chance = random.Random(seed)
    inside = ["''", "\\'", "\\\\", "\\x", '"', "$$", "/*", "--", "x", "\n"]
    atoms = chance.sample(inside, chance.randint(1, len(inside)))
    long_ones = ["".join(chance.choices(atoms, k=1000)) for _ in range(3)]
    text = "SELECT " + ", ".join(f"E'{each}', 'y'" for each in long_ones) + after
    found = scanned(text, False)
    assert found is not None
    assert read_by_lexer(text, False) == found
