"""The check that the pools of all workers fit into the server's max_connections."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.checks import CheckMessage, Info, Warning
from django.db import connections
from django.db.utils import ConnectionHandler, OperationalError
from django.test import override_settings

from dbpool_mw import checks
from sandbox.postgres import Server
from tests.conftest import Databases, aliases_at
from tests.django.conftest import POSTGRESQL, Project
from tests.pgbouncer import needs_pgbouncer, pgbouncer

pytestmark = pytest.mark.usefixtures("defaults")


class FakeConnection:
    """A fake of Django's wrapper, connected to a server with the settings ``rows``."""

    def __init__(
        self, rows: dict[str, str], *, is_open: bool = False, pid: int = 7
    ) -> None:
        self.connection = self if is_open else None
        self.rows = rows
        self.closed = 0
        self.queries = 0
        self.pid = pid
        # What each library tells of its backend.
        self.pgconn = SimpleNamespace(backend_pid=7)
        self.get_backend_pid = lambda: 7

    def cursor(self) -> FakeConnection:
        self.connection = self
        return self

    def __enter__(self) -> FakeConnection:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def execute(self, sql: str) -> None:
        self.queries += 1
        if not self.rows:
            raise OperationalError("connection refused")

    def fetchall(self) -> list[tuple[str, str]]:
        return [*self.rows.items(), ("pid", str(self.pid))]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def server(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that gives aliases, by their names, a fake connection."""
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)

    class Connections:
        made: dict[str, FakeConnection] = {}  # noqa: RUF012

        def __getitem__(self, alias: str) -> FakeConnection:
            return self.made[alias]

        @property
        def settings(self) -> Any:
            return connections.settings

    def set_connections(**made: FakeConnection) -> None:
        fake = Connections()
        fake.made = made
        monkeypatch.setattr("dbpool_mw.checks.capacity.connections", fake)

    return set_connections


def capacity(*databases: str) -> list[CheckMessage]:
    return checks.check_capacity(databases=list(databases) or None)


SMALL = {
    "max_connections": "100",
    "superuser_reserved_connections": "3",
    "reserved_connections": "2",
}


def test_connections_that_just_fit_the_server_are_no_warning(server: Any) -> None:
    server(default=FakeConnection(SMALL))
    with override_settings(DBPOOL_MW_WORKERS=5, DBPOOL_MW_MAX_CONNS=19):
        assert capacity("default") == []


def test_more_connections_than_the_server_accepts_are_a_warning(server: Any) -> None:
    server(default=FakeConnection(SMALL))
    with override_settings(DBPOOL_MW_WORKERS=4, DBPOOL_MW_MAX_CONNS=24):
        (message,) = capacity("default")
    assert isinstance(message, Warning)
    assert message.id == checks.IDS["capacity"]
    assert message.msg == (
        "'default': 4 worker processes may open 96 connections (24 each), and the "
        "server accepts 95."
    )
    assert "Lower DBPOOL_MW_MAX_CONNS (to 23 " in str(message.hint)


def test_an_old_server_has_no_reserved_connections(server: Any) -> None:
    rows = {"max_connections": "20", "superuser_reserved_connections": "3"}
    server(default=FakeConnection(rows))
    with override_settings(DBPOOL_MW_MAX_CONNS=17):
        assert capacity("default") == []
    with override_settings(DBPOOL_MW_MAX_CONNS=18):
        (message,) = capacity("default")
    assert message.msg.startswith("'default': 1 worker process may open 18 connections")


def test_the_number_of_workers_may_come_from_the_environment(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server(default=FakeConnection(SMALL))
    monkeypatch.setenv("WEB_CONCURRENCY", "10")
    (message,) = capacity("default")
    assert message.msg.startswith("'default': 10 worker processes may open 100")


def test_aliases_on_one_server_share_its_limit(server: Any, project: Project) -> None:
    far = {**POSTGRESQL, "HOST": "far", "PORT": 5433}
    project(one=far, two={**far, "PORT": "5433", "NAME": "stock"})
    made = {alias: FakeConnection(SMALL) for alias in ("default", "one", "two")}
    server(**made)
    with override_settings(DBPOOL_MW_MAX_CONNS=50):
        (message,) = capacity("default", "two")
    assert message.msg == (
        "'one', 'two': 1 worker process may open 100 connections (100 each), and the "
        "server accepts 95."
    )
    assert [wrapper.queries for wrapper in made.values()] == [1, 0, 1]


def test_each_size_is_counted_and_named_where_it_is_written(
    server: Any, project: Project
) -> None:
    own = {"ENGINE": "dbpool_mw.backends.postgresql", "OPTIONS": {"MAX_CONNS": 40}}
    project(one={**POSTGRESQL, **own}, two=POSTGRESQL, three=POSTGRESQL)
    server(default=FakeConnection(SMALL))
    with override_settings(
        DBPOOL_MW_MAX_CONNS=20, DBPOOL_MW_POOLS={"two": {"MAX_CONNS": 30}}
    ):
        (message,) = capacity("default")
    assert "may open 110 connections (110 each)" in message.msg
    assert str(message.hint).startswith(
        "Lower DBPOOL_MW_MAX_CONNS or DATABASES['one']['OPTIONS']['MAX_CONNS'] or "
        "DBPOOL_MW_POOLS['two']['MAX_CONNS'] (to 95 for these aliases together), run"
    )


def test_only_the_given_databases_are_queried(server: Any) -> None:
    made = FakeConnection(SMALL)
    server(default=made)
    with override_settings(DBPOOL_MW_MAX_CONNS=1000):
        assert capacity() == []
        assert capacity("other") == []
    assert made.queries == 0


def test_a_server_that_cant_be_reached_is_skipped(server: Any) -> None:
    made = FakeConnection({})
    server(default=made)
    assert capacity("default") == []
    assert made.queries == made.closed == 1


@pytest.mark.parametrize("is_open", [True, False])
def test_the_connection_is_left_open_or_closed_as_it_was(
    server: Any, is_open: bool
) -> None:
    made = FakeConnection(SMALL, is_open=is_open)
    server(default=made)
    assert capacity("default") == []
    assert made.closed == (not is_open)


@pytest.mark.parametrize(
    "invalid",
    [
        {"DBPOOL_MW_ENABLED": False},
        {"DBPOOL_MW_POOLS": None},
        {"DBPOOL_MW_WORKERS": "many"},
        {"DBPOOL_MW_MAX_CONNS": "many"},
    ],
)
def test_invalid_or_disabled_settings_query_no_server(
    server: Any, invalid: dict[str, object]
) -> None:
    made = FakeConnection(SMALL)
    server(default=made)
    with override_settings(**invalid):
        assert capacity("default") == []
    assert made.queries == 0


def test_a_real_server_is_queried_and_the_wrapper_left_closed(
    databases: Databases,
) -> None:
    connection = connections["default"]
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("SHOW max_connections")
        limit = int(cursor.fetchone()[0])
    connection.close()
    with override_settings(DBPOOL_MW_WORKERS=limit, DBPOOL_MW_MAX_CONNS=1):
        # "replica" is on the same server.
        (message,) = capacity("default")
    assert f"may open {2 * limit} connections (2 each)" in message.msg
    assert connection.connection is None
    with override_settings(DBPOOL_MW_WORKERS=1, DBPOOL_MW_MAX_CONNS=1):
        assert capacity("default", "replica") == []


def test_a_real_server_that_is_down_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nowhere = {**POSTGRESQL, "HOST": "127.0.0.1", "PORT": "1"}
    handler = ConnectionHandler({"default": nowhere, "replica": nowhere})
    monkeypatch.setattr("dbpool_mw.checks.capacity.connections", handler)
    with override_settings(DBPOOL_MW_MAX_CONNS=1_000_000):
        assert capacity("default") == []
    assert handler["default"].connection is None


def test_a_server_behind_a_proxy_is_not_compared(server: Any) -> None:
    server(default=FakeConnection(SMALL, pid=8))
    with override_settings(DBPOOL_MW_WORKERS=2, DBPOOL_MW_MAX_CONNS=500):
        (message,) = capacity("default")
    assert isinstance(message, Info)
    assert message.id == checks.IDS["proxy"]
    assert message.msg.startswith("'default': a proxy, such as PgBouncer, is between")
    assert "let it open 1000." in str(message.hint)
    assert "migrating.html#together-with-pgbouncer" in str(message.hint)


@needs_pgbouncer
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_real_pgbouncer_is_recognised(
    postgres: Server, database: str, mode: str
) -> None:
    with (
        pgbouncer(postgres, mode) as front,
        aliases_at(Databases(front, database, database)),
        override_settings(DBPOOL_MW_MAX_CONNS=1_000_000),
    ):
        (message,) = capacity("default", "replica")
    assert message.id == checks.IDS["proxy"]
    assert "'default', 'replica'" in message.msg
