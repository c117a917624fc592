"""Clients that request a page again and again while something breaks."""

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
    """The clients' answers: for each request the time, the status and the seconds."""

    server: Server
    path: str
    answers: list[tuple[float, object, float]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Request the page until ``done`` is set."""
        while not self.done.is_set():
            began = time.monotonic()
            try:
                status: object = self.server.get(self.path).status
            except (OSError, HTTPException) as error:
                status = type(error).__name__
                # Don't spin while no server listens.
                self.done.wait(0.02)
            ended = time.monotonic()
            self.answers.append((ended, status, ended - began))

    def wait_for_200(self, number: int = 30, seconds: float = 30) -> None:
        """Wait until ``number`` more requests were answered with 200."""
        before = self.counts[200]
        wait_until(
            lambda: self.counts[200] >= before + number,
            f"{number} more answers with 200 than {before}",
            seconds,
        )

    @property
    def counts(self) -> Counter[object]:
        """Return the number of requests by status, or by the name of an exception."""
        return Counter(status for _, status, _ in list(self.answers))

    @property
    def longest(self) -> float:
        """Return the seconds of the slowest answer."""
        return max(seconds for _, _, seconds in self.answers)

    @property
    def gap(self) -> float:
        """Return the longest time between two answers with 200, in seconds."""
        at = sorted(ended for ended, status, _ in self.answers if status == 200)
        return max(after - before for before, after in pairwise(at))


@contextmanager
def traffic(
    server: Server, path: str = "/facts/", clients: int = 8
) -> Iterator[Traffic]:
    """Run clients for the block; at its end every client must have ended."""
    running = Traffic(server, path)
    threads = [threading.Thread(target=running.run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        running.wait_for_200(20)
        yield running
    finally:
        running.done.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
