"""A server that became read-only, or hands over to another, is left at once.

The servers are real: a primary, and a hot standby of it that is promoted.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import InternalError, OperationalError, connection, transaction
from django.test import override_settings

from dbpool_mw import pooled
from dbpool_mw.binding import registry
from sandbox.postgres import PostgresServer
from tests.conftest import Databases, aliases_at
from tests.faults.proxy import Proxy
from tests.postgres.conftest import ask, forget_wrappers, stats
from tests.process.servers import wait_until
from tests.standby import Standby
from tests.vocabulary import READ_ONLY, connect, sqlstate

MAX_CONNS = 4
WRITE = "INSERT INTO line VALUES (DEFAULT)"
SHUTS_DOWN = "DO $$ BEGIN RAISE 'over' USING ERRCODE = '57P01'; END $$"


def execute(server, *statements):
    """Run statements on a server, each in a transaction of its own."""
    session = connect(server.dsn())
    session.autocommit = True
    try:
        with session.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchone() if cursor.description else None
    finally:
        session.close()


@pytest.fixture(scope="module")
def primary():
    with PostgresServer() as server:
        execute(server, "CREATE TABLE line (id serial)")
        yield server


@pytest.fixture(scope="module")
def other(primary):
    """Give a second server that takes writes, with the same databases."""
    with Standby(primary) as server:
        server.promote()
        yield server


def set_read_only(server, value):
    """Switch a server's sessions, and wait until the open ones have noticed."""
    witness = connect(server.dsn())
    witness.autocommit = True
    change = f"ALTER SYSTEM SET default_transaction_read_only = {value}"
    execute(server, "SET default_transaction_read_only = off", change)
    execute(server, "SELECT pg_reload_conf()")

    def noticed():
        with witness.cursor() as cursor:
            cursor.execute("SHOW default_transaction_read_only")
            return cursor.fetchone() == (value,)

    wait_until(noticed, "the server has read its configuration")
    witness.close()


@pytest.fixture
def route(primary):
    """Give a proxy before the primary, with Django behind it."""
    forget_wrappers()
    with (
        Proxy(primary.host, primary.port) as proxy,
        aliases_at(Databases(primary, "postgres", "postgres")),
        override_settings(
            DBPOOL_MW_MAX_CONNS=MAX_CONNS, DBPOOL_MW_POOLS={"replica": None}
        ),
    ):
        connection.settings_dict["PORT"] = str(proxy.port)
        yield proxy
        forget_wrappers()
        registry.close()
    set_read_only(primary, "off")


def in_threads(work, number=MAX_CONNS):
    """Call a function in threads, each with a connection that no other has then."""
    together = threading.Barrier(number)

    def run():
        with pooled():
            ask("SELECT 1")
            together.wait(10)
            return work()

    with ThreadPoolExecutor(number) as threads:
        futures = [threads.submit(run) for _ in range(number)]
        return [future.result(20) for future in futures]


def write():
    """Write a row; return the SQLSTATE that it failed with, None if it did not."""
    try:
        with pooled():
            ask(WRITE)
    except (InternalError, OperationalError) as error:
        return sqlstate(error.__cause__)
    return None


def warnings(caplog):
    return [r for r in caplog.records if r.levelno == logging.WARNING]


def test_a_server_that_became_read_only_fails_one_request_per_connection_in_use(
    route, primary, other, caplog
):
    in_threads(lambda: None)
    assert stats()["size"] == MAX_CONNS
    route.server = (other.host, other.port)
    set_read_only(primary, "on")

    failed = [code for code in in_threads(write) if code is not None]
    began = time.monotonic()
    assert set(failed) == {"25006"}
    assert len(failed) <= MAX_CONNS
    assert [write() for _ in range(20)] == [None] * 20
    assert time.monotonic() - began < 1
    assert ask_port() == other.port
    assert stats()["discarded"] == {"failed over": MAX_CONNS}
    (warning,) = warnings(caplog)
    assert warning.getMessage() == (
        "default: the server has become read-only; replacing every connection"
    )


def ask_port():
    with pooled():
        return int(ask("SHOW port"))


@override_settings(DBPOOL_MW_CHECK_AFTER_IDLE=0)
def test_the_query_that_checks_an_idle_connection_notices_a_read_only_server(
    route, primary, other
):
    assert write() is None
    route.server = (other.host, other.port)
    set_read_only(primary, "on")
    assert write() is None
    assert ask_port() == other.port


