"""Slow streams and slow calls hold no connection."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection

import pytest

from tests.process.servers import wait_until

SERVERS = {
    ("gthread", "/slow_stream/"): 60,
    ("gthread", "/slow_file/"): 60,
    ("uvicorn", "/async_slow_stream/"): 100,
}


def begin(server, path):
    """Send a request and read the first bytes of the answer's body."""
    client = HTTPConnection("127.0.0.1", server.port, timeout=60)
    client.request("GET", path)
    response = client.getresponse()
    return client, response, response.read(2)


@pytest.mark.parametrize(("kind", "path"), SERVERS)
def test_slow_streams_on_few_connections_leave_other_pages_alone(
    project, tmp_path, kind, path
):
    number = SERVERS[kind, path]
    project.settings |= {"DBPOOL_MW_MAX_CONNS": 4, "DBPOOL_MW_TIMEOUT": 30}
    context = (
        project.uvicorn()
        if kind == "uvicorn"
        else project.gunicorn("--threads", str(number + 4))
    )
    until = tmp_path / "until"
    url = f"{path}?until={until}"
    with context as server, ThreadPoolExecutor(number) as clients, ExitStack() as stack:
        begun = list(clients.map(lambda _: begin(server, url), range(number)))
        for client, *_ in begun:
            stack.callback(client.close)
        wait_until(lambda: not project.in_use(), "the streams hold nothing")
        for _ in range(10):
            assert server.get("/facts/").status == 200
        assert project.settled()["timeouts"] == 0
        until.touch()
        rests = list(clients.map(lambda one: one[1].read(), begun))
        for (_, response, first), rest in zip(begun, rests, strict=True):
            assert response.status == 200
            assert (first + rest).count(b"\n") == 2
        totals = project.settled()
        assert totals["timeouts"] == totals["reclaimed"] == 0
        assert len(project.backends()) <= 4
        project.check_no_place_is_lost()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_slow_calls_on_one_connection_leave_other_pages_alone(
    project, tmp_path, asynchronous
):
    project.settings |= {"DBPOOL_MW_MAX_CONNS": 1, "DBPOOL_MW_TIMEOUT": 30}
    until = tmp_path / "until"
    url = f"/slow_call/?until={until}"
    context = project.uvicorn() if asynchronous else project.gunicorn("--threads", "9")
    with context as server, ThreadPoolExecutor(8) as clients:
        calls = [clients.submit(server.get, url) for _ in range(8)]
        wait_until(
            lambda: project.totals()["checkouts"] == 8 and not project.in_use(),
            "eight calls hold nothing",
        )
        assert server.get("/facts/").status == 200
        until.touch()
        assert {call.result(60).status for call in calls} == {200}
        assert project.settled()["opened"] == 1
