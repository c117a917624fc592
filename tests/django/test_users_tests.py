"""The tests of a user's project pass unchanged, and leave no test database behind."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import sql

ROOT = Path(__file__).resolve().parent.parent.parent
USERS = ROOT / "tests" / "django" / "users"
LABEL = "tests.django.users"

MIDDLEWARE = "middleware"
ENGINE = "engine"
BOTH = "middleware engine"
POOLS = [MIDDLEWARE, ENGINE, BOTH]


class Project:
    """Runs the tests of the user's project, and lists its test databases."""

    def __init__(self, databases, directory):
        self.databases = databases
        self.control = directory / "control"
        self.threads = directory / "threads"
        self.early = directory / "early"

    def manage(self, *options, pool, only="", **environ):
        """Run the tests with Django's runner; without a pool, only shelf.tests."""
        label = LABEL + (only if pool else ".shelf.tests")
        command = [str(USERS / "manage.py"), "test", label, "--noinput"]
        done = self._run([*command, *options], pool, environ)
        assert "\nOK" in done.stderr
        return done

    def pytest(self, *options, pool, **environ):
        """Run the tests with pytest-django."""
        command = ["-m", "pytest", "-c", str(USERS / "pytest.ini"), str(USERS)]
        return self._run([*command, *options], pool, environ)

    def _run(self, command, pool, environ):
        done = subprocess.run(
            [sys.executable, "-W", "error", *command],
            cwd=ROOT,
            env={
                **os.environ,
                **self.databases.environ,
                "DJANGO_SETTINGS_MODULE": "tests.django.users.settings",
                "PYTHONPATH": str(ROOT),
                "TEST_POOL": pool,
                "TEST_CONTROL_DIR": str(self.control),
                "TEST_THREADS": str(self.threads),
                "TEST_EARLY_DONE": str(self.early),
                **environ,
            },
            text=True,
            capture_output=True,
            timeout=120,
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        assert "Warning" not in output
        assert not self.threads.exists(), self.threads.read_text(encoding="utf-8")
        assert not self.control.exists()
        return done

    @contextmanager
    def _cursor(self):
        connection = psycopg2.connect(self.databases.server.dsn("postgres"))
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor
        connection.close()

    def test_databases(self):
        """Return the names of the test databases that exist."""
        names = [self.databases.default, self.databases.replica]
        with self._cursor() as cursor:
            cursor.execute(
                "SELECT datname FROM pg_database WHERE datname LIKE ANY (%s)",
                [[f"test_{name}%" for name in names]],
            )
            return sorted(name for (name,) in cursor.fetchall())

    def allow_connections(self, allowed):
        """Allow or forbid connections to the project's real databases."""
        with self._cursor() as cursor:
            for name in (self.databases.default, self.databases.replica):
                cursor.execute(
                    sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(
                        sql.Identifier(name), sql.Literal(allowed)
                    )
                )


@pytest.fixture
def project(databases, tmp_path):
    return Project(databases, tmp_path)


@pytest.fixture
def closed_project(project):
    """Return the project while its real databases reject all connections."""
    project.allow_connections(False)
    yield project
    project.allow_connections(True)


@pytest.mark.parametrize("pool", ["", *POOLS])
def test_the_tests_pass_and_the_test_databases_are_dropped(closed_project, pool):
    closed_project.manage(pool=pool)
    assert closed_project.test_databases() == []


@pytest.mark.parametrize("only", [".shelf.tests_pooled.Forbidden", ".shelf.tests.Live"])
def test_an_alias_without_a_test_database_is_not_connected_to(closed_project, only):
    closed_project.manage(pool=MIDDLEWARE, only=only)
    assert closed_project.test_databases() == []


def test_the_tests_pass_on_test_databases_with_the_configured_names(closed_project):
    closed_project.manage(pool=BOTH, TEST_SAME_NAME="1")
    closed_project.pytest(pool=BOTH, TEST_SAME_NAME="1")
    assert closed_project.test_databases() == []


def test_a_mirrored_alias_has_a_pool_of_its_own_on_the_one_test_database(
    closed_project,
):
    closed_project.manage(pool=BOTH, only=".shelf.tests_mirrored", TEST_MIRROR="1")
    assert closed_project.test_databases() == []


@pytest.mark.parametrize("pool", POOLS)
def test_the_tests_pass_in_parallel_and_with_keepdb(closed_project, pool):
    for _ in range(2 if pool == BOTH else 1):
        closed_project.manage("--keepdb", pool=pool)
        assert len(closed_project.test_databases()) == 2
    closed_project.manage("--parallel", "2", pool=pool)
    assert closed_project.test_databases() == []


@pytest.mark.parametrize("pool", POOLS)
def test_the_tests_pass_under_pytest_django(closed_project, pool):
    for _ in range(2 if pool == BOTH else 1):
        closed_project.pytest("--reuse-db", pool=pool)
        assert len(closed_project.test_databases()) == 2
    closed_project.pytest("--create-db", pool=pool)
    assert closed_project.test_databases() == []


def test_the_tests_pass_under_pytest_in_parallel(closed_project):
    closed_project.pytest("-n", "2", pool=BOTH)
    assert closed_project.test_databases() == []


@pytest.mark.parametrize(
    ("pool", "early"),
    [
        (BOTH, "ready"),
        (ENGINE, "ready-thread"),
        (BOTH, "import"),
        (ENGINE, "import-thread"),
        (MIDDLEWARE, "import-request"),
    ],
)
def test_a_query_before_the_test_database_exists_uses_the_real_one(
    project, pool, early
):
    project.manage("--parallel", "2", pool=pool, TEST_EARLY=early)
    first, *others = project.early.read_text(encoding="utf-8").split()
    assert first == project.databases.default
    # A worker that isn't forked, as none is from Python 3.14 on, imports the tests too,
    # when its database exists.
    forked = multiprocessing.get_start_method() == "fork"
    assert {name for name in others if forked or not name.startswith("test_")} <= {
        first
    }
    assert project.test_databases() == []


@pytest.mark.parametrize("early", ["ready", "ready-thread"])
def test_a_query_before_pytest_django_creates_the_test_database_is_possible(
    project, early
):
    project.pytest(pool=BOTH, TEST_EARLY=early)
    assert project.early.exists()
    assert project.test_databases() == []
