"""Connections that are opened before the first request."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest
from django.db import OperationalError, connections
from django.test import override_settings
from django.utils.connection import ConnectionDoesNotExist

import dbpool_mw
from dbpool_mw.binding import registry
from tests.postgres.conftest import ask, stats
from tests.vocabulary import connect

pytestmark = pytest.mark.usefixtures("fresh_wrappers")


@pytest.fixture(autouse=True)
def without_pools(databases):
    """Begin and end without a pool, on settings of the test's own.

    A warm-up that ran out of time leaves a thread that may make a last attempt: in the
    next test, it would be one connection too many.
    """
    registry.close()
    values = connections.settings["default"]
    before = values.copy()
    yield
    registry.close()
    for thread in threading.enumerate():
        if thread.name == "dbpool_mw-warm-up":
            thread.join(10)
            assert not thread.is_alive()
    registry.close()
    values.clear()
    values.update(before)


def test_it_opens_min_conns_and_holds_none():
    with override_settings(DBPOOL_MW_MIN_CONNS=3):
        dbpool_mw.warm_up()
        assert (stats()["opened"], stats()["idle"], stats()["in_use"]) == (3, 3, 0)
        dbpool_mw.warm_up()
        assert stats()["opened"] == 3
        assert [pool.name for pool in registry.pools()] == ["default"]


def test_it_opens_one_where_min_conns_is_zero():
    dbpool_mw.warm_up("default", "replica")
    assert stats()["idle"] == stats("replica")["idle"] == 1


def test_it_works_in_a_coroutine():
    async def start():
        dbpool_mw.warm_up()

    asyncio.run(start())
    assert stats()["idle"] == 1


def test_it_never_opens_more_than_max_conns_and_waits_for_those_of_others():
    with override_settings(DBPOOL_MW_MIN_CONNS=2, DBPOOL_MW_MAX_CONNS=2):
        with dbpool_mw.pooled():
            ask("SELECT 1")
            with pytest.raises(
                dbpool_mw.PoolTimeout, match=r"1 of 2 .* open within 0\.2 s"
            ) as caught:
                dbpool_mw.warm_up(timeout=0.2)
            assert isinstance(caught.value, OperationalError)
            assert stats()["opened"] == 2
        dbpool_mw.warm_up()
        assert stats()["opened"] == 2


@pytest.fixture
def port():
    """Give a port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_it_says_what_hinders_it_when_its_time_is_up(port):
    connections.settings["default"].update(HOST="127.0.0.1", PORT=str(port))
    began = time.monotonic()
    with pytest.raises(dbpool_mw.PoolTimeout, match="0 of 1 connections") as caught:
        dbpool_mw.warm_up(timeout=0.6)
    assert 0.5 < time.monotonic() - began < 2
    assert "Connection refused" in str(caught.value.__cause__)


def test_it_tries_again_until_it_can_connect(databases):
    connections.settings["default"]["USER"] = "comes_late"
    waits = threading.Thread(target=dbpool_mw.warm_up)
    waits.start()
    with connect(databases.server.dsn(databases.default)) as session:
        cursor = session.cursor()
        deadline = time.monotonic() + 10
        while not (registry.pools() and registry.stats()[0]["connect_errors"]):
            assert time.monotonic() < deadline
        password = connections.settings["default"]["PASSWORD"]
        cursor.execute("CREATE ROLE comes_late LOGIN PASSWORD %s", [password])
        session.commit()
        try:
            waits.join(10)
            assert stats()["idle"] == 1
        finally:
            registry.close()
            cursor.execute("DROP ROLE comes_late")
    session.close()


def test_it_does_nothing_where_no_connection_is_kept():
    with override_settings(DBPOOL_MW_POOLS={"default": None}):
        dbpool_mw.warm_up()
    with override_settings(DBPOOL_MW_ENABLED=False):
        dbpool_mw.warm_up("default", "replica")
    dbpool_mw.warm_up("local")
    assert registry.pools() == []


def test_it_refuses_an_alias_that_is_unknown():
    with pytest.raises(ConnectionDoesNotExist):
        dbpool_mw.warm_up("defualt")
