"""Django's own tests: with the ENGINE they end as with Django's, without the app.

They are in Django's source distribution, which is downloaded once for each virtual
environment.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import django
import pytest

from tests.conftest import DSN_VARIABLE, unique_name
from tests.library import PYTHONPATH
from tests.vocabulary import connect

#: What uses connections, transactions, threads, handlers and test databases most, and
#: how many tests that are at least.
LABELS = {
    ("backends", "transaction_hooks", "transactions"): 400,
    ("handlers", "requests_tests", "servers", "test_utils"): 350,
}

#: Tests that end in another way, and why.
KNOWN = {
    # A receiver of connection_created is given the wrapper on which the pool connects,
    # and not the wrapper of whoever checks the connection out first.
    "backends.tests.ConnectionCreatedSignalTest.test_signal",
    # Replaces ensure_connection of every wrapper by that of one, which has no
    # connection yet while another wrapper connects for it.
    "test_utils.tests.AssertNumQueriesUponConnectionTests."
    "test_ignores_connection_configuration_queries",
}
if django.VERSION < (5, 0):
    # Calls _close(), which leaves Django's wrapper with a closed connection, and a
    # bound one with none. Django 4.2 doesn't expect that there.
    KNOWN.add(
        "backends.tests.BackendTestCase.test_is_usable_after_database_disconnects"
    )


@pytest.fixture(scope="session")
def source() -> Path:
    """Give the folder of Django's tests, of the version that is installed."""
    name = f"django-{django.__version__}"
    kept = Path(sys.prefix) / "djangos-own-tests"
    folder = kept / name / "tests"
    if not folder.exists():
        kept.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", "Django", f"Django=={django.__version__}"]
        done = subprocess.run(
            command, cwd=kept, text=True, capture_output=True, timeout=300
        )
        if done.returncode:
            pytest.skip(f"Django's source can't be downloaded: {done.stderr[-300:]}")
        (archive,) = kept.glob(f"[Dd]{name[1:]}.tar.gz")
        with tarfile.open(archive) as opened:
            # Not as an argument, which Python 3.11.2, Debian 12's, doesn't know.
            opened.extraction_filter = getattr(tarfile, "data_filter", None)
            opened.extractall(kept)
        archive.unlink()
    return folder


def run(engine: str, labels: Iterable[str], source: Path, dsn: str, out: Path):
    """Run Django's tests on an ENGINE; return how each ended, by its name."""
    prefix = unique_name()
    done = subprocess.run(
        [
            *(sys.executable, "runtests.py", "--parallel", "1", "--noinput"),
            *("--settings", "tests.postgres.djangos.settings", *labels),
        ],
        cwd=source,
        env={
            **os.environ,
            "PYTHONPATH": PYTHONPATH,
            DSN_VARIABLE: dsn,
            "TEST_ENGINE": engine,
            "TEST_PREFIX": prefix,
            "TEST_OUTCOMES": str(out),
        },
        text=True,
        capture_output=True,
        timeout=900,
    )
    assert out.exists(), done.stderr[-3000:]
    connection = connect(dsn)
    cursor = connection.cursor()
    cursor.execute(
        "SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{prefix}%"]
    )
    assert cursor.fetchall() == [], done.stderr[-3000:]
    connection.close()
    return json.loads(out.read_text())


def label_of(name: str) -> str:
    """Return what to run for a test, or for a class whose set-up failed."""
    in_brackets = re.fullmatch(r"\w+ \((.+)\)", name)
    return in_brackets[1] if in_brackets else name


@pytest.mark.parametrize(("labels", "least"), LABELS.items())
def test_they_end_with_the_engine_as_with_djangos(
    postgres, database, source, tmp_path, labels, least
):
    dsn = postgres.dsn(database)
    ours = run(
        "dbpool_mw.backends.postgresql", labels, source, dsn, tmp_path / "ours.json"
    )
    assert len(ours) >= least
    known = {name for name in KNOWN if name.startswith(labels)}
    not_ok = {name: how for name, how in ours.items() if how != "ok"}
    djangos = run(
        "django.db.backends.postgresql",
        sorted({label_of(name) for name in not_ok.keys() - known}),
        source,
        dsn,
        tmp_path / "djangos.json",
    )
    differ = {name: how for name, how in not_ok.items() if djangos.get(name) != how}
    assert {name: how for name, how in differ.items() if name not in known} == {}
    assert set(differ) == known
