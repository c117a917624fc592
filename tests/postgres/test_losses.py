"""Connections that are reclaimed because their thread or wrapper is gone."""

from __future__ import annotations

import gc
import logging
import threading
from contextlib import suppress

import pytest
from django.db import connections
from django.http import HttpResponse
from django.test import RequestFactory, override_settings

from dbpool_mw.binding import registry
from dbpool_mw.binding.binding import KEY
from dbpool_mw.binding.requests import begin_request, end_request
from dbpool_mw.middleware import ConnectionPoolMiddleware
from tests.core.fakes import InThread, until
from tests.postgres.conftest import ask, stats

pytestmark = pytest.mark.usefixtures("requests")


def begin():
    """Begin a request in this thread, as the middleware does."""
    begin_request(RequestFactory().get("/dies/"), ("default",), ("default",))


def wait_until_reclaimed(number):
    until(lambda: stats()["reclaimed"] == number and stats()["in_use"] == 0)


@override_settings(DBPOOL_MW_MAX_CONNS=2, DBPOOL_MW_TIMEOUT=10)
def test_the_connection_of_a_thread_that_ended_is_reclaimed(caplog):
    def die():
        begin()
        ask("SELECT 1")

    for number in range(1, 8):
        thread = threading.Thread(target=die, name="mortal")
        thread.start()
        thread.join()
        wait_until_reclaimed(number)
    assert stats()["opened"] <= 2
    assert stats()["timeouts"] == 0
    assert "GET /dies/ in thread mortal" in caplog.text


def test_the_connection_of_a_collected_wrapper_is_reclaimed():
    begin()
    ask("SELECT 1")
    del connections["default"]
    gc.collect()
    wait_until_reclaimed(1)
    assert stats()["idle"] == 1


def test_the_transaction_of_a_thread_that_ended_is_rolled_back():
    def die():
        begin()
        ask("BEGIN")
        ask("SET a.b = 'c'")

    thread = threading.Thread(target=die)
    thread.start()
    thread.join()
    wait_until_reclaimed(1)
    assert stats()["rollbacks"] == stats()["resets"] == 1
    begin()
    assert ask("SELECT current_setting('a.b', true)") in (None, "")
    end_request()


def test_a_base_exception_through_the_middleware_checks_the_connection_in():
    def view(request):
        ask("SELECT 1")
        raise SystemExit

    middleware = ConnectionPoolMiddleware(view)
    for _ in range(3):
        with pytest.raises(SystemExit):
            middleware(RequestFactory().get("/"))
        assert stats()["in_use"] == 0
    assert stats()["opened"] == 1


def test_a_request_that_never_finished_is_ended_by_the_next_in_its_thread():
    middleware = ConnectionPoolMiddleware(lambda request: HttpResponse())
    middleware(RequestFactory().get("/first/"))
    ask("SET a.b = 'leaks'")
    assert stats()["in_use"] == 1
    middleware(RequestFactory().get("/second/"))
    assert stats()["in_use"] == 1
    assert ask("SELECT current_setting('a.b', true)") in (None, "")
    assert registry.pools()[0].holders()[0]["path"] == "/second/"
    end_request()
    assert stats()["in_use"] == 0


def test_close_and_reclaim_in_several_threads_check_in_once(caplog):
    caplog.set_level(logging.ERROR)
    begin()
    binding = vars(connections["default"])[KEY]
    barrier = threading.Barrier(4)

    def reclaim():
        barrier.wait()
        binding.reclaim()

    threads = [threading.Thread(target=reclaim) for _ in range(3)]
    for thread in threads:
        thread.start()
    barrier.wait()
    connections["default"].close()
    for thread in threads:
        thread.join()
    until(lambda: stats()["in_use"] == 0)
    assert stats()["hold_seconds"]["count"] == 1
    assert caplog.text == ""


def test_an_engine_whose_close_raises_loses_no_slot(requests, monkeypatch):
    def fails(self):
        raise ValueError("on purpose")

    def view(request):
        ask("SELECT 1")
        connections["default"].connection = object()
        return HttpResponse()

    monkeypatch.setattr(type(connections["default"]), "_close", fails)
    with suppress(ValueError):
        requests(view)
    assert stats()["in_use"] == 0


def test_without_a_thread_the_first_request_is_served_all_the_same(
    requests, monkeypatch, caplog
):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("dbpool_mw.core.background.Maintenance.start", start)
    monkeypatch.setattr(
        "dbpool_mw.binding.testing.must_keep_no_idle_connection", lambda *_: False
    )
    assert requests(lambda request: HttpResponse(ask("SELECT 1"))).status_code == 200
    assert "no maintenance thread" in caplog.text


def lose():
    """Check a connection out, and forget it as an exception between two lines does."""
    begin()
    ask("SELECT 1")
    vars(connections["default"])[KEY].held.clear()
    connections["default"].connection = None


@override_settings(DBPOOL_MW_MAX_CONNS=2, DBPOOL_MW_TIMEOUT=20)
def test_what_a_thread_lost_before_it_ended_is_reclaimed():
    for _ in range(2):
        thread = threading.Thread(target=lose)
        thread.start()
        thread.join()
    maintain_twice()
    wait_until_reclaimed(2)
    until(lambda: stats()["size"] == 0)


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=20)
def test_a_thread_that_waits_for_what_it_lost_itself_is_served():
    def lose_and_go_on():
        lose()
        assert ask("SELECT 1") == 1
        end_request()

    begin()
    ask("SELECT 1")
    end_request()
    thread = InThread(lose_and_go_on)
    until(lambda: stats()["waiting"] == 1)
    maintain_twice()
    thread.result()
    assert stats()["reclaimed"] == 1
    assert stats()["timeouts"] == 0


def maintain_twice():
    (pool,) = registry.pools()
    pool.maintain()
    pool.maintain()
