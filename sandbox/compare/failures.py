"""Requests that fail when connections, the server or a worker go away under load."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Sequence

from sandbox.compare.outside import Outside
from sandbox.compare.report import Cell, Figure, Plot, Table
from sandbox.compare.run import Run
from sandbox.compare.served import Served, serve
from sandbox.compare.subjects import Subject
from sandbox.traffic import Page, Traffic

CLIENTS = 8

#: Seconds between two requests of a client.
PAUSE = 0.02

#: Seconds after which a subject that still fails isn't waited for.
LONGEST = 20.0

#: The answer of each request: three selects.
PAGE = Page("/selects/", "}")

COLUMNS = (
    "Backends killed: failed",
    "last after",
    "Server restarts: failed",
    "last after",
    "Worker killed: failed",
    "last after",
)


def measure(run: Run) -> list[Table]:
    """Break each subject's connections, server and worker, and count failures."""
    rounds = run.rounds or 1
    seconds = 1.0 if run.quick else 2.0
    table = Table(
        "Failed requests",
        f"{CLIENTS} clients ask for the page of three selects, each "
        f"{PAUSE * 1000:.0f} ms after its last answer. Then pg_terminate_backend() "
        "ends all of the subject's sessions, or PostgreSQL restarts (a fast shutdown), "
        "or one of the two workers is killed by SIGKILL. Counted is what fails until "
        f"no request has failed for {seconds:g} s, but not longer than {LONGEST:.0f} "
        "s. No client sends a request twice. A client waits 50 ms after a failure.",
        COLUMNS,
        plot=Plot(
            "comparison-failures",
            "Failed requests: all backends are killed, the server restarts",
            "requests",
            (COLUMNS[0], COLUMNS[2]),
        ),
        notes=[
            "A killed worker takes down the requests that it was serving, whatever it "
            "connects with. PgBouncer waits for server_login_retry, 15 s by default, "
            "after a login that failed."
        ],
    )
    for subject in run.subjects:
        cells = run.attempt(subject, lambda each: _break(run, each, rounds, seconds))
        table.add(subject, cells)
    return [table]


def _break(run: Run, subject: Subject, rounds: int, seconds: float) -> list[Cell]:
    faults: Sequence[Callable[[Run, Served], None]] = (
        _kill_backends,
        _restart_server,
        _kill_worker,
    )
    windows: list[list[float]] = [[] for _ in faults]
    with serve(subject, run.server, run.directory) as served:
        gunicorn = served.gunicorn
        traffic = Traffic(
            gunicorn.host, gunicorn.port, (PAGE,), threads=CLIENTS, pause=PAUSE
        )
        traffic.start()
        try:
            for _ in range(rounds):
                for fault, begun in zip(faults, windows, strict=True):
                    if not traffic.wait_for_more(CLIENTS * 10, timeout=30):
                        raise RuntimeError("no more answers")
                    begun.append(time.monotonic())
                    fault(run, served)
                    _wait_until_none_fails(traffic, seconds)
        finally:
            report = traffic.stop()
    times = sorted(began for begun in windows for began in begun)
    until = dict(zip(times, [*times[1:], math.inf], strict=True))
    cells: list[Cell] = []
    for begun in windows:
        failed = [
            [at - began for at in report.failed_at if began <= at < until[began]]
            for began in begun
        ]
        cells.append(Figure([len(each) for each in failed]))
        lasts = [max(each) for each in failed if each]
        cells.append(Figure(lasts, "s", 2) if lasts else "none failed")
    return cells


def _wait_until_none_fails(traffic: Traffic, seconds: float) -> None:
    """Return when no request has failed for so many seconds, or after LONGEST."""
    began = time.monotonic()
    while (now := time.monotonic()) < began + LONGEST:
        if now - max(began, traffic.last_failure) >= seconds:
            return
        time.sleep(0.05)


def _kill_backends(run: Run, served: Served) -> None:
    with Outside(served.dsn) as outside:
        outside.terminate()


def _restart_server(run: Run, served: Served) -> None:
    run.server.restart()


def _kill_worker(run: Run, served: Served) -> None:
    for pid in served.pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # killed in a round before
        return
