"""The servers of docs/servers.rst that no other file runs, each on the same traffic.

gunicorn's other workers, uvicorn and runserver are in ``test_requests*``, ``test_fork``
and ``test_gevent``, uWSGI's ways to fork in ``test_uwsgi``.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from importlib.util import find_spec
from typing import NamedTuple
from urllib.parse import quote

import pytest

from tests.process.projects import APPLICATION, GUNICORN, UWSGI, Project
from tests.process.servers import Server, wait_until

pytestmark = pytest.mark.skipif(
    find_spec("hypercorn") is None, reason="no hypercorn: pip install --group test"
)

MAX_CONNS = 3

ASGI = "tests.process.project.asgi:application"
CHANNELS = "tests.process.project.channels_asgi:application"
AT = "127.0.0.1:{port}"
HOST_AND_PORT = "--host 127.0.0.1 --port {port}"


class Kind(NamedTuple):
    """How to run a server, how many of its processes serve, and how it ends."""

    command: list[str]
    workers: int
    binds_itself: bool = True
    code: int = 0


def module(command: str, workers: int, code: int = 0) -> Kind:
    """Return a server that is run by ``python -m`` and opens its own socket."""
    return Kind([sys.executable, "-m", *command.split()], workers, code=code)


def inheriting(server: list[str], options: str) -> Kind:
    """Return a server with two workers that is given its socket."""
    return Kind([*server, *options.split()], 2, binds_itself=False)


KINDS = {
    "gunicorn asgi": inheriting(
        GUNICORN,
        f"-k asgi --workers 2 --bind fd://{{fd}} --no-control-socket {ASGI}",
    ),
    "uvicorn": module(f"uvicorn {HOST_AND_PORT} --workers 2 {ASGI}", 2),
    "hypercorn": module(f"hypercorn --bind {AT} --workers 2 {ASGI}", 2),
    "daphne": module(f"daphne --bind 127.0.0.1 --port {{port}} {CHANNELS}", 1),
    "granian asgi": module(
        f"granian {HOST_AND_PORT} --workers 2 --interface asgi {ASGI}", 2
    ),
    "granian wsgi": module(
        f"granian {HOST_AND_PORT} --workers 2 --interface wsgi --blocking-threads 4 "
        f"{APPLICATION}",
        2,
    ),
    # It has no handler for the signal.
    "waitress": module(f"waitress --listen={AT} {APPLICATION}", 1, -signal.SIGTERM),
    "uwsgi": inheriting(
        UWSGI,
        "--http-socket fd://{fd} --master --processes 2 --threads 4 "
        f"--module {APPLICATION}",
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Give each kind of server."""
    name: str = request.param
    return name


@pytest.fixture
def server(kind: str, project: Project) -> Iterator[Server]:
    """Run the project on one kind of server, with small pools."""
    project.settings |= {
        "DBPOOL_MW_MAX_CONNS": MAX_CONNS,
        "DBPOOL_MW_TIMEOUT": 20,
        "DBPOOL_MW_POOLS": {"replica": None},
    }
    command, _, binds_itself, _ = KINDS[kind]
    with project.serve(command, binds_itself) as server:
        yield server


def visit(server: Server, number: int) -> tuple[int, int] | None:
    """Send one request of a mixture, look at its answer; return process and backend."""
    if number % 6 == 0:
        answer = server.get("/stream/?rows=5")
        lines = answer.body.splitlines()
        assert [line.split()[0] for line in lines] == [b"0", b"1", b"2", b"3", b"4"]
        return None
    if number % 6 == 1:
        answer = server.get(("/fails/", "/fails_async/")[number % 4 // 2])
        assert (answer.status, answer["page"]) == (500, 500)
        return None
    if number % 6 == 2:
        server.break_off("/stream/?rows=300")
        return None
    sql = f"SELECT '{number}' FROM pg_sleep(0.01)"
    answer = server.get(f"/run/?sql={quote(sql)}")
    assert (answer.status, answer["rows"]) == (200, [[str(number)]])
    return answer["pid"], answer["backend"]


def test_each_request_is_answered_right_within_max_conns(kind, server, project):
    workers = KINDS[kind].workers
    most = 0
    with ThreadPoolExecutor(12) as clients:
        visits = [clients.submit(visit, server, number) for number in range(48)]
        while not all(visited.done() for visited in visits):
            most = max(most, len(project.backends()))
        served = {found for visited in visits if (found := visited.result())}
    assert 1 < most <= MAX_CONNS * workers
    # Each connection was used by one process.
    assert len({backend for _, backend in served}) == len(served)
    # The commands see every process that may serve.
    wait_until(lambda: len(project.pids()) == workers, "every worker is seen")
    assert {pid for pid, _ in served} <= set(project.pids())
    project.check_no_place_is_lost()
    assert project.totals()["reclaimed"] == 0
    check_streams_that_raise(kind, server, project)
    if kind == "daphne":
        check_consumers(server, project)
    assert server.stop() == KINDS[kind].code
    wait_until(lambda: project.backends() == [], "no connection is left")


def check_streams_that_raise(kind: str, server: Server, project: Project) -> None:
    """Have streams raise: their connections come back without another request."""
    for path in ("/raises_in_stream/", "/raises_in_async_stream/"):
        # Servers differ in whether they cut the answer off or end it early.
        with suppress(HTTPException, OSError):
            server.get(path)
        if (kind, path) == ("granian wsgi", "/raises_in_async_stream/"):
            # It doesn't close this response: the thread's next request does.
            wait_until(
                lambda: server.get("/facts/").status == 200 and not project.in_use(),
                "the connection came back",
            )
        project.check_no_place_is_lost()


def check_consumers(server: Server, project: Project) -> None:
    """Have consumers of Channels query in blocks of pooled()."""
    paths = [f"/consumer/?{number}" for number in range(30)]
    with ThreadPoolExecutor(12) as clients:
        answers = [json.loads(a.body) for a in clients.map(server.get, paths)]
    assert [value for value, _ in answers] == list(range(30))
    assert {backend for _, backend in answers} <= set(project.backends())
    project.check_no_place_is_lost()
