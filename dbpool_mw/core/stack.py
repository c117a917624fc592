"""The stack of a checkout: cheap to capture, turned into text only when it is shown.

``traceback.StackSummary.extract`` would look up the line number of every frame at the
checkout; that is done here when the stack is shown, which is rare.
"""

from __future__ import annotations

import sys
import traceback
from types import CodeType, FrameType

from .text import printable

#: How many frames are captured, from the innermost on.
DEPTH = 30

#: For each call its code, and the position in it.
Stack = tuple[tuple[CodeType, int], ...]


def capture() -> Stack:
    """Return the stack of the caller, without its line numbers."""
    frame: FrameType | None = sys._getframe(1)
    found: list[tuple[CodeType, int]] = []
    while frame is not None and len(found) < DEPTH:
        found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


def lines(stack: Stack) -> list[str]:
    """Return a stack as printable lines of a traceback, the outermost call first."""
    summary = traceback.StackSummary.from_list(
        [
            (code.co_filename, _line(code, position), code.co_name, None)
            for code, position in stack[::-1]
        ]
    )
    return [
        printable(line)
        for entry in summary.format()
        for line in entry.rstrip().split("\n")
    ]


def _line(code: CodeType, position: int) -> int:
    lines = (line for start, end, line in code.co_lines() if start <= position < end)
    return next(lines, None) or code.co_firstlineno
