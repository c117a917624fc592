"""Requests that fail when connections, the server or a worker go away under load."""

from __future__ import annotations

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
    rounds = run.rounds or (1 if run.quick else 2)
    seconds = 1.0 if run.quick else 2.0
    table = Table(
        "Failed requests",
        f"{CLIENTS} clients ask for the page of three selects, each "
        f"{PAUSE * 1000:.0f} ms after its last answer. Then pg_terminate_backend() "
        "ends all of the subject's sessions, or PostgreSQL restarts (a fast shutdown), "
        "or one of the two workers is killed by SIGKILL. What fails in the "
        f"{seconds:g} s after it is counted, and when the last of it failed. No client "
        "sends a request twice. A client waits 50 ms after a failure.",
        COLUMNS,
        plot=Plot(
            "comparison-failures",
            "Failed requests: all backends are killed, the server restarts",
            "requests",
            (COLUMNS[0], COLUMNS[2]),
        ),
        notes=[
            "A killed worker takes down the requests that it was serving, whatever it "
            "connects with."
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
                    time.sleep(seconds)
        finally:
            report = traffic.stop()
    cells: list[Cell] = []
    for begun in windows:
        failed = [
            [at - began for at in report.failed_at if 0 <= at - began < seconds]
            for began in begun
        ]
        cells.append(Figure([len(each) for each in failed]))
        lasts = [max(each) for each in failed if each]
        cells.append(Figure(lasts, "s", 2) if lasts else "none failed")
    return cells


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
