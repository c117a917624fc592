"""Lines of the documents have at most 100 columns where they can be broken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import DOCUMENTS, relative

LIMIT = 100

RULE = re.compile(r"\s*=+(?: +=+)+")
#: What stands before the text of a line.
MARGIN = re.compile(r"\s*(?:[-*] |\d+\. )?")
#: What announces a literal block: a directive for code, or a line of text.
LITERAL = re.compile(r"\s*\.\. code-block::.*|(?!\s*\.\. ).*::")


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Give the numbers and lines that are in no table and in no literal block."""
    lines = text.splitlines()
    in_table, outside = False, LIMIT  # a literal block ends where the margin is outside
    for number, (line, following) in enumerate(
        zip(lines, [*lines[1:], ""], strict=True), start=1
    ):
        match = MARGIN.match(line)
        margin = match.end() if match else 0
        if line and margin <= outside:
            outside = margin if LITERAL.fullmatch(line) else LIMIT
            if RULE.fullmatch(line):
                in_table = bool(following)  # an empty line follows the last rule
            elif not in_table:
                yield number, line


def too_long(text: str) -> list[str]:
    """Return the lines that have to be broken, with their numbers."""
    return [
        f"{number}: {line}"
        for number, line in prose(text)
        if len(line) > LIMIT and "://" not in line
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_no_line_of_text_is_too_long(path: Path) -> None:
    assert too_long(path.read_text(encoding="utf-8")) == []


def test_only_tables_literal_blocks_and_addresses_may_be_longer() -> None:
    long = "word " * 20 + "word"
    text = f"""\
{long}

- An item::

      {long}

  {long}

.. code-block:: python

    {long}

=====  =====
One    Other
=====  =====
One    {long}
=====  =====

.. setting:: TIMEOUT

    {long}

See https://example.com/ {long}
"""
    found = [int(line.partition(":")[0]) for line in too_long(text)]
    assert found == [1, 7, 21]
