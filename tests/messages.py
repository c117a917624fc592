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
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.documents import ROOT

PACKAGE = ROOT / "dbpool_mw"
LEVELS = ("exception", "critical", "error", "warning", "info", "debug")
#: A value in a text of ``logging``.
_PLACEHOLDER = re.compile(r"%(?:\.\d+)?[a-z]")

#: An exception that is made, and perhaps raised elsewhere.
_ERROR = re.compile(r"(Error|Failed|Timeout|TooLong|Cancelled|Closed|Requests)$")
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


class _Call(NamedTuple):
    """A call, and the name of what is called, without what stands before a dot."""

    name: str
    node: ast.Call
    names: _Names

    def texts(self) -> list[str]:
        """Return the texts of the arguments, ``…`` for one that has none."""
        return [_text(argument, self.names) for argument in self.node.args]


@cache
def loggers() -> frozenset[str]:
    """Return the names of all loggers."""
    return frozenset(name for module in _modules() for name in module.loggers)


@cache
def logged() -> tuple[Logged, ...]:
    """Return what is logged, the most severe first. Fails for a text it can't find."""
    found = set()
    for module in _modules():
        for call in module.calls:
            if isinstance(call.node.func, ast.Attribute) and call.name in LEVELS:
                assert ast.unparse(call.node.func.value) == "logger", module.file
                (logger,) = module.loggers
                text = one_line(_filled(*call.texts()))
                found.add(Logged(call.name, logger, text))
    return tuple(sorted(found, key=lambda one: (LEVELS.index(one.level), one)))


@cache
def raised() -> tuple[Raised, ...]:
    """Return the exceptions with a text that the package makes."""
    return tuple(
        sorted(
            # A pool's errors have more than one text: their details.
            Raised(call.name, one_line(text), module.file)
            for module in _modules()
            for call in module.calls
            if call.name in module.exceptions
            for text in call.texts()
            if re.search("[a-z]", text)
        )
    )


def one_line(text: str) -> str:
    """Return a text with single spaces, and one ``…`` for values in a row."""
    return re.sub("…(?: ?…)+", "…", " ".join(text.split()))


class _Module(NamedTuple):
    """A file of the package: its path there, its calls, and what it names."""

    file: str
    calls: list[_Call]
    loggers: list[str]
    #: The classes that it raises, and those that have an error's name.
    exceptions: set[str]


@cache
def _modules() -> tuple[_Module, ...]:
    return tuple(map(_module, sorted(PACKAGE.rglob("*.py"))))


def _module(path: Path) -> _Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = list(_calls(tree, {}))
    raised = {
        _name(node.exc.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    }
    return _Module(
        str(path.relative_to(PACKAGE)),
        calls,
        [
            ast.literal_eval(call.node.args[0])
            for call in calls
            if call.name == "get_logger"
        ],
        {name for name in raised if name[:1].isupper()}
        | {call.name for call in calls if _ERROR.search(call.name)},
    )


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _calls(node: ast.AST, names: _Names) -> Iterator[_Call]:
    """Give each call in a node, with what its function assigns to names."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        names = defaultdict(list)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Assign) and isinstance(inner.targets[0], ast.Name):
                names[inner.targets[0].id].append(inner.value)
    if isinstance(node, ast.Call):
        yield _Call(_name(node.func), node, names)
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
