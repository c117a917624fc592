"""Traffic that runs while something breaks."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import pairwise

from tests.process.servers import Server, wait_until


@dataclass
class Traffic:
    """What clients met: for each request when it was answered, how, after how long."""

    server: Server
    path: str
    answers: list[tuple[float, object, float]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Ask again and again until it is over."""
        while not self.done.is_set():
            began = time.monotonic()
            try:
                status: object = self.server.get(self.path).status
            except (OSError, HTTPException) as error:
                status = type(error).__name__
                # Nobody listens: don't spin.
                self.done.wait(0.02)
            ended = time.monotonic()
            self.answers.append((ended, status, ended - began))

    def good(self, number: int = 30, seconds: float = 30) -> None:
        """Wait until so many more requests were answered well."""
        before = self.counts[200]
        wait_until(
            lambda: self.counts[200] >= before + number,
            f"{number} more requests are answered well than {before}",
            seconds,
        )

    @property
    def counts(self) -> Counter[object]:
        """Return how many requests were answered how."""
        return Counter(status for _, status, _ in list(self.answers))

    @property
    def longest(self) -> float:
        """Return the seconds that the slowest answer took."""
        return max(seconds for _, _, seconds in self.answers)

    @property
    def gap(self) -> float:
        """Return the longest time without any good answer, in seconds."""
        at = sorted(ended for ended, status, _ in self.answers if status == 200)
        return max(after - before for before, after in pairwise(at))


@contextmanager
def traffic(
    server: Server, path: str = "/facts/", clients: int = 8
) -> Iterator[Traffic]:
    """Have clients ask for a page all the while; judge it afterwards."""
    running = Traffic(server, path)
    threads = [threading.Thread(target=running.ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        running.good(20)
        yield running
    finally:
        running.done.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
