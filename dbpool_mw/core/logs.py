"""Loggers whose records are printable, and whose handlers can't disturb the caller.

A handler of the project may write to the very database whose connection is being
checked out, and it may raise. Neither must reach a pool, which logs in the middle of
its work.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from .text import MESSAGE, one_line, printable, shortened

#: Returns what the handlers run in. ``binding.logs`` puts there what keeps them out of
#: the pools.
around_handlers: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext


def get_logger(name: str) -> logging.Logger:
    """Return a logger that escapes and shortens the arguments of its records.

    The text of an exception becomes one line, also at the end of a traceback. Only an
    argument that is a list stands on several lines, one for each item. What a handler
    raises is printed, as ``logging`` does with what its own handlers raise; what the
    handler of a signal raises meanwhile goes on.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_make_printable)
    logger.handle = partial(_handle, logger)  # type: ignore[method-assign]
    return logger


class _Thread(threading.local):
    #: Takes the calls that handle what this thread logs; None has it wait for them.
    take: Callable[[Callable[[], None]], None] | None = None


_thread = _Thread()


def hand_records_to(take: Callable[[Callable[[], None]], None] | None) -> None:
    """Have ``take`` get a call for each record of this thread, for another to make.

    For a thread that must not wait for the handlers of the project.
    """
    _thread.take = take


def _handle(logger: logging.Logger, record: logging.LogRecord) -> None:
    if _thread.take is None:
        _emit(logger, record)
    else:
        _thread.take(partial(_emit, logger, record))


def _emit(logger: logging.Logger, record: logging.LogRecord) -> None:
    try:
        with around_handlers():
            type(logger).handle(logger, record)
    except Exception as error:
        if _is_of_signal(error):
            raise
        if logging.raiseExceptions and sys.stderr is not None:
            print("--- Logging error ---", file=sys.stderr)
            traceback.print_exc()


def _is_of_signal(error: Exception) -> bool:
    """Tell whether an exception was raised by the handler of a signal.

    Such as a time limit that is over while a log handler runs: it is for the code that
    is limited. A log handler's own exception has no frame of a signal's handler.
    """
    if threading.current_thread() is not threading.main_thread():
        return False  # Python runs the handlers of signals in the main thread
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code in codes for frame, _ in frames)


def _code_of(function: object) -> object:
    while isinstance(function, partial):
        function = function.func
    code = getattr(function, "__code__", None)
    return code or getattr(type(function).__call__, "__code__", None)


def _make_printable(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(map(_printable, record.args))
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        # Formatters show this text instead of formatting the exception.
        record.exc_text = _traceback(error)
    return True


def _printable(argument: object) -> object:
    if argument is None or isinstance(argument, (int, float)):
        return argument
    if isinstance(argument, list):
        return "\n".join(shortened(str(line), MESSAGE) for line in argument)
    try:
        text = str(argument)
    except Exception:  # an exception's own __str__ may raise anything
        return f"<{type(argument).__name__} without a text>"
    if isinstance(argument, BaseException):
        return one_line(text) or type(argument).__name__
    return shortened(text, MESSAGE)


def _traceback(error: BaseException) -> str:
    """Return an exception with its causes as text, each exception's own on one line."""
    link: traceback.TracebackException | None
    try:
        link = traceback.TracebackException.from_exception(error)
    except Exception:  # a logger's caller must never meet what an exception raises
        return f"{type(error).__name__} without a traceback"
    parts: list[str] = []
    while link is not None:
        frames = "".join(link.stack.format()).splitlines()
        said = one_line("".join(link.format_exception_only()))
        parts.append("\n".join([_HEADING, *map(printable, frames), said]))
        if link.__cause__ is not None:
            parts.append(_CAUSE)
            link = link.__cause__
        elif link.__context__ is not None and not link.__suppress_context__:
            parts.append(_CONTEXT)
            link = link.__context__
        else:
            link = None
    return "\n\n".join(reversed(parts))


_HEADING = "Traceback (most recent call last):"
_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"
