"""What connecting and closing costs a request in the worker: a cycle around a view."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import psycopg2

from sandbox.compare.report import Figure, Table
from sandbox.compare.run import Run, in_turn
from sandbox.compare.served import connected, environment_of, own_database
from sandbox.compare.subjects import Subject
from sandbox.server import ROOT, ServerError

#: What the others on the same library are compared with, where it is measured too.
REFERENCES = {"psycopg": "persistent", "psycopg2": "persistent-psycopg2"}


class Cycles:
    """A process of a subject's own that goes through requests' cycles when told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def time(self, number: int) -> float:
        """Return the microseconds of one of ``number`` cycles. Raises ServerError."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise ServerError(f"its process ended with code {process.wait()}")
        return float(line)


@contextmanager
def cycles(subject: Subject, run: Run) -> Iterator[Cycles]:
    """Run a subject's process for the block, on a new database of its own."""
    own_database(subject, run.server)
    with (
        connected(subject, run.server) as front,
        subprocess.Popen(
            [sys.executable, "-m", "sandbox.compare.cycle"],
            cwd=ROOT,
            env=environment_of(subject, front),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        # At the block's end Popen closes the pipes, which ends the process.
        yield Cycles(process)


def measure(run: Run) -> list[Table]:
    """Time the cycles of every subject, in turn."""
    rounds = run.rounds or (2 if run.quick else 10)
    number = 100 if run.quick else 500
    table = Table(
        "Cost of a cycle",
        "Microseconds of one thread, without a web server: the signal request_started, "
        "the middleware that the subject adds, a view that opens a cursor and asks "
        "nothing, both wrapped as Django wraps them, and the end of the "
        "response, which sends request_finished. A process for each "
        f"subject, {rounds} rounds of {number} cycles each, in turn, and of "
        f"{number // 10} for those that connect for each request. The ratio is that of "
        "each round to CONN_MAX_AGE = None on the same library.",
        ("A cycle", "Ratio"),
    )
    timed: dict[str, list[float]] = {each.key: [] for each in run.subjects}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        up: dict[str, Cycles] = {}

        def start(subject: Subject) -> None:
            up[subject.key] = stack.enter_context(cycles(subject, run))
            up[subject.key].time(20)

        def once(subject: Subject) -> None:
            many = number if subject.keeps else number // 10
            timed[subject.key].append(up[subject.key].time(many))

        for subject in run.subjects:
            said = run.attempt(subject, start)
            if said is not None:
                failed[subject.key] = said
        for subject in in_turn(run.subjects, rounds):
            if subject.key not in failed:
                said = run.attempt(subject, once)
                if said is not None:
                    failed[subject.key] = said
        if "django" in up and "django" not in failed:
            table.notes.append(_with_trust(run, up["django"], number // 10))
    for subject in run.subjects:
        if subject.key in failed:
            table.add(subject, failed[subject.key])
            continue
        over = timed[subject.key]
        ratio: Figure | str = ""
        reference = REFERENCES[subject.library]
        if (under := timed.get(reference)) and reference not in failed:
            ratios = [one / other for one, other in zip(over, under, strict=True)]
            ratio = Figure(ratios, digits=2)
        table.add(subject, [Figure(over, "us", 1), ratio])
    return [table]


def _with_trust(run: Run, django: Cycles, number: int) -> str:
    """Return what Django's default costs where the server asks for no password."""
    assert run.server.directory is not None
    rules = run.server.directory / "data" / "pg_hba.conf"
    before = rules.read_text()
    try:
        rules.write_text(before.replace("scram-sha-256", "trust"))
        _reload(run)
        cost = django.time(number)
    finally:
        rules.write_text(before)
        _reload(run)
    return (
        "Passwords are checked by scram-sha-256. With trust, which asks for none, a "
        f"cycle of Django's default takes {cost:.0f} us."
    )


def _reload(run: Run) -> None:
    """Have PostgreSQL read its rules again, and give it the time for it."""
    with closing(psycopg2.connect(run.server.dsn())) as connection:
        connection.cursor().execute("SELECT pg_reload_conf()")
    time.sleep(0.3)
