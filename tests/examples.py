"""The examples of the documents: every block of code, and which test reads it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from docutils import nodes
from docutils.core import publish_doctree

from tests.documents import ROOT, code_blocks

TESTS = ROOT / "tests"


class Example(NamedTuple):
    """A block of code: its document, its language, "" if none is named, its text."""

    document: str
    language: str
    text: str

    def __str__(self) -> str:
        """Return the document and the first line."""
        return f"{self.document}: {self.text.splitlines()[0]}"


@cache
def examples() -> tuple[Example, ...]:
    """Return every block of code in docs/, in order."""
    return tuple(
        Example(str(path.relative_to(ROOT)), _language(node), node.astext())
        for path in sorted((ROOT / "docs").rglob("*.rst"))
        for node in _tree(path).findall(nodes.literal_block)
        if not isinstance(node.parent, nodes.system_message)
    )


def _tree(path: Path) -> nodes.document:
    # Directives of Sphinx are unknown here; `make docs` reports what is wrong.
    settings = {"report_level": 5, "file_insertion_enabled": False}
    return publish_doctree(
        path.read_text(encoding="utf-8"), settings_overrides=settings
    )


def _language(node: nodes.literal_block) -> str:
    return " ".join(name for name in node["classes"] if name != "code")


@cache
def readers() -> dict[Example, str]:
    """Return the examples that tests read by ``documents``, each with a reader."""
    found = {}
    for path in sorted(TESTS.rglob("*.py")):
        for document, language, containing in _reads(path):
            for text in code_blocks(document, language):
                if containing in text:
                    example = Example(document, language, text.strip())
                    found[example] = str(path.relative_to(ROOT))
    return found


def _reads(path: Path) -> Iterator[tuple[str, str, str]]:
    """Give the document, the language and a part of the blocks that a file reads."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        name = node.func.id if _is_call_of_a_name(node) else ""
        if name in ("code_block", "code_blocks"):
            words = [_text(constants, each) for each in node.args]
            if name == "code_blocks":
                words.insert(1, "")
            document, containing, language, *_ = [*words, "python"]
            if document is not None and containing is not None:
                yield document, str(language), containing


def _is_call_of_a_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def _text(constants: dict[str, ast.expr], node: ast.expr) -> str | None:
    """Return a text, or what it begins with, that is written in a file."""
    if isinstance(node, ast.Name):
        node = constants.get(node.id, node)
    if isinstance(node, ast.JoinedStr):
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) else None
