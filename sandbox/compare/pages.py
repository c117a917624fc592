"""Ask all subjects for a page, in turn, and count the pages a second."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from sandbox.compare.outside import Outside
from sandbox.compare.report import Cell, Figure, Plot, Table
from sandbox.compare.run import Run, in_turn
from sandbox.compare.served import Served, serve
from sandbox.compare.subjects import WORKERS, Subject
from sandbox.server import ServerError
from sandbox.traffic import Page, Report, Traffic

CLIENTS = (8, 32)

#: Seconds that the other service takes to answer.
OUTSIDE = 0.02

PAGES = {
    "selects": ("Three selects", Page("/selects/", "}")),
    "plain": ("A page without a query", Page("/plain/", "nothing.\n")),
    "outside": (
        "A page that waits for another service",
        Page(f"/outside/?seconds={OUTSIDE}", "products\n"),
    ),
}


class Loaded(NamedTuple):
    """The answers, and the connections to PostgreSQL at the end of the load."""

    report: Report
    connections: int


def load(served: Served, page: str, clients: int, seconds: float) -> Loaded:
    """Ask a subject for one page from so many threads.

    Raises ServerError when a request fails.
    """
    gunicorn = served.gunicorn
    traffic = Traffic(gunicorn.host, gunicorn.port, (PAGES[page][1],), threads=clients)
    with Outside(served.dsn) as outside:
        traffic.start()
        time.sleep(seconds)
        number = outside.count()
        report = traffic.stop()
    if report.failures or not report.answered:
        why = report.failures[0] if report.failures else "no answer"
        raise ServerError(f"{gunicorn.last_words()}\n{why}")
    return Loaded(report, number)


@dataclass
class Started:
    """The subjects that serve pages, and why others don't, by their keys."""

    served: dict[str, Served] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@contextmanager
def all_served(run: Run, pages: tuple[str, ...], threads: int) -> Iterator[Started]:
    """Serve every subject for the block; all have answered the pages before it begins.

    ``threads`` are those of each gthread worker.
    """
    started = Started()
    with ExitStack() as stack:

        def start(subject: Subject) -> Served:
            served = stack.enter_context(
                serve(subject, run.server, run.directory, threads=threads)
            )
            for page in pages:
                load(served, page, max(CLIENTS), 0.3)
            return served

        for subject in run.subjects:
            served = run.attempt(subject, start)
            if isinstance(served, str):
                started.failed[subject.key] = served
            else:
                started.served[subject.key] = served
        yield started
        # They end at the same time; the stack only waits for each.
        for served in started.served.values():
            os.kill(served.gunicorn.pid, signal.SIGTERM)


def measure_page(run: Run, page: str, started: Started, threads: int) -> Table:
    """Measure one page; whoever can't serve it is added to those that failed."""
    rounds = run.rounds or (1 if run.quick else 5)
    seconds = 0.3 if run.quick else 1.0
    title, _ = PAGES[page]
    table = Table(
        f"{title}: pages a second",
        f"{WORKERS} workers with {threads} threads each, or on gevent. The clients are "
        "threads of one process on the same machine that open a TCP connection for "
        f"each page, for {seconds:g} s in each of {rounds} rounds. All servers run, "
        "and one at a time is asked. A figure is the median of the rounds, with the "
        "least and the most; a p99 is that of all rounds' requests together. "
        f"Connections are those to PostgreSQL, with {max(CLIENTS)} clients.",
        [
            *(f"{what}, {n} clients" for n in CLIENTS for what in ("Pages/s", "p99")),
            "Connections",
        ],
        plot=Plot(
            f"comparison-{page}",
            title,
            "pages a second",
            [f"Pages/s, {number} clients" for number in CLIENTS],
        ),
    )
    measured: dict[tuple[str, int], list[Loaded]] = {}
    wall, used = time.monotonic(), time.process_time()
    for clients in CLIENTS:
        run.tell(f"{page}, {clients} clients ...")

        def once(subject: Subject, clients: int = clients) -> None:
            loaded = load(started.served[subject.key], page, clients, seconds)
            measured.setdefault((subject.key, clients), []).append(loaded)

        for subject in in_turn(run.subjects, rounds):
            if subject.key not in started.failed:
                said = run.attempt(subject, once)
                if said is not None:
                    started.failed[subject.key] = said
    share = (time.process_time() - used) / (time.monotonic() - wall)
    for subject in run.subjects:
        table.add(subject, started.failed.get(subject.key) or _row(measured, subject))
    table.notes.append(
        f"The clients took {share:.0%} of one of {len(os.sched_getaffinity(0))} "
        "processors, which they shared with the servers."
    )
    return table


def _row(
    measured: Mapping[tuple[str, int], list[Loaded]], subject: Subject
) -> list[Cell]:
    cells: list[Cell] = []
    for clients in CLIENTS:
        reports = [each.report for each in measured[subject.key, clients]]
        cells += [
            Figure([each.per_second for each in reports]),
            Figure([_pooled(reports).percentile(99) * 1000], "ms", 1),
        ]
    most = [each.connections for each in measured[subject.key, max(CLIENTS)]]
    return [*cells, Figure(most)]


def _pooled(reports: Sequence[Report]) -> Report:
    """Return the latencies of all reports as one."""
    return Report(
        sum(each.seconds for each in reports),
        latencies=[latency for each in reports for latency in each.latencies],
    )
