"""Loggers whose records are printable, and whose handlers can't disturb the caller.

A handler of the project may write to the very database whose connection is being
checked out, and it may raise. Neither must reach a pool, which logs in the middle of
its work.
"""

from __future__ import annotations

import contextlib
import logging
import sys
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
    raises is printed, as ``logging`` does with what its own handlers raise.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_make_printable)
    logger.handle = partial(_handle, logger)  # type: ignore[method-assign]
    return logger


def _handle(logger: logging.Logger, record: logging.LogRecord) -> None:
    try:
        with around_handlers():
            type(logger).handle(logger, record)
    except Exception:
        if logging.raiseExceptions and sys.stderr is not None:
            print("--- Logging error ---", file=sys.stderr)
            traceback.print_exc()


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
