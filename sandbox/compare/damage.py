"""What is done to a pool in its own process, and what it has lost afterwards."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from django.db import connection, connections, transaction
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    StreamingHttpResponse,
)

from sandbox.compare.requests import Requests
from sandbox.shop.models import Product

#: Seconds in which a place has to be handed out again.
AGAIN = 10.0

#: Seconds of the query in which a thread is killed, and until then.
QUERY, KILLED = 0.1, 0.03

#: Queries of a child and of its parent at the same time, and the seconds they may take.
QUERIES, ANSWERED = 20, 1.0

_requests = Requests()
_GREEN = "gevent" in sys.modules


def killed_threads(number: int, size: int) -> int:
    """Kill threads in their queries, ``size`` at a time; return the places lost.

    Threads that got no connection in ANSWERED seconds end it: nothing is left to lose.
    """
    _hand_out(size)
    for _ in range(number // size):
        victims = [_Victim() for _ in range(size)]
        latest = time.monotonic() + ANSWERED
        for victim in victims:
            victim.querying.wait(latest - time.monotonic())
        if not any(victim.querying.is_set() for victim in victims):
            break
        time.sleep(KILLED)
        for victim in victims:
            victim.kill()
        for victim in victims:
            victim.join()
        gc.collect()
    return size - _hand_out(size)


def error_pages(number: int, size: int) -> int:
    """Have requests query and raise, and their 500 pages query; as above."""

    def fail(request: HttpRequest) -> HttpResponse:
        Product.objects.count()
        raise ZeroDivisionError

    _hand_out(size)
    _serve_at_once(size, lambda: [_requests(fail) for _ in range(number // size)])
    return size - _hand_out(size)


def broken_streams(number: int, size: int) -> int:
    """Close responses while they are streamed; as above."""

    def stream(request: HttpRequest) -> HttpResponseBase:
        def rows() -> Iterator[str]:
            for product in Product.objects.iterator(chunk_size=20):
                yield f"{product.slug}\n"

        return StreamingHttpResponse(rows())

    _hand_out(size)
    _serve_at_once(
        size, lambda: [_requests(stream, chunks=30) for _ in range(number // size)]
    )
    return size - _hand_out(size)


def forks_that_close(number: int, size: int) -> int:
    """Fork children in requests, which close what they have inherited and exit.

    Return how many forks disturbed a query of the parent's.
    """

    def close() -> bool:
        connections.close_all()
        return True

    def view(request: HttpRequest) -> HttpResponse:
        Product.objects.count()
        ended = _child(close)
        response = _query_as("parent")(request)
        return response if ended() else HttpResponse(status=500)

    return _disturbed(number, size, lambda: _requests(view) == 200)


def forks_between_requests(number: int, size: int) -> int:
    """Fork children that serve a request; as above, or of the child's."""

    def fork() -> bool:
        # The thread that forks has served a request: it may have kept a connection.
        if _requests(_query_as("before")) != 200:
            return False
        ended = _child(lambda: _requests(_query_as("child")) == 200)
        served = _requests(_query_as("parent")) == 200
        return ended() and served

    return _disturbed(number, size, fork)


def forks_within_a_request(number: int, size: int) -> int:
    """Fork children that query in their parent's request; as above."""

    def view(request: HttpRequest) -> HttpResponse:
        Product.objects.count()
        query = _query_as("child")
        ended = _child(lambda: query(request).status_code == 200)
        response = _query_as("parent")(request)
        return response if ended() else HttpResponse(status=500)

    return _disturbed(number, size, lambda: _requests(view) == 200)


def _disturbed(number: int, size: int, fork: Callable[[], bool]) -> int:
    _hand_out(size)
    undisturbed: list[bool] = []
    for _ in range(number):
        thread = threading.Thread(
            target=lambda: undisturbed.append(fork()), daemon=True
        )
        thread.start()
        # A connection whose answer the child has read may wait for ever.
        thread.join(2 * ANSWERED)
    return number - sum(undisturbed)


def _query_as(name: str) -> Callable[[HttpRequest], HttpResponse]:
    def view(request: HttpRequest) -> HttpResponse:
        for number in range(QUERIES):
            with connection.cursor() as cursor:
                cursor.execute("SELECT %s, pg_sleep(0.001)", [f"{name} {number}"])
                if cursor.fetchone()[0] != f"{name} {number}":
                    return HttpResponse(status=500)
        return HttpResponse()

    return view


def _child(work: Callable[[], bool]) -> Callable[[], bool]:
    """Fork; return a function that waits for the child and tells if all was well."""
    pid = os.fork()
    if not pid:
        # The default ends the process, whatever it waits for.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, ANSWERED)
        status = 1
        with suppress(Exception):
            status = 0 if work() else 1
        os._exit(status)
    return lambda: os.waitpid(pid, 0)[1] == 0


def _serve_at_once(number: int, work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _hand_out(size: int) -> int:
    """Ask for ``size`` connections at a time; return how many were handed out."""
    # What only the garbage collector brings back isn't lost for good.
    gc.collect()
    have: list[int] = []
    done = threading.Event()

    def hold(request: HttpRequest) -> HttpResponse:
        # A pool that lends connections to statements lends this one until the end.
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            have.append(1)
            done.wait(AGAIN)
        return HttpResponse()

    def ask() -> None:
        # A connection that has been closed under the pool costs the pool one failure.
        while _requests(hold) != 200 and not done.is_set():
            time.sleep(0.05)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(size)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + AGAIN
    while len(have) < size and time.monotonic() < deadline:
        time.sleep(0.01)
    number = min(len(have), size)
    done.set()
    for thread in threads:
        thread.join(1.0)
    # These threads have ended, and Django's own connections with them.
    gc.collect()
    return number


class _Victim:
    """A thread, or a greenlet, that queries until it is killed."""

    def __init__(self) -> None:
        self.querying = threading.Event()
        if _GREEN:
            import gevent

            self._greenlet = gevent.spawn(self._run)
        else:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def kill(self) -> None:
        """Raise an exception in it: at once in a greenlet, after a thread's query."""
        if _GREEN:
            self._greenlet.kill(block=False)
        else:
            ident = ctypes.c_ulong(self._thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ident, ctypes.py_object(SystemExit)
            )

    def join(self) -> None:
        """Wait for its end, but not for a thread that got no connection."""
        (self._greenlet if _GREEN else self._thread).join(5 * QUERY)

    def _run(self) -> None:
        def query(request: HttpRequest) -> HttpResponse:
            with connection.cursor() as cursor:
                self.querying.set()
                cursor.execute("SELECT pg_sleep(%s)", [QUERY])
            return HttpResponse()

        _requests(query)
