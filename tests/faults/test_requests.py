"""Clients that disconnect, exceptions of every kind and forks lose no place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException

import pytest

from tests.faults.test_workers import RESET
from tests.faults.under import MAX_CONNS

#: The exceptions that end a request or a thread.
KINDS = [
    "builtins.BaseException",
    "builtins.SystemExit",
    "builtins.KeyboardInterrupt",
    "builtins.GeneratorExit",
    "builtins.MemoryError",
    "builtins.RecursionError",
    "builtins.StopIteration",
    "builtins.ValueError",
    "asyncio.CancelledError",
]


# Under WSGI Django reads an asynchronous stream to its end before it sends any of it.
@pytest.mark.parametrize(
    ("under", "path"),
    [
        ("gthread", "/stream/"),
        ("gevent", "/stream/"),
        ("uvicorn", "/stream/"),
        ("uvicorn", "/async_stream/"),
    ],
    indirect=["under"],
)
def test_hundreds_of_clients_that_disconnect_together_lose_no_place(
    under, project, figures, path
):
    project.settings["DBPOOL_MW_TIMEOUT"] = 30
    with under.traffic(clients=4) as (server, traffic):
        for _ in range(2):
            # As many as there are connections are in mid-stream, and the others wait.
            server.break_off_together([f"{path}?rows=500"] * 300, under.limit)
            traffic.wait_for_200()
    assert set(traffic.counts) == {200}
    figures.add(f"300 clients of {path} gone, twice", under, traffic)


@pytest.mark.parametrize("where", ["view", "thread"])
def test_requests_and_threads_that_end_by_exceptions_lose_no_place(
    under, project, figures, where
):
    # Some of the exceptions end gunicorn's threaded worker.
    under.watch.only_connected = under.name == "gthread"
    kinds = [*KINDS, "gevent.GreenletExit"] if under.name == "gevent" else KINDS
    if under.name == "uvicorn" and where == "view":
        # SystemExit and KeyboardInterrupt end asyncio's event loop, and uvicorn with
        # it; a coroutine that raises StopIteration is never done.
        kinds = [
            kind
            for kind in kinds
            if not kind.endswith(("SystemExit", "KeyboardInterrupt", "StopIteration"))
        ]
    with under.traffic(clients=4) as (server, traffic):
        for kind in kinds:
            with suppress(OSError, HTTPException):
                server.get(f"/raises/?kind={kind}&where={where}")
        traffic.wait_for_200()
    assert set(traffic.counts) <= {200, *RESET}
    figures.add(f"{where}s end by {len(kinds)} kinds of exceptions", under, traffic)


# Not under gevent: a child has copies of all greenlets there, which would serve its
# parent's requests.
@pytest.mark.parametrize("under", ["gthread", "uvicorn"], indirect=True)
def test_children_forked_at_any_moment_use_their_own_connections(
    under, project, figures
):
    # Each request with a child holds a connection, and so does its child.
    under.allowed = 2 * MAX_CONNS
    under.watch.only_connected = True
    with under.traffic() as (server, traffic), ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(server.get, ["/forks/"] * 60))
        traffic.wait_for_200()
    assert {answer.status for answer in answers} == {200}
    assert all(answer["backend"] != answer["child"] for answer in answers)
    assert set(traffic.counts) == {200}
    figures.add("60 children forked by views", under, traffic)
