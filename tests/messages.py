"""What the package logs and raises, read from its source.

In a text ``…`` stands for each value. A text is found where it is written: as an
argument of the call, or as what the same function assigns to the name that is the
argument.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.documents import ROOT

PACKAGE = ROOT / "dbpool_mw"
LEVELS = ("exception", "critical", "error", "warning", "info", "debug")
#: A value in a text of ``logging``.
_PLACEHOLDER = re.compile(r"%(?:\.\d+)?[a-z]")

#: What a function assigns to names.
_Names = Mapping[str, list[ast.expr]]


class Logged(NamedTuple):
    """A call of a logger: its method, the logger's name, and the text."""

    level: str
    logger: str
    text: str


class Raised(NamedTuple):
    """An exception that is made: its class, its text, and the file in the package."""

    kind: str
    text: str
    file: str


def loggers() -> set[str]:
    """Return the names of all loggers."""
    return {name for _, tree in _sources() for name in _loggers(tree)}


def logged() -> list[Logged]:
    """Return what is logged, the most severe first. Fails for a text it can't find."""
    found = set()
    for path, tree in _sources():
        for call, names in _calls(tree, {}):
            if isinstance(call.func, ast.Attribute) and call.func.attr in LEVELS:
                assert ast.unparse(call.func.value) == "logger", f"{path}:{call.lineno}"
                (logger,) = _loggers(tree)
                text = _filled(*(_text(argument, names) for argument in call.args))
                found.add(Logged(call.func.attr, logger, one_line(text)))
    return sorted(found, key=lambda one: (LEVELS.index(one.level), one))


def raised() -> list[Raised]:
    """Return the exceptions with a text that the package makes."""
    found = set()
    for path, tree in _sources():
        file = str(path.relative_to(PACKAGE))
        kinds = _exceptions(tree)
        for call, names in _calls(tree, {}):
            kind = ast.unparse(call.func).split(".")[-1]
            if kind in kinds:
                # A pool's errors begin with the alias, and may end with details.
                texts = [_text(argument, names) for argument in call.args]
                found |= {
                    Raised(kind, one_line(t), file) for t in texts if t.strip("…")
                }
    return sorted(found)


def one_line(text: str) -> str:
    """Return a text with single spaces, and one ``…`` for values in a row."""
    return re.sub("…+", "…", " ".join(text.split()))


def _sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def _loggers(tree: ast.Module) -> list[str]:
    """Return the names of the loggers that a module gets."""
    return [
        ast.literal_eval(call.args[0])
        for call, _ in _calls(tree, {})
        if ast.unparse(call.func) == "get_logger"
    ]


def _exceptions(tree: ast.Module) -> set[str]:
    """Return the classes that a module raises, and those that it only makes."""
    raised = {
        ast.unparse(node.exc.func).split(".")[-1]
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    }
    named = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Name)
        for name in [node.id]
        if re.search(r"(Error|Failed|Timeout|TooLong|Closed|Requests)$", name)
    }
    return {name for name in raised | named if name[0].isupper()}


def _calls(node: ast.AST, names: _Names) -> Iterator[tuple[ast.Call, _Names]]:
    """Give each call in a node, with what its function assigns to names."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        names = defaultdict(list)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Assign) and isinstance(inner.targets[0], ast.Name):
                names[inner.targets[0].id].append(inner.value)
    if isinstance(node, ast.Call):
        yield node, names
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, names)


def _filled(text: str, *values: str) -> str:
    """Return a text of ``logging`` with its values, those that are known."""
    left = list(values)
    return _PLACEHOLDER.sub(lambda _: left.pop(0) if left else "…", text)


def _text(node: ast.expr, names: _Names) -> str:
    """Return the text of an expression, with ``…`` for what isn't known."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, names)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, names) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left, names) + _text(node.right, names)
    if isinstance(node, ast.Name):
        # What was assigned last before this use.
        values = [v for v in names.get(node.id, ()) if v.lineno < node.lineno]
        if values:
            return _text(max(values, key=lambda value: value.lineno), {})
    return "…"
