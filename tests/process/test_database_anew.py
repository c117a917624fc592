"""In development: the database is dropped and made anew while runserver runs."""

from __future__ import annotations

import psycopg2
import pytest

from tests.conftest import aliases_at, fresh_databases
from tests.faults.test_operations import send
from tests.process.projects import Project
from tests.process.servers import wait_until


@pytest.fixture
def project(postgres, short_directory):
    """Give the project on databases of its own."""
    with fresh_databases(postgres) as databases, aliases_at(databases):
        yield Project(databases, short_directory)


def run(project, statement):
    session = psycopg2.connect(project.databases.server.dsn())
    session.autocommit = True
    try:
        session.cursor().execute(statement.format(project.databases.default))
    finally:
        session.close()


def test_the_database_can_be_dropped_behind_a_drain_and_made_anew(project):
    with project.runserver("--noreload") as server:
        before = server.get("/facts/")["backend"]
        with pytest.raises(psycopg2.errors.ObjectInUse):
            run(project, "DROP DATABASE {}")
        send(project, "drain")
        wait_until(lambda: project.backends() == [], "no connection is left")
        run(project, "DROP DATABASE {}")
        assert server.get("/facts/").status in (500, 503)
        run(project, "CREATE DATABASE {}")
        assert server.get("/facts/")["backend"] != before
        send(project, "resume")
        # With FORCE no drain is needed.
        before = server.get("/facts/")["backend"]
        run(project, "DROP DATABASE {} WITH (FORCE)")
        run(project, "CREATE DATABASE {}")
        assert server.get("/facts/")["backend"] != before
        project.check_no_place_is_lost()
