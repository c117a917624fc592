"""What a thread does after its request has ended is no part of any request."""

from __future__ import annotations

import pytest
from django.core.signals import request_finished
from django.db import connection, transaction
from django.http import HttpResponse

from dbpool_mw import pooled
from tests.postgres.conftest import ask, on_engine, stats

PID = "SELECT pg_backend_pid()"


@pytest.fixture
def view_pid(requests):
    """Give what sends a request, and returns the backend that served it."""

    def send() -> object:
        pids = []

        def view(request):
            pids.append(ask(PID))
            return HttpResponse()

        requests(view)
        return pids[0]

    return send


def test_a_query_after_the_request_has_djangos_own_connection(view_pid):
    pid = view_pid()
    assert ask(PID) != pid
    assert stats()["in_use"] == 0
    connection.close()
    # As many times as there are requests, and each finds the pool as it was.
    assert [view_pid(), view_pid()] == [pid, pid]
    assert stats()["opened"] == 1


def test_a_transaction_after_the_request_has_djangos_own_connection(view_pid):
    pid = view_pid()
    with transaction.atomic():
        assert ask(PID) != pid
        assert stats()["in_use"] == 0
    connection.close()


def test_receivers_of_the_end_of_a_request_hold_nothing_of_the_pool(view_pid):
    pids = []

    def receive(**signal):
        pids.append(ask(PID))

    request_finished.connect(receive)
    try:
        served = {view_pid() for _ in range(3)}
        assert stats()["in_use"] == 0
    finally:
        request_finished.disconnect(receive)
        connection.close()
    assert len(served) == 1
    assert not served & set(pids)


def test_a_block_after_a_request_is_pooled(view_pid):
    pid = view_pid()
    ask(PID)
    with pooled():
        assert ask(PID) == pid
    assert ask(PID) != pid
    assert stats()["in_use"] == 0
    connection.close()


def test_with_the_engine_all_code_is_pooled(databases, view_pid):
    with on_engine("dbpool_mw.backends.postgresql"):
        pid = view_pid()
        assert ask(PID) == pid
        assert stats()["in_use"] == 1
        connection.close()
        assert stats()["in_use"] == 0


def test_an_error_page_that_fails_first_and_queries_again_has_the_requests_connection(
    requests,
):
    pids = []

    def handler500(request):
        pids.append(ask(PID))
        if len(pids) == 2:
            raise ZeroDivisionError("in the page that the view's error asks for")
        return HttpResponse(status=500)

    def view(request):
        pids.append(ask(PID))
        raise ValueError

    requests.urls.handler500 = handler500
    # It goes out through the pool's middleware, and Django renders the page again.
    assert requests(view).status_code == 500
    assert len(pids) == 3
    assert len(set(pids)) == 1
    assert stats()["in_use"] == 0
    assert stats()["opened"] == 1
