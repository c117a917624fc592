"""Requests that fail when connections, the server or a worker go away under load."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sandbox.compare.outside import Outside
from sandbox.compare.report import Cell, Figure, Plot, Table
from sandbox.compare.run import Run
from sandbox.compare.served import Served, serve
from sandbox.compare.subjects import Subject
from sandbox.traffic import ANSWER_TIMEOUT, Page, Traffic

CLIENTS = 8

#: Seconds between two requests of a client.
PAUSE = 0.02

#: Seconds after which a subject that still fails isn't waited for.
LONGEST = 20.0

Fault = Callable[[Run, Served], None]

#: The answer of each request: three selects.
PAGE = Page("/selects/", "}")

COLUMNS = tuple(
    f"{fault}: {column}" if column == "failed" else column
    for fault in ("Backends killed", "Server restarts", "Worker killed")
    for column in ("failed", "last after", "longest answer")
)


class Result(NamedTuple):
    """What a fault did: when after it requests failed, and the longest answer, in s.

    ``over`` is whether all clients were served again in LONGEST seconds.
    """

    failed: list[float]
    longest: float
    over: bool


def measure(run: Run) -> list[Table]:
    """Break each subject's connections, server and worker, and count failures."""
    rounds = run.rounds or 1
    seconds = 1.0 if run.quick else 2.0
    table = Table(
        "Failed requests",
        f"{CLIENTS} clients ask for the page of three selects, each "
        f"{PAUSE * 1000:.0f} ms after its last answer. Then pg_terminate_backend() "
        "ends all of the subject's sessions, or PostgreSQL restarts (a fast shutdown), "
        "or one of the two workers is killed by SIGKILL. A fault is over when no "
        f"request has failed for {seconds:g} s and every client has got an answer to "
        f"one that it sent in these {seconds:g} s; counted is what fails until then, "
        f"but not longer than {LONGEST:.0f} s. The longest answer, right or wrong, may "
        f"be one that hadn't come by then: a client waits {ANSWER_TIMEOUT:.0f} s for "
        "one. No client sends a request twice. A client waits 50 ms after a failure. "
        f"Rounds: {rounds}.",
        COLUMNS,
        plot=Plot(
            "comparison-failures",
            "Failed requests: all backends are killed, the server restarts",
            "requests",
            (COLUMNS[0], COLUMNS[3]),
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
    faults = (_kill_backends, _restart_server, _kill_worker)
    results: dict[Fault, list[Result]] = {fault: [] for fault in faults}
    left: list[Fault] = [*faults] * rounds
    while left:
        # One server serves them all, unless a fault isn't over in time.
        with serve(subject, run.server, run.directory) as served:
            got = _results(run, served, left, seconds)
        for fault, result in zip(left, got, strict=False):
            results[fault].append(result)
        del left[: len(got)]
    return [cell for fault in faults for cell in _cells(results[fault])]


def _results(
    run: Run, served: Served, faults: Sequence[Fault], seconds: float
) -> list[Result]:
    """Return what the faults did, in turn, up to the first that isn't over."""
    gunicorn = served.gunicorn
    traffic = Traffic(
        gunicorn.host, gunicorn.port, (PAGE,), threads=CLIENTS, pause=PAUSE
    )
    windows: list[tuple[float, float, bool]] = []
    traffic.start()
    try:
        if not wait_until_over(traffic, time.monotonic(), seconds):
            raise RuntimeError("requests fail or hang without a fault")
        for fault in faults:
            began = time.monotonic()
            fault(run, served)
            over = wait_until_over(traffic, began, seconds)
            windows.append((began, time.monotonic(), over))
            if not over:
                break
    finally:
        report = traffic.stop()
    return [
        Result(
            [at - began for at in report.failed_at if began <= at < ended],
            max(
                min(answered, ended) - asked
                for asked, answered in report.asked
                if asked < ended and answered >= began
            ),
            over,
        )
        for began, ended, over in windows
    ]


def _cells(results: Sequence[Result]) -> list[Cell]:
    lasts = [max(each.failed) for each in results if each.failed]
    last: Cell = Figure(lasts, "s", 2) if lasts else "none failed"
    if not all(each.over for each in results):
        last = f"not over after {LONGEST:.0f} s"
    return [
        Figure([len(each.failed) for each in results]),
        last,
        Figure([each.longest for each in results], "s", 2),
    ]


def wait_until_over(traffic: Traffic, began: float, seconds: float) -> bool:
    """Wait until a fault of the time ``began`` is over; False after LONGEST seconds.

    No request may have failed for so many seconds, and each client has to have got an
    answer to one that it sent in that time.
    """
    while (now := time.monotonic()) < began + LONGEST:
        quiet = now - seconds
        if max(began, traffic.last_failure) <= quiet <= traffic.answered_to:
            return True
        time.sleep(0.05)
    return False


def _kill_backends(run: Run, served: Served) -> None:
    with Outside(served.dsn) as outside:
        outside.terminate()


def _restart_server(run: Run, served: Served) -> None:
    run.server.restart()


def _kill_worker(run: Run, served: Served) -> None:
    # The pid of one that was killed before may be another process's by now.
    pid = next(pid for pid in served.pids if _parent(pid) == served.gunicorn.pid)
    os.kill(pid, signal.SIGKILL)


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None
    # The name, in brackets, may have spaces: the state follows, and the parent.
    return int(stat.rpartition(")")[2].split()[1])
