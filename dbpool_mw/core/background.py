"""Work in the background: a loop that decides, and threads that wait for servers."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from .logs import get_logger, hand_records_to

logger = get_logger("dbpool_mw.pool")

#: Seconds between two rounds.
INTERVAL = 1.0

#: Signals that other processes send. The kernel sends the excluded ones to a thread
#: for what that thread did.
_SENT_SIGNALS = {
    number
    for number in signal.valid_signals()
    if getattr(number, "name", None)
    not in ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV")
}


@contextmanager
def sent_signals_blocked() -> Iterator[None]:
    """Block what other processes send, for the threads that start in the block.

    They inherit the signal mask, and a signal that the main thread blocks must wait for
    the main thread. In a Celery worker, for example, billiard blocks SIGTERM while it
    holds a lock that all children share; a child that died of SIGTERM then would stop
    the others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SENT_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def spawn(function: Callable[..., object], *arguments: object) -> bool:
    """Call a function in a daemon thread of its own; return whether one could start.

    None can at the interpreter's end, or where the system allows no more threads.
    """
    thread = threading.Thread(
        target=function, args=arguments, name="dbpool_mw-background", daemon=True
    )
    try:
        with sent_signals_blocked():
            thread.start()
    except RuntimeError:
        return False
    return True


class InOrder:
    """Makes calls one after the other, on a thread that ends when there are none."""

    #: How many calls may wait; the oldest are dropped for more.
    MOST = 1000

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque(maxlen=self.MOST)
        # Held while a thread makes the calls. It isn't the one that took the lock.
        self._busy = threading.Lock()

    def __call__(self, call: Callable[[], None]) -> None:
        """Have a call made; wait for it only where no thread can be started."""
        self._calls.append(call)
        if self._busy.acquire(blocking=False) and not spawn(self._make_calls):
            self._make_calls()

    def wait(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds until the calls are made."""
        if self._busy.acquire(timeout=timeout):
            self._busy.release()

    def _make_calls(self) -> None:
        while True:
            try:
                while self._calls:
                    self._calls.popleft()()
            finally:
                self._busy.release()
            # One may have come after the last look.
            if not self._calls or not self._busy.acquire(blocking=False):
                return


class Maintained(Protocol):
    """A pool, as far as the loop needs to know."""

    name: str

    def maintain(self) -> None:
        """Do what is due."""


class Maintenance:
    """One daemon thread that calls ``maintain`` of every pool, every second.

    ``pools()`` returns the pools of the process, and is called in each round;
    ``interval`` is in seconds. Whatever one pool raises is logged, and the thread goes
    on with the next. What the thread logs is handled by another: a log handler that
    waits, for a server perhaps, holds up no pool.
    """

    def __init__(
        self,
        pools: Callable[[], Iterable[Maintained]],
        interval: float = INTERVAL,
    ) -> None:
        self._pools = pools
        self._interval = interval
        self._stopped = threading.Event()
        self._records = InOrder()
        self._thread = threading.Thread(
            target=self._run, name="dbpool_mw-maintenance", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Tell whether the thread runs."""
        return self._thread.is_alive()

    def stop(self, timeout: float = 1.0) -> None:
        """End the thread; wait at most ``timeout`` seconds for it and its records."""
        self._stopped.set()
        end = time.monotonic() + timeout
        self._thread.join(timeout)
        self._records.wait(max(0.0, end - time.monotonic()))

    def do_round(self) -> None:
        """Call ``maintain`` of every pool once, in the calling thread."""
        for pool in self._pools():
            try:
                pool.maintain()
            except BaseException:
                # SystemExit would end the thread without a word.
                logger.exception("%s: maintenance failed", pool.name)

    def _run(self) -> None:
        hand_records_to(self._records)
        while not self._stopped.wait(self._interval):
            self.do_round()
