"""The settings of docs/migrating.rst, each run unchanged in a process.

The tests add the address of a database and settings that every project has. To the
settings "before" they also add the middleware, because the document's first step is to
install dbpool_mw; the settings "after" must be complete.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dbpool_mw.checks import IDS, MIDDLEWARE
from dbpool_mw.core.config import POOL_KEYS, PoolConfig, build
from sandbox.postgres import Server
from tests.conftest import Databases
from tests.documents import blocks_of, sections
from tests.library import PYTHONPATH
from tests.pgbouncer import needs_pgbouncer, pgbouncer

DOCUMENT = "docs/migrating.rst"
TOGETHER = "Together with PgBouncer"

# The ids that the checks report for the settings before.
REPORTED = {
    "django-db-pool": ["other_pool_engine"],
    "django-db-geventpool": ["other_pool_engine"],
    "django-postgrespool and django-postgrespool2": ["other_pool_engine"],
    "django-db-connection-pool": ["other_pool_engine"],
    "django-pg-real-pool": ["other_pool_engine"],
    "CONN_MAX_AGE": ["conn_max_age"],
    "A persistent ENGINE of your own": ["persistent_engine"],
    "Django's own pool": ["native_pool"],
    "From PgBouncer": [],
    TOGETHER: [],
}

PROJECT = """
SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["dbpool_mw"]
ROOT_URLCONF = "__main__"
DBPOOL_MW_CONTROL_DIR = {directory!r}
"""


class Move(NamedTuple):
    """The files of a section of the document before and after, by their paths."""

    before: dict[str, str]
    after: dict[str, str]


def moves() -> dict[str, Move]:
    found = {}
    for title, text in sections(DOCUMENT).items():
        move = Move({}, {})
        for block in blocks_of(text):
            name, _, when = block.split("\n")[0].removeprefix("# ").partition(", ")
            getattr(move, when)[name] = block
        if move != ({}, {}):
            found[title] = move
    return found


MOVES = moves()


class Project:
    """Writes the files of a project and runs it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(
        self, files: dict[str, str], *arguments: str, server: Server | None = None
    ) -> dict[str, Any]:
        """Return the output of tests.process.moved in a project of these files."""
        for name, text in files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with (self.directory / "settings.py").open("a") as settings:
            settings.write(PROJECT.format(directory=str(self.directory)))
            if server is not None:
                address = {
                    "HOST": server.host,
                    "PORT": server.port,
                    "USER": server.user,
                    "PASSWORD": server.password,
                    "NAME": server.dbname,
                }
                settings.write(f"DATABASES['default'].update({address!r})\n")
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.process.moved", *arguments],
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("PG")},
                "DJANGO_SETTINGS_MODULE": "settings",
                "PYTHONPATH": f"{self.directory}:{PYTHONPATH}",
            },
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def project(short_directory: Path) -> Project:
    return Project(short_directory)


def database_server(databases: Databases) -> Server:
    """Return the address of the default database of the tests."""
    server = databases.server
    return Server(
        server.host, server.port, server.user, server.password, databases.default
    )


def values(settings: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(settings, names)
    return names


def pool_settings(names: dict[str, Any]) -> dict[str, Any]:
    """Return the settings for the pool of "default", from all places."""
    options = names["DATABASES"]["default"].get("OPTIONS", {})
    own = {**options, **names.get("DBPOOL_MW_POOLS", {}).get("default", {})}
    general = {key: names.get(f"DBPOOL_MW_{key}") for key in POOL_KEYS}
    given = {key: value for key, value in general.items() if value is not None}
    return {**given, **{key: own[key] for key in POOL_KEYS if key in own}}


def test_every_section_has_settings_before_and_after() -> None:
    assert list(MOVES) == list(REPORTED)
    assert all("settings.py" in files for move in MOVES.values() for files in move)


#: What the document says of another ENGINE or value, in place of that in the block.
OTHERS = [
    ("django-db-geventpool", "postgresql_psycopg2", "postgresql_psycopg3"),
    ("django-db-geventpool", "postgresql_psycopg2", "postgis"),
]


@pytest.mark.parametrize(
    ("title", "written", "instead"),
    [*((title, "", "") for title in REPORTED), *OTHERS],
)
def test_the_checks_report_the_settings_before_and_hint_at_those_after(
    title: str, written: str, instead: str, project: Project
) -> None:
    before, after = MOVES[title]
    settings = before["settings.py"] + f"\nMIDDLEWARE = [{MIDDLEWARE!r}]\n"
    assert written in settings
    settings = settings.replace(written, instead) if written else settings
    messages = project.run({**before, "settings.py": settings})["messages"]
    assert [message[0] for message in messages] == [
        IDS[code] for code in REPORTED[title]
    ]
    if not messages:
        return
    (_, _, hint), names = messages[0], values(after["settings.py"])
    engine = names["DATABASES"]["default"]["ENGINE"]
    if instead == "postgis":
        engine = "dbpool_mw.backends.postgis"
    if engine != values(before["settings.py"])["DATABASES"]["default"]["ENGINE"]:
        assert f"'ENGINE': {engine!r}" in hint
    for key, value in pool_settings(names).items():
        general = f"DBPOOL_MW_{key}"
        assignment = f"{general} = " if general in names else f"{key!r}: "
        assert assignment + repr(value) in hint


@pytest.mark.parametrize("title", [title for title in REPORTED if title != TOGETHER])
def test_on_the_settings_after_a_process_serves_within_its_limits(
    title: str, project: Project, databases: Databases
) -> None:
    after = MOVES[title].after
    found = project.run(after, "serve", server=database_server(databases))
    assert found["messages"] == []
    check_pool(found, after)


def check_pool(found: dict[str, Any], after: dict[str, str]) -> None:
    expected = pool_settings(values(after["settings.py"]))
    pool = found["pools"]["default"]
    config: PoolConfig = build(expected)
    assert PoolConfig(**pool["config"]) == config
    assert pool["connections"] == config.max_conns
    assert pool["served"] == config.max_conns + 1
    assert pool["zones"] == ["UTC"]


@needs_pgbouncer
def test_behind_pgbouncer_in_transaction_mode_a_process_serves_within_its_limits(
    project: Project, postgres: Server, database: str
) -> None:
    after = MOVES[TOGETHER].after
    with pgbouncer(postgres, "transaction", size=2) as front:
        front.dbname = database
        found = project.run(after, "serve", "default", server=front)
    assert [message[0] for message in found["messages"]] == [IDS["proxy"]]
    hint = found["messages"][0][2]
    assert "DBPOOL_MW_RESET = 'never'" in hint
    assert "'DISABLE_SERVER_SIDE_CURSORS': True" in hint
    check_pool(found, after)


def test_the_settings_that_leave_pgbouncer_are_compared_with_the_server(
    project: Project, databases: Databases
) -> None:
    after = dict(MOVES["From PgBouncer"].after)
    server = database_server(databases)
    assert project.run(after, "default", server=server)["messages"] == []