def test_a_reset_notices_a_read_only_server(route, primary, other):
    assert write() is None
    route.server = (other.host, other.port)
    set_read_only(primary, "on")
    with pooled():
        ask("SET statement_timeout = 0")
    assert stats()["resets"] == 1
    assert write() is None


def test_a_pool_whose_server_was_read_only_from_the_start_stays_as_it_is(
    route, primary
):
    set_read_only(primary, "on")
    assert [write() for _ in range(3)] == ["25006"] * 3
    assert stats()["opened"] == 1


def in_a_transaction_of_its_own():
    with transaction.atomic():
        ask("SET TRANSACTION READ ONLY")
        ask(WRITE)


def in_a_transaction_that_begins_so():
    ask("BEGIN READ ONLY")
    ask(WRITE)


def in_a_session_of_its_own():
    ask("SET default_transaction_read_only = on")
    ask(WRITE)


def by_an_attribute():
    ask("SELECT 1")
    setattr(connection.connection, READ_ONLY, True)
    # psycopg sends it with BEGIN only.
    with transaction.atomic():
        ask(WRITE)


@pytest.mark.parametrize(
    "fails",
    [
        in_a_transaction_of_its_own,
        in_a_transaction_that_begins_so,
        in_a_session_of_its_own,
        by_an_attribute,
    ],
)
def test_what_the_application_made_read_only_is_no_failover(route, fails, caplog):
    for _ in range(2):
        with pytest.raises(InternalError) as caught, pooled():
            fails()
        assert sqlstate(caught.value.__cause__) == "25006"
    assert write() is None
    assert stats()["opened"] == 1
    assert not [w for w in warnings(caplog) if "replacing" in w.getMessage()]


def test_what_the_options_made_read_only_is_no_failover(route, monkeypatch):
    options = {"options": "-c default_transaction_read_only=on"}
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    assert [write() for _ in range(2)] == ["25006"] * 2
    assert stats()["opened"] == 1


def test_a_thousand_errors_replace_the_connections_once(route, caplog):
    def fails():
        for _ in range(1000 // MAX_CONNS):
            with pytest.raises(OperationalError) as caught:
                ask(SHUTS_DOWN)
            assert sqlstate(caught.value.__cause__) == "57P01"

    in_threads(fails)
    assert write() is None
    assert stats()["discarded"] == {"failed over": MAX_CONNS}
    assert stats()["opened"] == MAX_CONNS + 1
    assert len(warnings(caplog)) == 1


def test_connections_opened_after_a_failover_notice_the_next_one(route):
    for number in (1, 2, 3):
        with pytest.raises(OperationalError), pooled():
            ask(SHUTS_DOWN)
        assert stats()["discarded"] == {"failed over": number}


@pytest.mark.parametrize("verb", ["pause", "drain"])
def test_a_failover_ends_no_pause_and_no_drain(route, verb):
    with pooled():
        ask("SELECT 1")
        (pool,) = registry.pools()
        getattr(pool, verb)()
        state = pool.state
        with pytest.raises(OperationalError):
            ask(SHUTS_DOWN)
    assert pool.state == state


def test_among_several_hosts_the_one_that_was_promoted_is_found(primary):
    with (
        Standby(primary) as second,
        aliases_at(Databases(primary, "postgres", "postgres")),
        override_settings(
            DBPOOL_MW_MAX_CONNS=MAX_CONNS, DBPOOL_MW_POOLS={"replica": None}
        ),
    ):
        forget_wrappers()
        # The standby comes first, and is passed over.
        connection.settings_dict.update(
            HOST=f"{second.host},{primary.host}",
            PORT=f"{second.port},{primary.port}",
            OPTIONS={"target_session_attrs": "read-write"},
        )
        try:
            in_threads(lambda: ask(WRITE))
            primary.kill()
            second.promote()
            promoted = time.monotonic()
            assert [write() for _ in range(8)] == [None] * 8
            assert time.monotonic() - promoted < 1
            assert ask_port() == second.port
            assert stats()["discarded"] == {"dead": MAX_CONNS}
        finally:
            connection.settings_dict["OPTIONS"] = {}
            forget_wrappers()
            registry.close()
            primary.start()
