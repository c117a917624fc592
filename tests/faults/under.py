"""The kinds of server, and what holds for each of them when a fault is over."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.faults.traffic import Traffic, traffic
from tests.faults.watch import Watch
from tests.process.projects import Project
from tests.process.servers import Server, wait_until

#: MAX_CONNS of each worker; the clients are more.
MAX_CONNS = 4


class Under:
    """A kind of server: its name, its worker processes, and how to run it.

    Whatever a test did to it, afterwards every worker is there, everything is idle, no
    place is lost, and the server never saw more connections than it may.
    """

    def __init__(self, name: str, project: Project) -> None:
        self.name = name
        self.workers = 1 if name == "uvicorn" else 2
        #: Connections that each worker accounts for.
        self.allowed = MAX_CONNS
        #: Cleared, the workers answer no command.
        self.answers = True
        self._project = project
        self.watch = Watch(project)

    @property
    def limit(self) -> int:
        """Return how many connections the server may see at a time."""
        return self.workers * self.allowed

    @contextmanager
    def __call__(self, *options: str) -> Iterator[Server]:
        """Run the project under it; judge it at the end."""
        with self.watch, self._server(*options) as server:
            yield server
            self._check_everything_is_idle(server)
        assert self.watch.most <= self.limit

    def _server(self, *options: str) -> AbstractContextManager[Server]:
        if self.name == "uvicorn":
            return self._project.uvicorn()
        if self.name == "gevent":
            return self._project.gevent(*options, workers=self.workers)
        threads = ["--threads", "8"] if self.name == "gthread" else []
        return self._project.gunicorn(*threads, *options, workers=self.workers)

    @contextmanager
    def traffic(
        self, *options: str, path: str = "/facts/", clients: int = 8
    ) -> Iterator[tuple[Server, Traffic]]:
        """Run it with traffic, which every worker has a part in."""
        with self(*options) as server, traffic(server, path, clients) as met:
            if self.answers:
                self.wait_for_workers()
            yield server, met

    def wait_for_workers(self) -> None:
        """Wait until every worker has served a request and answers the commands."""
        wait_until(
            lambda: len(self._project.pids()) == self.workers,
            "every worker serves requests",
        )

    def reload(self, server: Server) -> None:
        """Have gunicorn replace its workers, and wait until it has."""
        before = set(self._project.pids())
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(
            lambda: not before & set(self._project.pids()), "the old workers are gone"
        )
        self.wait_for_workers()

    def _check_everything_is_idle(self, server: Server) -> None:
        project = self._project
        wait_until(lambda: set(project.doing()) <= {"idle"}, "the server is idle")
        if not self.answers:
            assert len(project.backends()) <= self.limit
            return
        # One that was replaced just now is known when it has served a request.
        wait_until(
            lambda: (
                server.get("/facts/").status == 200
                and len(project.pids()) == self.workers
            ),
            "every worker is there",
        )
        project.check_no_place_is_lost()
        totals = project.totals()
        assert totals["size"] == totals["idle"] <= totals["max"]
        assert totals["max"] == self.workers * MAX_CONNS
        assert totals["waiting"] == 0
        # Every close has a reason.
        closed = sum(totals["discarded"].values())
        assert totals["opened"] == totals["size"] + closed
