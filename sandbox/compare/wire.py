"""Round trips on the wire for a page, in the steady state, and connects."""

from __future__ import annotations

from urllib.request import urlopen

from sandbox.compare.pages import PAGES, load
from sandbox.compare.proxy import CountingProxy
from sandbox.compare.report import Figure, Table
from sandbox.compare.run import Run
from sandbox.compare.served import connected, serve
from sandbox.compare.subjects import Subject
from sandbox.postgres import Server

ASKED = ("selects", "plain", "outside")

#: Requests that are counted, and seconds of a load until every thread and pool has all
#: of its connections: with a page that waits, all threads are busy at the same time.
COUNTED = 20
WARM_UP = 1.0


def measure(run: Run) -> list[Table]:
    """Count what each subject sends for a page, at its server or its PgBouncer."""
    table = Table(
        "Round trips for a page",
        "What a request waits for at the other end of its connection, which is "
        "PgBouncer where there is one: the mean number of answers, counted by a TCP "
        f"proxy over {COUNTED} requests, one after the other, after a load. A "
        "connect is part of it. The pages need 3, 0 and 2 for their own queries.",
        (
            "Three selects",
            "No query",
            "Waits outside",
            "Connects a page of selects",
        ),
    )
    for subject in run.subjects:
        counted = run.attempt(subject, lambda each: _count(run, each))
        if isinstance(counted, str):
            table.add(subject, counted)
            continue
        trips, connects = counted
        table.add(
            subject,
            [Figure([each], digits=2) for each in (*trips, connects[0])],
        )
        if subject.keeps and any(connects):
            table.notes.append(
                f"{subject.title} is meant to keep its connections, and opened "
                f"{max(connects):.2f} for a page."
            )
    return [table]


def _count(run: Run, subject: Subject) -> tuple[list[float], list[float]]:
    """Return the round trips for each page, and the connects for each page."""
    with connected(subject, run.server) as address:
        front = Server.from_dsn(address)
        with CountingProxy(front.host, front.port) as proxy:
            front.port = proxy.port
            with serve(
                subject, run.server, run.directory, front=front.dsn(subject.database)
            ) as served:
                load(served, "outside", 32, WARM_UP)
                trips: list[float] = []
                connects: list[float] = []
                for page in ASKED:
                    before = proxy.round_trips, proxy.connects
                    _ask(served.url + PAGES[page][1].path, COUNTED)
                    trips.append((proxy.round_trips - before[0]) / COUNTED)
                    connects.append((proxy.connects - before[1]) / COUNTED)
    return trips, connects


def _ask(url: str, times: int) -> None:
    for _ in range(times):
        with urlopen(url, timeout=15) as answer:
            answer.read()
