"""Under WSGI a thread outlives its requests; unfinished requests lose no place."""

from __future__ import annotations

import http.client
import socket
from contextlib import suppress

import django
import pytest

#: Before Django 5.0, runserver kept the connection of its check for migrations open.
OF_RUNSERVER = int(django.VERSION < (5, 0))

PAGES = [
    "/fails/",
    "/fails_async/",
    "/fails_twice/",
    "/facts/",
    "/nothing/",
    "/closes/",
    "/closes_old/",
    "/async_orm/",
    "/stream/",
    "/async_stream/",
    "/raises_in_stream/",
    "/file/",
    "/leaves_session/",
    "/missing/",
]


def test_the_next_request_of_a_thread_ends_an_unfinished_one(project):
    project.settings |= {"DBPOOL_MW_MAX_CONNS": 1, "DBPOOL_MW_TIMEOUT": 2}
    with project.gunicorn("--worker-class", "gthread", "--threads", "1") as server:
        first = server.get("/facts/")["backend"]
        for _ in range(3):
            assert server.get("/close_fails/").status == 200
            assert server.get("/facts/")["backend"] == first
        assert project.settled()["opened"] == 1
        assert "on purpose" in server.text()
        project.check_no_place_is_lost()


@pytest.mark.parametrize("path", ["/exits/", "/close_fails/"])
def test_threads_with_unfinished_requests_lose_no_place(project, path):
    project.settings |= {"DBPOOL_MW_MAX_CONNS": 2, "DBPOOL_MW_TIMEOUT": 2}
    with project.gunicorn("--threads", "2") as server:
        for _ in range(6):
            # gunicorn closes the connection or answers; SystemExit ends its worker.
            with suppress(http.client.HTTPException, OSError):
                server.get(path)
            assert server.get("/facts/").status == 200
        assert project.stats()["size"] <= 2
        assert server.get("/facts/").status == 200


@pytest.mark.parametrize("path", ["/exits/", "/close_fails/"])
def test_the_connection_of_a_thread_that_ends_is_reclaimed(project, path):
    project.settings |= {"DBPOOL_MW_MAX_CONNS": 1, "DBPOOL_MW_TIMEOUT": 5}
    with project.runserver("--noreload") as server:
        for _ in range(3):
            with suppress(http.client.HTTPException, OSError):
                server.get(path)
            assert server.get("/facts/").status == 200
        assert project.settled()["size"] == 1
        project.check_no_place_is_lost(OF_RUNSERVER)


def test_runserver_with_a_thread_for_each_connection_pools_them_all(project):
    with project.runserver("--noreload") as server:
        statuses = {}
        for path in PAGES * 2:
            with suppress(http.client.HTTPException, OSError):
                statuses[path] = server.get(path).status
            project.rest()
        assert [path for path in PAGES if statuses[path] == 500] == PAGES[:3]
        server.break_off("/stream/?rows=2000")
        assert server.get("/facts/").status == 200
        totals = project.settled()
        assert totals["opened"] <= 2
        assert totals["reclaimed"] == 0
        project.check_no_place_is_lost(OF_RUNSERVER)


def test_a_connection_kept_alive_holds_nothing_between_its_requests(project):
    project.settings |= {"DBPOOL_MW_MAX_CONNS": 1, "DBPOOL_MW_TIMEOUT": 2}
    with project.gunicorn("--threads", "4") as server:
        kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        for _ in range(3):
            kept.request("GET", "/facts/")
            assert kept.getresponse().read()
            assert isinstance(kept.sock, socket.socket)
            assert server.get("/facts/").status == 200
        kept.close()
        assert project.settled()["opened"] == 1
