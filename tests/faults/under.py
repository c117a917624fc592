"""The kinds of server, and what must be true of each when a fault is over."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.faults.traffic import Traffic, traffic
from tests.faults.watch import Watch
from tests.process.projects import Project
from tests.process.servers import Server, wait_until

#: MAX_CONNS of each worker; there are more clients.
MAX_CONNS = 4


class Under:
    """A kind of server: its name, its worker processes, and how to run it.

    When a test is over, every worker must run, every connection must be idle, no place
    may be lost, and PostgreSQL must never have seen more connections than ``limit``.
    """

    def __init__(self, name: str, project: Project) -> None:
        self.name = name
        self.workers = 1 if name == "uvicorn" else 2
        #: The most connections that PostgreSQL may see for each worker.
        self.allowed = MAX_CONNS
        #: Whether the workers answer the commands.
        self.answers = True
        self._project = project
        self.watch = Watch(project)

    @property
    def limit(self) -> int:
        """Return the most connections that PostgreSQL may see at a time."""
        return self.workers * self.allowed

    @contextmanager
    def __call__(self, *options: str) -> Iterator[Server]:
        """Run the project under this server, and check the end state."""
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
        """Run the server with traffic; every worker serves some of it."""
        with self(*options) as server, traffic(server, path, clients) as running:
            if self.answers:
                self.wait_for_workers()
            yield server, running

    def wait_for_workers(self) -> None:
        """Wait until every worker has served a request and answers the commands."""
        wait_until(
            lambda: len(self._project.pids()) == self.workers,
            "every worker serves requests",
        )

    def reload(self, server: Server) -> None:
        """Have gunicorn replace its workers, and wait for the new ones."""
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
        # A new worker has its control socket when it has served a request.
        wait_until(
            lambda: (
                server.get("/facts/").status == 200
                and len(project.pids()) == self.workers
            ),
            "every worker answers the commands",
        )
        project.check_no_place_is_lost()
        totals = project.totals()
        assert totals["size"] == totals["idle"] <= totals["max"]
        assert totals["max"] == self.workers * MAX_CONNS
        assert totals["waiting"] == 0
        # Every close has a reason.
        closed = sum(totals["discarded"].values())
        assert totals["opened"] == totals["size"] + closed
