"""One thread of another process stopped, as a debugger stops it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# <sys/ptrace.h> and <linux/wait.h>.
_DETACH, _SEIZE, _INTERRUPT = 17, 0x4206, 0x4207
_WALL = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long] * 4
_libc.ptrace.restype = ctypes.c_long


@contextmanager
def stopped(thread: int) -> Iterator[None]:
    """Stop a thread, given by the id that the system has for it, for the block.

    The kernel lets it go on when this process ends, too. Raises OSError, where the
    system allows no tracing. Leave the block in the thread that entered it.
    """
    _trace(_SEIZE, thread)
    _trace(_INTERRUPT, thread)
    _, status = os.waitpid(thread, _WALL)
    assert os.WIFSTOPPED(status), status
    try:
        yield
    finally:
        _trace(_DETACH, thread)


def _trace(request: int, thread: int) -> None:
    if _libc.ptrace(request, thread, 0, 0) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
