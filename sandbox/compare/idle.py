"""Connections that are open under the load of 32 clients, and 15 seconds after it."""

from __future__ import annotations

import time
from collections.abc import Mapping

import psycopg2

from sandbox.compare.report import Figure, Table
from sandbox.compare.run import Run
from sandbox.compare.served import Served
from sandbox.traffic import Page, Traffic

CLIENTS = 32
PAGE = Page("/selects/", "}")
SECONDS = 15.0


def measure(
    run: Run, started: Mapping[str, Served], failed: Mapping[str, str]
) -> Table:
    """Load each server that has started, count its connections, and count them again.

    ``started`` and ``failed`` are by the subjects' keys.
    """
    table = Table(
        "Connections to PostgreSQL",
        f"Rows of pg_stat_activity at the end of a load of {CLIENTS} clients that ask "
        f"for three selects, and {SECONDS:g} s later. PgBouncer's connections are "
        "counted, not those of its clients.",
        ("Under load", "15 s later"),
    )
    run.tell("idle ...")
    under: dict[str, tuple[int, float]] = {}
    connection = psycopg2.connect(run.server.dsn())
    connection.autocommit = True

    def count(served: Served) -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = %s",
                [served.subject.database],
            )
            ((number,),) = cursor.fetchall()
        return int(number)

    try:
        for key, served in started.items():
            if key in failed:
                continue
            gunicorn = served.gunicorn
            traffic = Traffic(gunicorn.host, gunicorn.port, (PAGE,), threads=CLIENTS)
            traffic.start()
            time.sleep(0.3 if run.quick else 1.0)
            number = count(served)
            traffic.stop()
            under[key] = number, time.monotonic()
        for subject in run.subjects:
            if subject.key in failed:
                table.add(subject, failed[subject.key])
                continue
            number, ended = under[subject.key]
            time.sleep(max(0, ended + SECONDS - time.monotonic()))
            later = count(started[subject.key])
            table.add(subject, [Figure([number]), Figure([later])])
    finally:
        connection.close()
    return table
