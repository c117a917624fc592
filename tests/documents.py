"""The project's documents: code blocks that tests run, and tables that tests write.

With DBPOOL_MW_TEST_WRITE_DOCS=1 a run writes its tables into the documents.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WRITE = os.environ.get("DBPOOL_MW_TEST_WRITE_DOCS") == "1"

#: All of them.
DOCUMENTS = sorted([*ROOT.glob("*.rst"), *ROOT.glob("docs/**/*.rst")])

#: The comments before and after a table that a run writes.
BEGIN, END = ".. {}: begin\n\n", "\n\n.. {}: end"


def relative(path: Path) -> str:
    """Return a path as it is from the root of the checkout."""
    return str(path.relative_to(ROOT))


def code_blocks(document: str, language: str = "python") -> list[str]:
    """Return the code blocks of a document, in order."""
    return blocks_of((ROOT / document).read_text(encoding="utf-8"), language)


def blocks_of(text: str, language: str = "python") -> list[str]:
    """Return the code blocks of a part of a document, in order."""
    blocks = []
    for part in text.split(f".. code-block:: {language}\n")[1:]:
        lines = part.split("\n")
        # The block ends before the first line that isn't indented.
        end = next(
            (at for at, line in enumerate(lines) if line and not line.startswith(" ")),
            len(lines),
        )
        blocks.append(textwrap.dedent("\n".join(lines[:end])).strip() + "\n")
    return blocks


def sections(document: str) -> dict[str, str]:
    """Return the sections of a document by their titles."""
    text = (ROOT / document).read_text(encoding="utf-8")
    _, *parts = re.split(r"^(\S.*)\n=+\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def code_block(document: str, containing: str, language: str = "python") -> str:
    """Return the one code block of a document that contains a text."""
    (found,) = [b for b in code_blocks(document, language) if containing in b]
    return found


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in reStructuredText."""
    every = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in every]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def written_table(document: str, name: str = "figures") -> str:
    """Return the table of that name that a run wrote into a document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return text.partition(BEGIN.format(name))[2].partition(END.format(name))[0]


def write_table(document: str, text: str, name: str = "figures") -> None:
    """Replace the table between the two comments of that name in a document."""
    path = ROOT / document
    content = path.read_text(encoding="utf-8")
    head, begin, rest = content.partition(BEGIN.format(name))
    _, end, tail = rest.partition(END.format(name))
    path.write_text(head + begin + text + end + tail, encoding="utf-8")
