"""Under ASGI: aborted requests, and error pages rendered in other threads."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException

import django
import pytest

from tests.process.servers import wait_until


def send(server, path):
    """Send a request without reading the answer; return the socket."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return client


def test_a_connection_whose_request_is_aborted_is_checked_in_after_its_query(project):
    project.settings |= {"DBPOOL_MW_MAX_CONNS": 1, "DBPOOL_MW_TIMEOUT": 0.2}
    project.settings["DBPOOL_MW_POOLS"] = {"replica": None}
    with project.uvicorn() as server:
        with project.lock(11):
            client = send(server, "/holds/?key=11")
            project.wait_for_lock(11)
            client.close()
            # No other request must get the connection while the query runs.
            for _ in range(3):
                assert server.get("/facts/").status == 503
            assert project.in_use() == 1
        project.rest()
        assert server.get("/facts/").status == 200
        assert project.settled()["size"] == 1
        assert len(project.backends()) == 1


@pytest.mark.skipif(django.VERSION < (5, 0), reason="Django goes on with the view")
def test_an_abort_in_an_async_view_is_a_checkin_at_once(project):
    with project.uvicorn() as server:
        clients = [send(server, "/async_waits/") for _ in range(3)]
        wait_until(
            lambda: len(project.holders("/async_waits/")) == 3,
            "the views hold connections",
        )
        for client in clients:
            client.close()
        project.rest()
        assert project.settled()["reclaimed"] == 0
        project.check_no_place_is_lost()


@pytest.mark.parametrize("lazy", [False, True])
def test_clients_that_hang_up_while_they_wait_leave_the_queue(project, lazy):
    project.settings |= {"DBPOOL_MW_MAX_CONNS": 1, "DBPOOL_MW_TIMEOUT": 20}
    project.settings |= {
        "DBPOOL_MW_POOLS": {"replica": None},
        "DBPOOL_MW_EAGER": () if lazy else ("default",),
    }
    # Before Django 5.0 nothing tells that a client has hung up; they are served then.
    gone_for_django = 3 if django.VERSION >= (5, 0) else 0
    with project.uvicorn() as server, ThreadPoolExecutor() as clients:
        with project.lock(12):
            held = clients.submit(server.get, "/holds/?key=12")
            project.wait_for_lock(12)
            gone = [send(server, "/facts/") for _ in range(3)]
            wait_until(lambda: project.totals()["waiting"] == 3, "three wait")
            behind = clients.submit(server.get, "/facts/")
            wait_until(lambda: project.totals()["waiting"] == 4, "one more waits")
            for client in gone:
                client.close()
            wait_until(
                lambda: project.totals()["waiting"] == 4 - gone_for_django,
                "those who have hung up don't wait any more",
            )
            assert not held.done()
            assert not behind.done()
        assert held.result(20).status == 200
        assert behind.result(20).status == 200
        stats = project.settled()
        assert stats["cancelled"] == gone_for_django
        assert stats["checkouts"] == 5 - gone_for_django
        assert stats["timeouts"] == stats["reclaimed"] == 0
        assert server.text() == "default: opened a connection (1 of 1)\n"
        project.check_no_place_is_lost()


@pytest.mark.parametrize("path", ["/close_fails/", "/exits/"])
def test_a_request_without_request_finished_loses_no_place(project, path):
    project.settings |= {"DBPOOL_MW_MAX_CONNS": 1, "DBPOOL_MW_TIMEOUT": 5}
    with project.uvicorn() as server:

        def answers_or_ended():
            # In some versions of Django, SystemExit ends uvicorn, also without a pool.
            if server.process.poll() is not None:
                return path == "/exits/"
            with suppress(HTTPException, OSError):
                assert server.get("/facts/").status == 200
                return True

        for _ in range(3):
            with suppress(HTTPException, OSError):
                server.get(path)
            wait_until(answers_or_ended, "the server answers or ends")
        project.check_no_place_is_lost()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_error_pages_of_outer_middleware_lose_no_place(project, mode):
    project.settings |= {
        "DBPOOL_MW_MAX_CONNS": 2,
        "DBPOOL_MW_TIMEOUT": 3,
        "MIDDLEWARE": [
            f"tests.process.project.middleware.fails_afterwards_{mode}",
            "dbpool_mw.middleware.ConnectionPoolMiddleware",
        ],
    }
    with project.uvicorn() as server:
        for path in ("/facts/", "/fails/", "/fails_async/") * 2:
            assert server.get(path)["page"] == 500
            project.rest()
        assert project.settled()["timeouts"] == 0
        project.check_no_place_is_lost()


MIXED = [
    "/facts/",
    "/fails/",
    "/fails_async/",
    "/fails_twice/",
    "/nothing/",
    "/closes/",
    "/async_orm/",
    "/stream/?rows=5",
    "/async_stream/?rows=5",
    "/async_rows/",
    "/raises_in_stream/",
    "/file/",
    "/leaves_session/",
    "/no_database/",
    "/exempt/",
]


def test_mixed_traffic_stays_within_max_conns_and_loses_no_place(project):
    project.settings |= {"DBPOOL_MW_MAX_CONNS": 4, "DBPOOL_MW_TIMEOUT": 20}
    project.settings["DBPOOL_MW_POOLS"] = {"replica": None}

    def visit(number):
        path = MIXED[number % len(MIXED)]
        if number % 5 == 4 and path != "/async_rows/":
            send(server, path).close()
            return 0
        if number % 5 == 3:
            server.break_off("/stream/?rows=300")
            return 0
        with suppress(HTTPException, OSError):
            return server.get(path).status

    with project.uvicorn() as server, ThreadPoolExecutor(12) as clients:
        visits = [clients.submit(visit, number) for number in range(200)]
        most = 0
        while not all(visited.done() for visited in visits):
            most = max(most, len(project.backends()))
        assert {visited.result() for visited in visits} <= {0, 200, 500, None}
        assert 0 < most <= 4
        project.rest()
        stats = project.settled()
        assert stats["timeouts"] == 0
        assert stats["discarded"] == {}
        # Django sends no request_finished when a stream raises.
        reclaimed = [line for line in server.text().splitlines() if "reclaimed" in line]
        assert all("GET /raises_in_stream/" in line for line in reclaimed)
        assert len(reclaimed) == stats["reclaimed"]
        assert len(project.backends()) == stats["size"] <= 4


def test_the_next_request_works_after_a_stream_with_a_cursor_was_broken_off(project):
    with project.uvicorn() as server:
        for _ in range(3):
            server.break_off("/async_rows/")
            project.rest()
        project.check_no_place_is_lost()
        assert server.get("/async_rows/").status == 200
