"""Fixtures over a real PostgreSQL.

`postgres` is the server of the whole run: a private one, or the one that the variable
DBPOOL_MW_TEST_DSN names (its user must be allowed to create databases). `own_postgres`
is always private, for tests that stop or kill it. `postgis` is a private one that
offers PostGIS. `database` is a fresh database.

`databases` points Django's aliases "default" and "replica" at two databases on
`postgres`, by changing the dicts in settings.DATABASES in place: every wrapper of every
thread holds the same dict, those made before the test too. `own_databases` does it on
`own_postgres`. Tests without either can't reach any database.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import django
import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from sandbox.postgres import PostgresMissing, PostgresServer, Server

DSN_VARIABLE = "DBPOOL_MW_TEST_DSN"
REPLICA_VARIABLE = "DBPOOL_MW_TEST_REPLICA_DSN"
# Not UTC, which Django sets: a session that lost its time zone gives itself away.
SERVER_SETTINGS = {"timezone": "Asia/Kathmandu"}

# Before anything reads the settings, and they must not see it: a test that asks for no
# database gets none.
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
NAMED_SERVER = os.environ.pop(DSN_VARIABLE, "")
os.environ.pop(REPLICA_VARIABLE, None)
if not NAMED_SERVER:
    # libpq would read them in the tests, and they name somebody else's server.
    for _name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[_name]


@dataclass(frozen=True)
class Databases:
    """Two databases on one server, and the variables that name them to a process."""

    server: Server
    default: str
    replica: str

    @property
    def environ(self) -> dict[str, str]:
        """Return what a process on tests.settings needs in its environment."""
        return {
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            DSN_VARIABLE: self.server.dsn(self.default),
            REPLICA_VARIABLE: self.server.dsn(self.replica),
        }


def pytest_configure() -> None:
    # A shell ignores it in what it runs in the background, and so would our children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    django.setup()


def unique_name() -> str:
    """Return a database name that nobody else uses."""
    return f"dbpool_mw_{secrets.token_hex(6)}"


@contextmanager
def fresh_database(server: Server) -> Iterator[str]:
    """Create a database, and drop it at the end whoever still uses it."""
    name = unique_name()
    server.create_database(name)
    try:
        yield name
    finally:
        server.drop_database(name)


@contextmanager
def aliases_at(databases: Databases) -> Iterator[Databases]:
    """Point "default" and "replica" at the databases."""
    # It reads the settings, which are chosen above.
    from dbpool_mw.binding import registry, testing

    before = {}
    address = {
        "HOST": databases.server.host,
        "PORT": str(databases.server.port),
        "USER": databases.server.user,
        "PASSWORD": databases.server.password,
    }
    for alias, name in [
        ("default", databases.default),
        ("replica", databases.replica),
    ]:
        before[alias] = settings.DATABASES[alias].copy()
        settings.DATABASES[alias].update(address, NAME=name)
    testing.remember_databases()
    try:
        yield databases
    finally:
        connections.close_all()
        registry.close()
        for alias, values in before.items():
            settings.DATABASES[alias].update(values)
        testing.remember_databases()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Give the server of the whole run; leave it running."""
    if NAMED_SERVER:
        yield Server.from_dsn(NAMED_SERVER)
        return
    with PostgresServer(SERVER_SETTINGS) as server:
        yield server


@pytest.fixture(scope="session")
def _private_postgres() -> Iterator[PostgresServer]:
    try:
        server = PostgresServer(SERVER_SETTINGS)
        with server:
            yield server
    except PostgresMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def own_postgres(_private_postgres: PostgresServer) -> PostgresServer:
    """Give a running private server that the test may stop, kill and restart."""
    if not _private_postgres.running:
        _private_postgres.start()
    return _private_postgres


@pytest.fixture(scope="session")
def postgis() -> Iterator[PostgresServer]:
    """Give a private server that offers PostGIS, where django.contrib.gis works too."""
    how = "On Debian, root installs it by .ci/debian."
    try:
        # They load the libraries.
        import django.contrib.gis.gdal
        import django.contrib.gis.geos  # noqa: F401
    except ImproperlyConfigured as missing:
        pytest.skip(f"{missing} {how}")
    try:
        with PostgresServer(SERVER_SETTINGS, extension="postgis") as server:
            yield server
    except PostgresMissing as missing:
        pytest.skip(f"{missing} {how}")


@pytest.fixture
def database(postgres: Server) -> Iterator[str]:
    """Give the name of a fresh database on `postgres`."""
    with fresh_database(postgres) as name:
        yield name


@pytest.fixture(scope="session")
def _databases(postgres: Server) -> Iterator[Databases]:
    with fresh_database(postgres) as default, fresh_database(postgres) as replica:
        yield Databases(postgres, default, replica)


@pytest.fixture
def databases(_databases: Databases) -> Iterator[Databases]:
    """Point Django at two databases of the run: tables that a test makes stay."""
    with aliases_at(_databases):
        yield _databases


@pytest.fixture
def own_databases(own_postgres: PostgresServer) -> Iterator[Databases]:
    """Point Django at two fresh databases on `own_postgres`."""
    server = own_postgres
    with fresh_database(server) as default, fresh_database(server) as replica:
        with aliases_at(Databases(server, default, replica)) as databases:
            yield databases
        if not server.running:
            server.start()
