"""A user's own tests pass unchanged, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MANAGE = ROOT / "tests" / "django" / "users" / "manage.py"


def run(databases, *options, app=True):
    return subprocess.run(
        [
            *(sys.executable, "-W", "error", str(MANAGE)),
            *("test", "tests.django.users", "--noinput", *options),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            **databases.environ,
            "DJANGO_SETTINGS_MODULE": "tests.django.users.settings",
            "PYTHONPATH": str(ROOT),
            "TEST_APP": "1" if app else "",
        },
        text=True,
        capture_output=True,
        timeout=120,
    )


def test_databases(databases):
    connection = psycopg2.connect(databases.server.dsn(databases.default))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE ANY (%s)",
            [[f"test_{databases.default}%", f"test_{databases.replica}%"]],
        )
        found = sorted(name for (name,) in cursor.fetchall())
    connection.close()
    return found


# It is a helper, whatever its name begins with.
test_databases.__test__ = False


@pytest.mark.parametrize("app", [False, True])
def test_they_pass_and_the_test_databases_are_dropped(databases, app):
    done = run(databases, app=app)
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stderr
    assert "Warning" not in done.stderr
    assert test_databases(databases) == []


def test_they_pass_in_parallel_and_on_databases_kept(databases):
    kept = run(databases, "--keepdb")
    assert kept.returncode == 0, kept.stderr
    assert len(test_databases(databases)) == 2
    parallel = run(databases, "--parallel", "2")
    assert parallel.returncode == 0, parallel.stderr
    assert test_databases(databases) == []
