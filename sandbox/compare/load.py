"""Pages a second and their latency, with 8 and with 32 clients."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from sandbox.compare import idle
from sandbox.compare.report import Cell, Figure, Plot, Table
from sandbox.compare.run import Run, in_turn
from sandbox.compare.served import Served, serve
from sandbox.compare.subjects import Subject
from sandbox.server import ServerError
from sandbox.traffic import Page, Report, Traffic

CLIENTS = (8, 32)

PAGES = {
    "selects": ("Three selects", Page("/selects/", "}")),
    "plain": ("A page without a query", Page("/plain/", "nothing.\n")),
    "outside": (
        "A page that waits 20 ms for another service, between two selects",
        Page("/outside/", "products\n"),
    ),
}


def load(served: Served, page: str, clients: int, seconds: float) -> Report:
    """Ask a subject for one page from so many threads.

    Raises ServerError when a request fails.
    """
    gunicorn = served.gunicorn
    traffic = Traffic(gunicorn.host, gunicorn.port, (PAGES[page][1],), threads=clients)
    report = traffic.run(seconds)
    if report.failures or not report.answered:
        raise ServerError("\n".join([*report.lines(), gunicorn.last_words()]))
    return report


@dataclass
class _Measured:
    """One subject's page under one number of clients: a value for each round."""

    per_second: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)


def measure(run: Run) -> list[Table]:
    """Load every subject with every page, in turn, and see what stays open."""
    rounds = run.rounds or (1 if run.quick else 5)
    seconds = 0.3 if run.quick else 1.0
    tables: list[Table] = []
    started: dict[str, Served] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:

        def start(subject: Subject) -> Served:
            served = stack.enter_context(serve(subject, run.server, run.directory))
            for page in PAGES:
                load(served, page, max(CLIENTS), min(seconds, 0.5))
            return served

        for subject in run.subjects:
            served = run.attempt(subject, start)
            if isinstance(served, str):
                failed[subject.key] = served
            else:
                started[subject.key] = served
        for page in PAGES:
            tables.append(_page(run, page, started, failed, rounds, seconds))
        tables.append(idle.measure(run, started, failed))
    return tables


def _page(
    run: Run,
    page: str,
    started: Mapping[str, Served],
    failed: dict[str, str],
    rounds: int,
    seconds: float,
) -> Table:
    """Measure one page; note in ``failed`` whoever can't serve it any more."""
    title, _ = PAGES[page]
    table = Table(
        f"{title}: pages a second",
        "Client threads of one process on the same machine, a TCP connection for each "
        f"page, {seconds:g} s for each number of clients in each of {rounds} rounds. "
        "All servers run, and one at a time is asked. A figure is the median of the "
        "rounds, with the least and the most; a p99 is that of a round's requests.",
        [
            f"{what}, {number} clients"
            for number in CLIENTS
            for what in ("Pages/s", "p99")
        ],
        plot=Plot(
            f"comparison-{page}",
            title,
            "pages a second",
            [f"Pages/s, {number} clients" for number in CLIENTS],
        ),
    )
    measured = {(each.key, n): _Measured() for each in run.subjects for n in CLIENTS}
    wall, used = time.monotonic(), time.process_time()
    for clients in CLIENTS:
        run.tell(f"{page}, {clients} clients ...")

        def once(subject: Subject, clients: int = clients) -> None:
            report = load(started[subject.key], page, clients, seconds)
            measured[subject.key, clients].per_second.append(report.per_second)
            measured[subject.key, clients].p99.append(report.percentile(99) * 1000)

        for subject in in_turn(run.subjects, rounds):
            if subject.key not in failed:
                said = run.attempt(subject, once)
                if said is not None:
                    failed[subject.key] = said
    share = (time.process_time() - used) / (time.monotonic() - wall)
    for subject in run.subjects:
        row: list[Cell] = []
        for clients in CLIENTS:
            both = measured[subject.key, clients]
            row += [Figure(both.per_second), Figure(both.p99, "ms", 1)]
        table.add(subject, failed.get(subject.key) or row)
    table.notes.append(
        f"The client took {share:.0%} of one of {len(os.sched_getaffinity(0))} "
        "processors, which it shared with the servers."
    )
    return table
