"""Fixtures: the project, the kinds of server, and the figures of the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Databases
from tests.documents import WRITE
from tests.faults.figures import Figures
from tests.faults.under import MAX_CONNS, Under
from tests.process.conftest import short_directory as short_directory
from tests.process.projects import Project


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    """Collect the figures of the run; print them, and write them where wanted."""
    found = Figures()
    yield found
    print("\n" + found.table())
    if WRITE:
        found.write()


def small_project(databases: Databases, directory: Path) -> Project:
    """Return the project with one small pool in each worker."""
    project = Project(databases, directory)
    project.settings |= {
        "DBPOOL_MW_MAX_CONNS": MAX_CONNS,
        "DBPOOL_MW_POOLS": {"replica": None},
        "DBPOOL_MW_TIMEOUT": 5,
    }
    return project


@pytest.fixture
def project(own_databases: Databases, short_directory) -> Project:
    """Give the project on a private PostgreSQL."""
    return small_project(own_databases, short_directory)


@pytest.fixture(params=["gthread", "uvicorn", "gevent"])
def under(request: pytest.FixtureRequest, project: Project) -> Under:
    """Give each kind of server, or the kinds that a test chooses."""
    return Under(request.param, project)
