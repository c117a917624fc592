"""What a request checks out at its start, and what becomes of it without a database."""

from __future__ import annotations

import logging

import pytest
from django.db import connections
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw import pooled
from dbpool_mw.binding import registry
from dbpool_mw.binding.binding import KEY
from dbpool_mw.core import backoff
from dbpool_mw.core.errors import PoolClosed
from dbpool_mw.core.pool import ConnectionPool
from tests.core.fakes import InThread, until
from tests.faults.proxy import Proxy
from tests.postgres.conftest import Requests, ask, forget_wrappers, stats

pytestmark = pytest.mark.usefixtures("fresh_wrappers")


@pytest.fixture
def on_two(own_databases):
    """Have requests on a server that can be stopped, both aliases pooled."""
    sender = Requests()
    with override_settings(ROOT_URLCONF=sender.urls, DBPOOL_MW_TIMEOUT=20):
        yield sender
    connections.close_all()


@pytest.fixture
def network(requests, databases):
    """Put a network between Django and the server that can stop answering."""
    server = databases.server
    with Proxy(server.host, int(server.port)) as proxy:
        address = {"HOST": "127.0.0.1", "PORT": str(proxy.port)}
        options = {"sslmode": "disable", "connect_timeout": 1}
        connections.settings["default"].update(address, OPTIONS=options)
        forget_wrappers()
        yield proxy
        forget_wrappers()
        registry.close()
        connections.settings["default"]["OPTIONS"] = {}


def is_held(alias):
    return bool(getattr(connections[alias], KEY).held)


def test_a_request_checks_out_default_alone_and_the_others_at_their_first_query(
    requests,
):
    def view(request):
        assert (is_held("default"), is_held("replica")) == (True, False)
        ask("SELECT 1", "replica")
        assert is_held("replica")
        return HttpResponse("well")

    with override_settings(DBPOOL_MW_POOLS={}):
        assert requests(lambda request: HttpResponse("well")).status_code == 200
        assert [pool.name for pool in registry.pools()] == ["default"]
        assert requests(view).status_code == 200
        assert stats("replica")["checkouts"] == 1
        assert requests(view).status_code == 200
        for alias in ("default", "replica"):
            assert stats(alias)["in_use"] == 0
            assert stats(alias)["checkouts"] == (3 if alias == "default" else 2)


@pytest.mark.parametrize("eager", [(), ["replica"], ("default", "replica")])
def test_a_request_checks_out_the_aliases_of_the_setting(requests, eager):
    def view(request):
        for alias in ("default", "replica"):
            assert is_held(alias) is (alias in eager)
            assert ask("SELECT 1", alias) == 1
        return HttpResponse("well")

    with override_settings(DBPOOL_MW_POOLS={}, DBPOOL_MW_EAGER=eager):
        assert requests(view).status_code == 200
        assert stats()["in_use"] == stats("replica")["in_use"] == 0


def test_a_database_that_is_down_refuses_no_page_that_does_not_ask_it(
    on_two, own_databases
):
    def asks(request):
        return HttpResponse(ask("SELECT 1"))

    own_databases.server.stop("immediate")
    for _ in range(3):
        assert on_two(lambda request: HttpResponse("well")).status_code == 200
    assert on_two(asks).status_code == 503
    own_databases.server.start()
    until(lambda: on_two(asks).status_code == 200)
    assert stats()["in_use"] == 0


def test_an_eager_alias_whose_server_is_down_costs_only_the_pages_that_ask_it(
    on_two, own_databases
):
    before = connections.settings["replica"].copy()
    connections.settings["replica"].update(HOST="127.0.0.1", PORT="1")
    try:
        with override_settings(DBPOOL_MW_EAGER=("replica", "default")):
            response = on_two(lambda request: HttpResponse(ask("SELECT 1")))
            assert response.status_code == 200
            response = on_two(lambda request: HttpResponse(ask("SELECT 1", "replica")))
            assert response.status_code == 503
            assert stats()["in_use"] == stats("replica")["in_use"] == 0
    finally:
        connections.settings["replica"].update(before)


def test_the_first_query_says_why_at_once_and_the_second_tries_anew(
    on_two, own_databases, monkeypatch, caplog
):
    # Whoever waits for the next attempt waits for longer than the test.
    monkeypatch.setattr(backoff, "FIRST_DELAY", 60)
    monkeypatch.setattr(backoff, "LONGEST_DELAY", 60)
    own_databases.server.stop("immediate")
    pool_attempts = []

    def view(request):
        pool_attempts.append(stats()["connect_errors"])
        return HttpResponse(ask("SELECT 1"))

    with caplog.at_level(logging.WARNING, "dbpool_mw.pool"):
        assert on_two(view).status_code == 503
    assert "can't connect to the database" in caplog.text
    assert "Connection refused" in caplog.text or "No such file" in caplog.text
    assert pool_attempts == [1]
    assert stats()["connect_errors"] == 1
    assert stats()["timeouts"] == stats()["waiting"] == 0


def test_a_database_that_is_back_at_the_first_query_answers_it(on_two, own_databases):
    def view(request):
        assert stats()["connect_errors"] == 1
        own_databases.server.start()
        other = InThread(in_another_thread)
        assert other.result() == 1
        return HttpResponse(ask("SELECT 1"))

    def in_another_thread():
        with pooled():
            return ask("SELECT 1")

    own_databases.server.stop("immediate")
    assert on_two(view).status_code == 200
    assert stats()["in_use"] == 0


def test_a_request_that_goes_on_waits_for_the_next_attempt_at_its_first_query(
    on_two, own_databases, monkeypatch
):
    """Only one that has tried itself is told at once: so a restart fails few."""

    def view(request):
        assert not is_held("default")
        own_databases.server.start()
        return HttpResponse(ask("SELECT 1"))

    own_databases.server.stop("immediate")
    monkeypatch.setattr(backoff, "FIRST_DELAY", 3)
    assert on_two(lambda request: HttpResponse("well")).status_code == 200
    assert stats()["connect_errors"] == 1
    assert on_two(view).status_code == 200
    assert stats()["connect_errors"] == 1


def test_where_the_network_never_answers_only_the_requests_that_query_try_to_connect(
    requests, network, monkeypatch
):
    # As if the last attempt had failed long ago.
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0)
    monkeypatch.setattr(backoff, "LONGEST_DELAY", 0)

    def asks(request):
        return HttpResponse(ask("SELECT 1"))

    network.responsive.clear()
    for _ in range(10):
        assert requests(lambda request: HttpResponse("well")).status_code == 200
    # The first request could not know.
    assert network.listener.accepted == 1
    assert requests(asks).status_code == 503
    assert requests(lambda request: HttpResponse("well")).status_code == 200
    assert network.listener.accepted == 2
    network.responsive.set()
    assert requests(asks).status_code == 200
    assert stats()["idle"] == 1
    assert network.listener.accepted == 3


def test_a_closed_pool_refuses_no_request_that_does_not_ask_it(requests, monkeypatch):
    assert requests(lambda request: HttpResponse("well")).status_code == 200
    checkout = ConnectionPool.checkout

    def closed(self, holder, timeout=None, eager=False):
        if eager:
            raise PoolClosed(self.name, "closed")
        return checkout(self, holder, timeout, eager)

    monkeypatch.setattr(ConnectionPool, "checkout", closed)
    assert requests(lambda request: HttpResponse("well")).status_code == 200
    assert requests(lambda request: HttpResponse(ask("SELECT 1"))).status_code == 200
    assert stats()["in_use"] == 0
