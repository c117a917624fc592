"""The stack of a checkout, or of a thread: captured cheaply, and shown as text.

``traceback.StackSummary.extract`` would look up the line number of every frame at the
checkout; that is done here when the stack is shown, which is rare.
"""

from __future__ import annotations

import contextlib
import gc
import os
import site
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

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

#: Held while the collector of cycles is switched off. A fork waits for it: its child
#: would have none for good.
_no_collector = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_no_collector.acquire,
        after_in_parent=_no_collector.release,
        after_in_child=_no_collector.release,
    )


class Call(NamedTuple):
    """What a thread executes: a module's name, a code, and the position in it."""

    module: object
    code: CodeType
    position: int


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


def of_threads() -> dict[int, list[Call]]:
    """Return what each thread executes now, by its ident, the innermost call first."""
    with _kept_from_collecting():
        return {
            ident: list(_calls(frame)) for ident, frame in sys._current_frames().items()
        }


def of_thread(ident: int) -> Stack:
    """Return where another thread is now, from the project's own code on.

    Without the server's and the framework's calls around it; they stay where no code of
    the project runs. Empty for a thread that has ended, for a greenlet, for the running
    thread, which is where it asks, and for one that waits for an async view's next
    call: where the view is, its stack doesn't say.
    """
    if ident == threading.get_ident():
        return ()
    with _kept_from_collecting():
        calls = list(_calls(sys._current_frames().get(ident)))
    own = 0
    for depth, call in enumerate(calls, 1):
        if not call.code.co_filename.startswith(_OTHERS):
            own = depth
    if not own and _waits_for_calls(calls):
        return ()
    shown = calls[: own or len(calls)][:DEPTH]
    return tuple((call.code, call.position) for call in shown)


def _calls(frame: FrameType | None) -> Iterator[Call]:
    while frame is not None:
        yield Call(frame.f_globals.get("__name__"), frame.f_code, frame.f_lasti)
        frame = frame.f_back


@contextlib.contextmanager
def _kept_from_collecting() -> Iterator[None]:
    """Switch the collector of cycles off where another thread's frames are walked.

    CPython 3.11 makes a frame's object when it is asked for, and may collect cycles
    while it does: a finaliser lets the other thread run and leave the frame, and what
    ``f_back`` then returns lies in memory that is used for something else. From 3.12 on
    cycles are collected between two instructions only; up to 3.10 each frame has its
    object from the start.
    """
    if sys.version_info[:2] != (3, 11):
        yield
        return
    with _no_collector:
        collects = gc.isenabled()
        try:
            gc.disable()
            yield
        finally:
            if collects:
                gc.enable()


def _waits_for_calls(calls: list[Call]) -> bool:
    """Tell whether a thread has nothing to do but calls that others will ask for."""
    outer = (call.module for call in calls if call.module not in _QUEUES)
    return next(outer, None) in _EXECUTORS


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
