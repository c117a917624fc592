"""Fixtures that start a real PostgreSQL, and point Django at its databases.

`postgres` is the server of the whole run: a private server, or the server that the
variable DBPOOL_MW_TEST_DSN names (its user must be allowed to create databases).
`own_postgres` is always private, for tests that stop or kill it. `postgis` is a private
server that offers PostGIS, `tls_postgres` one that is reached by TLS. `database` is a
new database on `postgres`.

`databases` points Django's aliases "default" and "replica" at two databases on
`postgres`. It changes the dicts in settings.DATABASES in place, because every wrapper
of every thread, also one made before the test, has the same dict. `own_databases` does
the same on `own_postgres`. Tests without either fixture can't reach any database.
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

from dbpool_mw.core.rate import RateLimit
from sandbox.postgres import PostgresMissing, PostgresServer, Server

DSN_VARIABLE = "DBPOOL_MW_TEST_DSN"
REPLICA_VARIABLE = "DBPOOL_MW_TEST_REPLICA_DSN"
# Django sets UTC: with another default, tests see when a session lost its time zone.
SERVER_SETTINGS = {"timezone": "Asia/Kathmandu", "max_prepared_transactions": 5}

# This runs before anything reads the settings. They must not see DBPOOL_MW_TEST_DSN, so
# that a test without a database fixture can't reach a database.
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
NAMED_SERVER = os.environ.pop(DSN_VARIABLE, "")
os.environ.pop(REPLICA_VARIABLE, None)
if not NAMED_SERVER:
    # libpq would read these variables, which may name a server of the user's.
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
    # A shell's background jobs ignore SIGINT, and so would the processes of the tests.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    django.setup()


def unique_name() -> str:
    """Return a new database name."""
    return f"dbpool_mw_{secrets.token_hex(6)}"


@contextmanager
def fresh_database(server: Server) -> Iterator[str]:
    """Create a database, and drop it at the end, even if sessions still use it."""
    name = unique_name()
    server.create_database(name)
    try:
        yield name
    finally:
        server.drop_database(name)


@contextmanager
def fresh_databases(server: Server) -> Iterator[Databases]:
    """Create a database for each of the two aliases, and drop both at the end."""
    with fresh_database(server) as default, fresh_database(server) as replica:
        yield Databases(server, default, replica)


@contextmanager
def aliases_at(databases: Databases) -> Iterator[Databases]:
    """Point "default" and "replica" at the databases."""
    # The registry reads the settings at its import, after this module has chosen them.
    from dbpool_mw.binding import registry, testing

    before = {}
    address = {
        "HOST": databases.server.host,
        "PORT": str(databases.server.port),
        "USER": databases.server.user,
        "PASSWORD": databases.server.password,
    }
    sslmode = databases.server.sslmode
    options = {"sslmode": sslmode} if sslmode else {}
    for alias, name in [
        ("default", databases.default),
        ("replica", databases.replica),
    ]:
        before[alias] = settings.DATABASES[alias].copy()
        own = settings.DATABASES[alias].get("OPTIONS", {}).copy()
        own.pop("sslmode", None)
        settings.DATABASES[alias].update(address, NAME=name, OPTIONS={**own, **options})
    testing.remember_databases()
    try:
        yield databases
    finally:
        connections.close_all()
        registry.close()
        for alias, values in before.items():
            settings.DATABASES[alias].update(values)
        testing.remember_databases()


@pytest.fixture(autouse=True)
def _warnings_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first 503 of each test logged, however soon after the last test's."""
    from dbpool_mw.binding import unavailable

    monkeypatch.setattr(unavailable, "_warnings", RateLimit(1))
    monkeypatch.setattr(unavailable, "_tracebacks", RateLimit(60))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Give the server of the whole run. Tests must not stop it."""
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
    """Give a private server that offers PostGIS, if django.contrib.gis can load."""
    how = "On Debian, root can install it with .ci/debian."
    try:
        # These imports load GDAL and GEOS.
        import django.contrib.gis.gdal
        import django.contrib.gis.geos  # noqa: F401
    except ImproperlyConfigured as missing:
        pytest.skip(f"{missing} {how}")
    try:
        with PostgresServer(SERVER_SETTINGS, extension="postgis") as server:
            yield server
    except PostgresMissing as missing:
        pytest.skip(f"{missing} {how}")


@pytest.fixture(scope="session")
def tls_postgres() -> Iterator[PostgresServer]:
    """Give a private server that clients reach by TLS. Tests must not stop it."""
    try:
        with PostgresServer(SERVER_SETTINGS, tls=True) as server:
            yield server
    except PostgresMissing as missing:
        pytest.skip(f"{missing} On Debian, root can install it with .ci/debian.")


@pytest.fixture
def database(postgres: Server) -> Iterator[str]:
    """Give the name of a new database on `postgres`."""
    with fresh_database(postgres) as name:
        yield name


@pytest.fixture(scope="session")
def _databases(postgres: Server) -> Iterator[Databases]:
    with fresh_databases(postgres) as databases:
        yield databases


@pytest.fixture
def databases(_databases: Databases) -> Iterator[Databases]:
    """Point Django at the run's two databases, which keep the tables of each test."""
    with aliases_at(_databases):
        yield _databases


@pytest.fixture
def own_databases(own_postgres: PostgresServer) -> Iterator[Databases]:
    """Point Django at two new databases on `own_postgres`."""
    server = own_postgres
    with fresh_databases(server) as databases:
        with aliases_at(databases):
            yield databases
        if not server.running:
            server.start()
