"""The code blocks of the project's documents, for the tests that run them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def code_blocks(document: str, language: str = "python") -> list[str]:
    """Return the code blocks of a document, in their order."""
    return blocks_of((ROOT / document).read_text(encoding="utf-8"), language)


def blocks_of(text: str, language: str = "python") -> list[str]:
    """Return the code blocks of a part of a document, in their order."""
    blocks = []
    for part in text.split(f".. code-block:: {language}\n")[1:]:
        lines = part.split("\n")
        # The block goes on until a line that isn't indented.
        end = next(
            (at for at, line in enumerate(lines) if line and not line.startswith(" ")),
            len(lines),
        )
        blocks.append(textwrap.dedent("\n".join(lines[:end])).strip() + "\n")
    return blocks


def sections(document: str) -> dict[str, str]:
    """Return the parts of a document by their titles."""
    text = (ROOT / document).read_text(encoding="utf-8")
    _, *parts = re.split(r"^(\S.*)\n=+\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def code_block(document: str, containing: str, language: str = "python") -> str:
    """Return the one code block of a document that contains a text."""
    (found,) = [b for b in code_blocks(document, language) if containing in b]
    return found
