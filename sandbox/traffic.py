"""Request pages from several threads and check every answer.

By hand: ``python -m sandbox.traffic http://127.0.0.1:8000 --seconds 5``.
"""

from __future__ import annotations

import argparse
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

#: Seconds until a request without an answer has failed.
ANSWER_TIMEOUT = 15.0

#: How many failures a report has in full.
TOLD_FAILURES = 10


@dataclass(frozen=True)
class Page:
    """One page, and the answer that is expected.

    A complete answer ends with ``ending``; an answer that was cut short is a failure.
    """

    path: str
    ending: str
    status: int = 200
    weight: int = 1


#: Every page of the sandbox, the simple one most often.
SHOP = (
    Page("/", "<p>End of the page.</p>\n</body>\n</html>\n", weight=6),
    Page("/plain/", "asks the database nothing.\n"),
    Page("/slow/?seconds=0.2", "slept for 0.2 s.\n", weight=2),
    Page("/fail/", "Toys.\n", status=500),
    Page("/stream/", "end of the list, 192 products\n"),
    Page("/async/", "]}", weight=2),
    Page("/health/", "ok\n"),
)


@dataclass
class Report:
    """The answers: counts by path and status, the failures, and the latencies in s.

    ``failed_at`` has the failures' times by ``time.monotonic()``, and ``asked`` when
    each request, failed or not, began and ended.
    """

    seconds: float
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    failed_at: list[float] = field(default_factory=list)
    asked: list[tuple[float, float]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Return how many requests got a complete answer, right or wrong."""
        return len(self.latencies)

    @property
    def per_second(self) -> float:
        """Return the answers per second."""
        return self.answered / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Return the latency, in seconds, that ``percent`` % of the answers kept to."""
        if not self.latencies:
            return math.nan
        ordered = sorted(self.latencies)
        return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        told = [
            f"{count:7d}  {status}  {path}"
            for (path, status), count in sorted(self.statuses.items())
        ]
        p50, p95, p99 = (1000 * self.percentile(rank) for rank in (50, 95, 99))
        told.append(
            f"{self.answered} answers in {self.seconds:.1f} s "
            f"({self.per_second:.0f}/s), latency p50 {p50:.1f} ms, "
            f"p95 {p95:.1f} ms, p99 {p99:.1f} ms, {len(self.failures)} failed"
        )
        told.extend(f"failed: {failure}" for failure in self.failures[:TOLD_FAILURES])
        return told


class Traffic:
    """Threads that each request one page after the other.

    ``keep_alive`` threads send all their requests on one TCP connection; the others
    open a connection for each request. No request is sent twice: every error is a
    failure.
    ``pause`` is the time between a thread's requests in seconds.
    """

    def __init__(
        self,
        host: str,
        port: int,
        pages: Sequence[Page] = SHOP,
        *,
        threads: int = 8,
        keep_alive: int = 0,
        pause: float = 0.0,
    ) -> None:
        self._stopped = threading.Event()
        self._began = 0.0
        self._senders = [
            _Sender(
                host, port, pages, number, number < keep_alive, pause, self._stopped
            )
            for number in range(threads)
        ]

    def start(self) -> None:
        """Start the threads and return at once."""
        self._began = time.monotonic()
        for sender in self._senders:
            sender.start()

    def stop(self) -> Report:
        """Let the requests under way end, and return the report."""
        self._stopped.set()
        for sender in self._senders:
            if sender.ident is not None:
                sender.join()
        report = Report(time.monotonic() - self._began)
        for sender in self._senders:
            report.statuses.update(sender.report.statuses)
            report.failures.extend(sender.report.failures)
            report.failed_at.extend(sender.report.failed_at)
            report.asked.extend(sender.report.asked)
            report.latencies.extend(sender.report.latencies)
        return report

    def run(self, seconds: float) -> Report:
        """Send requests for ``seconds`` and return the report."""
        self.start()
        try:
            self._stopped.wait(seconds)
        finally:
            report = self.stop()
        return report

    @property
    def done(self) -> int:
        """Return how many requests have ended so far, right or wrong."""
        return sum(
            sender.report.answered + len(sender.report.failures)
            for sender in self._senders
        )

    @property
    def last_failure(self) -> float:
        """Return when a request failed last, by ``time.monotonic()``; 0 if none did."""
        return max(
            (at for sender in self._senders for at in sender.report.failed_at[-1:]),
            default=0.0,
        )

    @property
    def answered_to(self) -> float:
        """Return up to when no thread waits for the end of a request that it began.

        By ``time.monotonic()``; 0 if a thread's first request hasn't ended.
        """
        return min(
            sender.report.asked[-1][0] if sender.report.asked else 0.0
            for sender in self._senders
        )

    def wait_for_more(self, requests: int, timeout: float) -> bool:
        """Wait for the end of ``requests`` more requests; False after ``timeout`` s."""
        goal = self.done + requests
        deadline = time.monotonic() + timeout
        while self.done < goal:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


class _Sender(threading.Thread):
    """One thread's requests; only this thread writes to its ``report``."""

    def __init__(
        self,
        host: str,
        port: int,
        pages: Sequence[Page],
        number: int,
        keep_alive: bool,
        pause: float,
        stopped: threading.Event,
    ) -> None:
        super().__init__(name=f"traffic-{number}", daemon=True)
        self.report = Report(0.0)
        self._connection = HTTPConnection(host, port, timeout=ANSWER_TIMEOUT)
        self._pages = pages
        self._weights = [page.weight for page in pages]
        self._dice = random.Random(number)
        self._headers = {} if keep_alive else {"Connection": "close"}
        self._pause = pause
        self._stopped = stopped

    def run(self) -> None:
        """Request pages until ``stop`` is called."""
        try:
            while not self._stopped.is_set():
                (page,) = self._dice.choices(self._pages, self._weights)
                began = time.monotonic()
                right = self._ask(page)
                ended = time.monotonic()
                if not right:
                    self.report.failed_at.append(ended)
                self.report.asked.append((began, ended))
                if not right:
                    # Don't spin while the server is down.
                    self._stopped.wait(0.05)
                elif self._pause:
                    self._stopped.wait(self._pause)
        finally:
            self._connection.close()

    def _ask(self, page: Page) -> bool:
        began = time.perf_counter()
        try:
            self._connection.request("GET", page.path, headers=self._headers)
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            self._connection.close()
            self.report.failures.append(
                f"GET {page.path}: {type(error).__name__}: {error}"
            )
            return False
        self.report.latencies.append(time.perf_counter() - began)
        self.report.statuses[page.path, response.status] += 1
        if response.status != page.status:
            self.report.failures.append(
                f"GET {page.path}: status {response.status} instead of {page.status}"
            )
            return False
        if not body.endswith(page.ending.encode()):
            self.report.failures.append(
                f"GET {page.path}: the answer of {len(body)} bytes was cut short"
            )
            return False
        return True


def main() -> int:
    """Send the shop's pages to the server named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.traffic")
    parser.add_argument("url", help="for example http://127.0.0.1:8000")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--keep-alive", action="store_true")
    parser.add_argument(
        "--pause", type=float, default=0.0, help="seconds between pages"
    )
    options = parser.parse_args()
    url = urlsplit(options.url)
    traffic = Traffic(
        url.hostname or "127.0.0.1",
        url.port or 80,
        threads=options.threads,
        keep_alive=options.threads if options.keep_alive else 0,
        pause=options.pause,
    )
    report = traffic.run(options.seconds)
    print("\n".join(report.lines()))
    return 1 if report.failures or not report.answered else 0


if __name__ == "__main__":
    raise SystemExit(main())
