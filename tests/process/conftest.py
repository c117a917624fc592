"""Fixtures: the test project, for one test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Databases
from tests.process.projects import Project


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Give a directory whose path is short enough for a socket's address."""
    with tempfile.TemporaryDirectory(prefix="dbpool-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def project(databases: Databases, short_directory: Path) -> Project:
    """Give the project on the databases of the run, without any connection."""
    project = Project(databases, short_directory)
    project.terminate()
    return project


@pytest.fixture
def own_project(own_databases: Databases, short_directory: Path) -> Project:
    """Give the project on a PostgreSQL that the test may stop."""
    return Project(own_databases, short_directory)
