"""Cancel what a connection runs, without blocking the process.

psycopg2's own ``cancel()`` holds the GIL until the server has answered: while the
network doesn't respond, every thread and greenlet of the process stands still. libpq's
``PQcancel`` takes a handle and needs neither the GIL nor the connection, so it is
called through ctypes, in a thread of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache
from typing import Any

from psycopg2 import _psycopg

from dbpool_mw.drivers.postgresql.original import original
from dbpool_mw.drivers.postgresql.unanswered import TooManyUnanswered, unanswered

_TEXT_SIZE = 256


class Canceller:
    """Cancels the statements of one connection, even after it was closed.

    ``pointer`` is the connection's ``pgconn_ptr``. To be made by the thread that opens
    the connection, while nothing runs on it. Raises OSError where psycopg2 doesn't
    export the functions of its libpq.

    ``refused`` says why the last request that was not sent could not be, "" if all
    were sent. Whether the server, or what stands before it, did as it was asked, libpq
    doesn't know.
    """

    __slots__ = ("_handle", "_libpq", "refused")

    def __init__(self, pointer: int | None) -> None:
        self.refused = ""
        self._handle = None
        self._libpq = libpq = _libpq()
        self._handle = libpq.get(pointer)

    def start(self, delay: float = 0.0) -> None:
        """Ask the server to end what runs, after ``delay`` seconds, in a bare thread.

        Called from any thread and any greenlet. The thread is the operating system's,
        never a greenlet of gevent's.
        """
        start_new_thread = original("_thread", "start_new_thread")
        # Where no thread can be started, the statement isn't cancelled.
        with contextlib.suppress(RuntimeError):
            start_new_thread(self._run, (delay,))

    def _run(self, delay: float) -> None:
        # In this thread no greenlet ever runs: nothing here may wait for one.
        if delay:
            original("time", "sleep")(delay)
        text = ctypes.create_string_buffer(_TEXT_SIZE)
        try:
            with unanswered():
                if not self._libpq.cancel(self._handle, text, _TEXT_SIZE):
                    self.refused = text.value.decode(errors="replace").strip()
        except TooManyUnanswered as error:
            self.refused = str(error)

    def __del__(self) -> None:
        # What the handler of a signal raises in here, Python prints and drops.
        # An exception may have come before the first line of __init__.
        if getattr(self, "_handle", None) is not None:
            self._libpq.free(self._handle)


class _Libpq:
    """Three functions of the very libpq that psycopg2 uses."""

    def __init__(self) -> None:
        # psycopg2's own C module is loaded already. A function looked up in it is found
        # in the libpq that it is linked to.
        path: Any = _psycopg.__file__
        library = ctypes.PyDLL(path)
        try:
            self.get: Any = library.PQgetCancel
            self.free: Any = library.PQfreeCancel
            # CDLL releases the GIL during the call, PyDLL doesn't: PQcancel waits.
            self.cancel: Any = ctypes.CDLL(path).PQcancel
        except AttributeError as error:
            raise OSError(f"psycopg2 doesn't show its libpq: {error}") from error
        self.get.restype = ctypes.c_void_p
        self.get.argtypes = [ctypes.c_void_p]
        self.free.restype = None
        self.free.argtypes = [ctypes.c_void_p]
        self.cancel.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]


_libpq = cache(_Libpq)
