"""Cancel what a connection runs, without holding anybody up.

psycopg2's own ``cancel()`` keeps Python's lock until the server has answered: while the
network is deaf, every thread and greenlet of the process stands still. libpq's function
underneath takes a handle that needs neither the lock nor the connection, so a thread of
its own can wait.
"""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache
from typing import Any

from psycopg2 import _psycopg

from .greenlets import original

_TEXT_SIZE = 256


class Canceller:
    """What cancels the statements of one connection, even when that is closed.

    ``pointer`` is the connection's ``pgconn_ptr``. Made by whoever opens it, while
    nothing runs on it. Raises OSError where psycopg2 doesn't show its libpq.
    """

    __slots__ = ("_handle", "_libpq")

    def __init__(self, pointer: int | None) -> None:
        self._handle = None
        self._libpq = libpq = _libpq()
        self._handle = libpq.get(pointer)

    def start(self, delay: float = 0.0) -> None:
        """Ask the server to end what runs, in so many seconds and in another thread.

        Called from any thread, and from any greenlet: the thread is never one of those.
        """
        start_new_thread = original("_thread", "start_new_thread")
        with contextlib.suppress(RuntimeError):  # no more threads: it isn't cancelled
            start_new_thread(self._run, (delay,))

    def _run(self, delay: float) -> None:
        # Nothing here may wait for a greenlet: they are another thread's.
        if delay:
            original("time", "sleep")(delay)
        text = ctypes.create_string_buffer(_TEXT_SIZE)
        self._libpq.cancel(self._handle, text, _TEXT_SIZE)

    def __del__(self) -> None:
        if self._handle is not None:
            self._libpq.free(self._handle)


class _Libpq:
    """The three functions, of the very libpq that psycopg2 uses."""

    def __init__(self) -> None:
        # To the loader it is loaded already; what it depends on is searched as well.
        path: Any = _psycopg.__file__
        library = ctypes.PyDLL(path)
        try:
            self.get: Any = library.PQgetCancel
            self.free: Any = library.PQfreeCancel
            # The one that waits gives Python's lock away meanwhile.
            self.cancel: Any = ctypes.CDLL(path).PQcancel
        except AttributeError as error:
            raise OSError(f"psycopg2 doesn't show its libpq: {error}") from error
        self.get.restype = ctypes.c_void_p
        self.get.argtypes = [ctypes.c_void_p]
        self.free.restype = None
        self.free.argtypes = [ctypes.c_void_p]
        self.cancel.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]


_libpq = cache(_Libpq)
