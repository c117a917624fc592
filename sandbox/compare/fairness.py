"""Many threads, few connections: who waits, for how long, and what gets done."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

from sandbox.compare.apart import call
from sandbox.compare.outside import Busiest
from sandbox.compare.report import Cell, Figure, Plot, Table
from sandbox.compare.run import Run, in_turn
from sandbox.compare.served import connected, own_database
from sandbox.compare.subjects import Subject

CONNECTIONS = 10
THREADS = (50, 200)

#: Seconds for which a request holds its connection: those of its query.
HOLD = 0.005

#: Seconds after which the measurement begins, also if threads are still waiting.
BEFORE = 10.0


def measure(run: Run) -> list[Table]:
    """Measure each subject with 50 threads, and with 200."""
    return [_measure(run, threads) for threads in THREADS]


def _measure(run: Run, threads: int) -> Table:
    seconds = 1.0 if run.quick else 2.0
    rounds = run.rounds or 1
    table = Table(
        f"{threads} threads, pools of {CONNECTIONS}",
        f"One process of {threads} threads, or greenlets, each of which has Django "
        "serve one request after the other, without a web server, for "
        f"{seconds:.0f} s. A request's only query is a pg_sleep of {HOLD * 1000:.0f} "
        f"ms, so that {CONNECTIONS} connections could serve "
        f"{CONNECTIONS / HOLD:.0f} requests a second: the ideal. The wait is all of a "
        "request's time but its query's, also if the request then fails; one that is "
        "still waiting at the end counts in the longest only. Jain's index of the "
        "requests of each thread is 1 if all threads had as many. "
        f"Rounds: {rounds}.",
        (
            "Share of the ideal",
            "Wait p50",
            "Wait p99",
            "Longest wait",
            "Jain's index",
            "Threads never served",
            "Failed",
            "Connections",
        ),
        plot=Plot(
            f"comparison-fairness-{threads}",
            f"Longest wait of {threads} threads, pools of {CONNECTIONS}",
            "ms",
            ("Longest wait",),
        ),
        notes=[
            "Django's own connections have no limit but the server's. In session mode "
            "a client that stays keeps its connection, so that with CONN_MAX_AGE = "
            f"None PgBouncer may open one for each thread, {threads}. The last column "
            "says how many they were. django-db-geventpool 4.0.8 counts a connection "
            "when it is open, and opens more than MAX_CONNS where many ask at the same "
            "time."
        ],
    )
    measured: dict[Subject, list[Sequence[float]]] = {}
    failed: dict[Subject, str] = {}
    for subject in in_turn(run.subjects, rounds):
        figures = run.attempt(subject, lambda each: _load(run, each, threads, seconds))
        if isinstance(figures, str):
            failed[subject] = figures
        else:
            measured.setdefault(subject, []).append(figures)
    for subject in run.subjects:
        if subject in failed:
            table.add(subject, failed[subject])
        else:
            columns = zip(*measured[subject], strict=True)
            table.add(
                subject, [_figure(*each) for each in zip(columns, FORMS, strict=True)]
            )
    return table


#: The unit and the digits of each column.
FORMS = (
    ("%", 0),
    ("ms", 1),
    ("ms", 1),
    ("ms", 0),
    ("", 3),
    ("", 0),
    ("", 0),
    ("", 0),
)


def _figure(rounds: Sequence[float], form: tuple[str, int]) -> Cell:
    # Without an answer there is no wait to tell of.
    return "none" if any(map(math.isnan, rounds)) else Figure(rounds, *form)


def _load(
    run: Run, subject: Subject, threads: int, seconds: float
) -> tuple[float, ...]:
    dsn = own_database(subject, run.server)
    # Threads that keep theirs would leave nothing to the others.
    stay = subject.via == "session" and subject.keeps
    places = threads if stay else CONNECTIONS
    with (
        connected(subject, run.server, connections=places) as front,
        Busiest(dsn) as busiest,
    ):
        figures: dict[str, float] = call(
            subject,
            front,
            f"{__name__}.serve",
            threads,
            seconds,
            connections=CONNECTIONS,
            timeout=BEFORE + seconds + 30,
        )
    return (*figures.values(), busiest.connections)


def serve(threads: int, seconds: float) -> dict[str, float]:
    """Load this process by as many threads for so many seconds; return the figures.

    The seconds begin when every thread has been served once, at the latest BEFORE
    seconds after the start.
    """
    from django.db import connection
    from django.http import HttpRequest, HttpResponse

    from sandbox.compare.requests import Requests

    requests = Requests()
    ended: list[list[tuple[float, float]]] = [[] for _ in range(threads)]
    failed: list[list[tuple[float, float]]] = [[] for _ in range(threads)]
    pending = [0.0] * threads
    stopped = threading.Event()

    def hold(request: HttpRequest) -> HttpResponse:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(%s)", [HOLD])
        return HttpResponse()

    def work(number: int) -> None:
        while not stopped.is_set():
            began = pending[number] = time.monotonic()
            status = requests(hold)
            now, pending[number] = time.monotonic(), 0.0
            if status == 200:
                ended[number].append((now, now - began - HOLD))
            else:
                failed[number].append((now, now - began))
                # Don't spin where a connection is refused.
                time.sleep(HOLD)

    for number in range(threads):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    latest = time.monotonic() + BEFORE
    while (
        not all(map(any, zip(ended, failed, strict=True))) and time.monotonic() < latest
    ):
        time.sleep(0.01)
    begins = time.monotonic()
    time.sleep(seconds)
    ends = time.monotonic()
    stopped.set()
    waits = sorted(
        wait for each in ended + failed for at, wait in each if begins <= at < ends
    )
    # Of what a request has taken, its query may be HOLD; the rest at least is a wait.
    waiting = [ends - began - HOLD for began in pending if began]
    counts = [sum(begins <= at < ends for at, _ in each) for each in ended]
    return {
        "share": 100 * sum(counts) / (ends - begins) / (CONNECTIONS / HOLD),
        "p50": _percentile(waits, 50),
        "p99": _percentile(waits, 99),
        "longest": _percentile(sorted([*waits, *waiting]), 100),
        "jain": jain(counts),
        "starved": counts.count(0),
        "failed": sum(begins <= at < ends for each in failed for at, _ in each),
    }


def _percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the wait in ms that ``percent`` % of the requests kept to."""
    if not ordered:
        return math.nan
    return 1000 * ordered[math.ceil(len(ordered) * percent / 100) - 1]


def jain(counts: Sequence[float]) -> float:
    """Return Jain's index of fairness: 1 if all are equal, 1/n if one has all."""
    squares = sum(each * each for each in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else math.nan
