"""Requests end in every way: clients go away, exceptions of every kind, forks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException

import pytest

from tests.faults.test_workers import RESET
from tests.faults.under import MAX_CONNS

#: What may end a request or a thread, besides an Exception.
KINDS = [
    *("builtins.BaseException", "builtins.SystemExit", "builtins.KeyboardInterrupt"),
    *("builtins.GeneratorExit", "builtins.MemoryError", "builtins.RecursionError"),
    *("builtins.StopIteration", "builtins.ValueError", "asyncio.CancelledError"),
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
def test_hundreds_of_clients_go_away_together(under, project, figures, path):
    project.settings["DBPOOL_MW_TIMEOUT"] = 30
    with under.traffic(clients=4) as (server, met):
        for _ in range(2):
            # All that can be served are in mid-stream then, and the others wait.
            server.break_off_together([f"{path}?rows=500"] * 300, under.limit)
            met.good()
    assert set(met.counts) == {200}
    figures.add(f"300 clients of {path} gone, twice", under, met)


@pytest.mark.parametrize("where", ["view", "thread"])
def test_requests_and_threads_end_by_exceptions(under, project, figures, where):
    # gunicorn's threaded worker is ended by some.
    under.watch.only_connected = under.name == "gthread"
    kinds = [*KINDS, "gevent.GreenletExit"] if under.name == "gevent" else KINDS
    if under.name == "uvicorn" and where == "view":
        # With two of them asyncio ends the event loop, and uvicorn with it; a coroutine
        # that raises the third is never done.
        kinds = [
            kind
            for kind in kinds
            if not kind.endswith(("SystemExit", "KeyboardInterrupt", "StopIteration"))
        ]
    with under.traffic(clients=4) as (server, met):
        for kind in kinds:
            with suppress(OSError, HTTPException):
                server.get(f"/raises/?kind={kind}&where={where}")
        met.good()
    assert set(met.counts) <= {200, *RESET}
    figures.add(f"{where}s end by {len(kinds)} kinds of exceptions", under, met)


# Under gevent a child has copies of all greenlets, which would serve its parent's
# requests there: it isn't for children that ask the database.
@pytest.mark.parametrize("under", ["gthread", "uvicorn"], indirect=True)
def test_children_are_forked_at_any_moment(under, project, figures):
    # Each request with a child holds a connection, and so does its child.
    under.allowed = 2 * MAX_CONNS
    under.watch.only_connected = True
    with under.traffic() as (server, met), ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(server.get, ["/forks/"] * 60))
        met.good()
    assert {answer.status for answer in answers} == {200}
    assert all(answer["backend"] != answer["childs"] for answer in answers)
    assert set(met.counts) == {200}
    figures.add("60 children forked by views", under, met)
