"""Servers under traffic, and the figures of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.conftest import Databases
from tests.documents import WRITE
from tests.faults.figures import Figures, Traffic, traffic
from tests.process.conftest import short_directory as short_directory
from tests.process.projects import Project
from tests.process.servers import Server, wait_until

#: MAX_CONNS of each worker; the clients are more.
MAX_CONNS = 4


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    """Collect the figures of the run; print them, and write them if it is wanted."""
    found = Figures()
    yield found
    print("\n" + found.table())
    if WRITE:
        found.write()


@pytest.fixture
def project(own_databases: Databases, short_directory) -> Project:
    """Give the project on a server of its own, with one small pool in each worker."""
    project = Project(own_databases, short_directory)
    project.settings |= {
        "DBPOOL_MW_MAX_CONNS": MAX_CONNS,
        "DBPOOL_MW_POOLS": {"replica": None},
        "DBPOOL_MW_TIMEOUT": 5,
    }
    return project


class Under:
    """A kind of server: its name, its worker processes, and how to run it."""

    def __init__(self, name: str, project: Project) -> None:
        self.name = name
        self.workers = 1 if name == "uvicorn" else 2
        self._project = project

    def __call__(self, *options: str) -> AbstractContextManager[Server]:
        """Run the project under it."""
        if self.name == "uvicorn":
            return self._project.uvicorn()
        threads = ["--threads", "8"] if self.name == "gthread" else []
        return self._project.gunicorn(*threads, *options, workers=self.workers)

    @contextmanager
    def traffic(
        self, *options: str, path: str = "/facts/", clients: int = 8
    ) -> Iterator[tuple[Server, Traffic]]:
        """Run it with traffic, which every worker has a part in."""
        with self(*options) as server, traffic(server, path, clients) as met:
            wait_until(
                lambda: len(self._project.pids()) == self.workers,
                "every worker serves requests",
            )
            yield server, met


@pytest.fixture(params=["gthread", "uvicorn"])
def under(request: pytest.FixtureRequest, project: Project) -> Under:
    """Give each kind of server."""
    return Under(request.param, project)


@pytest.fixture
def under_sync(project: Project) -> Under:
    """Give gunicorn with two workers of one thread each."""
    return Under("sync", project)


@pytest.fixture
def gthread(project: Project) -> Under:
    """Give gunicorn with threads and two workers."""
    return Under("gthread", project)
