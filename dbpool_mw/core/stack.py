"""The stack of a checkout, or of a thread: captured cheaply, and shown as text.

``traceback.StackSummary.extract`` would look up the line number of every frame at the
checkout; that is done here when the stack is shown, which is rare.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType

from .text import printable

#: How many frames are captured, from the innermost on.
DEPTH = 30

#: For each call its code, and the position in it.
Stack = tuple[tuple[CodeType, int], ...]

_INSTALLED = ("stdlib", "platlib", "purelib", "scripts")
#: How the files begin that aren't the project's: this package's and installed ones.
_OTHERS = (
    "<",
    str(Path(__file__).parents[1]) + os.sep,
    *(sysconfig.get_path(name) + os.sep for name in _INSTALLED),
    *(path + os.sep for path in (*site.getsitepackages(), site.getusersitepackages())),
)

#: The modules in which a thread waits for the calls that coroutines make in it, and
#: those of their queues.
_EXECUTORS = ("concurrent.futures.thread", "asgiref.current_thread_executor")
_QUEUES = ("queue", "threading")


def frames() -> Iterator[FrameType]:
    """Yield the frames of the running thread, from the innermost on."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def capture() -> Stack:
    """Return the stack of the caller, without its line numbers."""
    frame: FrameType | None = sys._getframe(1)
    found: list[tuple[CodeType, int]] = []
    while frame is not None and len(found) < DEPTH:
        found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


def of_thread(ident: int) -> Stack:
    """Return where another thread is now, from the project's own code on.

    Without the server's and the framework's calls around it; they stay where no code of
    the project runs. Empty for a thread that has ended, for a greenlet, for the running
    thread, which is where it asks, and for one that waits for an async view's next
    call: where the view is, its stack doesn't say.
    """
    if ident == threading.get_ident():
        return ()
    innermost = frame = sys._current_frames().get(ident)
    found: list[tuple[CodeType, int]] = []
    own = 0
    while frame is not None:
        found.append((frame.f_code, frame.f_lasti))
        if not frame.f_code.co_filename.startswith(_OTHERS):
            own = len(found)
        frame = frame.f_back
    if not own and _waits_for_calls(innermost):
        return ()
    return tuple(found[: own or len(found)][:DEPTH])


def _waits_for_calls(frame: FrameType | None) -> bool:
    """Tell whether a thread has nothing to do but calls that others will ask for."""
    while frame is not None and frame.f_globals.get("__name__") in _QUEUES:
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") in _EXECUTORS


def where(ident: int, stack: Stack) -> list[str]:
    """Return where a holder's thread is now, and where it checked out, as lines.

    ``stack`` is that of the checkout, empty for one at a request's start.
    """
    now = of_thread(ident)
    found = ["now here:", *lines(now)] if now else []
    if stack:
        found += ["checked out here:", *lines(stack)]
    return found or ["checked out at the start of its request"]


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
