"""Show a statement to people: without its literals, numbers and comments.

What stands in them may be secret. Names stay, quoted ones too. Parameters are no part
of a statement's text before the library puts them in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dbpool_mw.core.text import STATEMENT, one_line

from .lexer import Code, read

_MASK = "?"
_MORE = " ..."
#: How many characters are read of a statement: no more can be shown.
_MOST = 4 * STATEMENT

#: A placeholder and what is glued to it; a number. Both begin a word.
_VALUE = re.compile(r"(%(?:\([^)]*\))?[a-z])\w+|(?<!\w)\.?\d[\w.]*", re.ASCII)
_TAG = re.compile(r"\$(?:[^\W\d]\w*)?\$")
_FIRST_WORD = re.compile(r"\s*([A-Za-z]{1,20})\b")


def shown(statement: str) -> str:
    """Return the text of a statement with a mark for each literal and number.

    It is printable, of one line, and has at most STATEMENT characters. Where code can't
    be told from literals, the first word alone is shown.
    """
    begin = statement[:_MOST]
    is_cut = len(statement) > _MOST
    code = next(
        filter(None, map(_read, _completed(begin) if is_cut else [begin])), None
    )
    if code is None:
        word = _FIRST_WORD.match(begin)
        return (word[1] if word else "") + _MORE
    names = _as_written(begin, code.quoted)
    text = _VALUE.sub(lambda found: (found[1] or "") + _MASK, code.text)
    text = re.sub('"', lambda _: f'"{next(names)}"', text.replace("'", _MASK))
    return one_line(text + _MORE if is_cut else text, STATEMENT)


def _as_written(text: str, quoted: list[str]) -> Iterator[str]:
    """Yield the quoted names of a text in upper and lower case, as they stand in it."""
    lower, position = text.lower(), 0
    for name in quoted:
        found = lower.find(f'"{name}"', position) + 1
        position = found + len(name)
        written = text[found:position]
        # Some letters are longer in lower case, and what follows stands elsewhere.
        yield written if found and written.lower() == name else name


def _completed(begin: str) -> Iterator[str]:
    """Yield a text that was cut, with what may be missing: one of them has an end.

    Only what ends that in which the text was cut makes it complete.
    """
    yield begin
    yield begin.rstrip("\\") + "'"
    yield begin + '"'
    for depth in range(1, 4):
        yield begin + "*/" * depth
    for tag in dict.fromkeys(_TAG.findall(begin)[:5]):
        yield begin + tag


def _read(text: str) -> Code | None:
    """Return the parts of a text, None if they depend on the session's settings."""
    code = read(text)
    if code is None or "\\" not in text:
        return code
    other = read(text, escapes=True)
    same = other is not None and (other.text, other.quoted) == (code.text, code.quoted)
    return code if same else None
