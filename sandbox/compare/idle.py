"""Connections that are open under the load of 32 clients, and 15 seconds after it."""

from __future__ import annotations

import time

from sandbox.compare.outside import Outside
from sandbox.compare.pages import CLIENTS, Started, load
from sandbox.compare.report import Figure, Table
from sandbox.compare.run import Run


def measure(run: Run, started: Started) -> Table:
    """Load each subject that serves pages, and count its connections later."""
    seconds = 3 if run.quick else 15
    table = Table(
        "Connections after a load",
        f"Connections to PostgreSQL while {max(CLIENTS)} clients ask for three "
        f"selects, and {seconds} s later.",
        ("Under load", f"{seconds} s later"),
    )
    run.tell("idle ...")
    under: dict[str, tuple[int, float]] = {}
    for key, served in started.served.items():
        if key not in started.failed:
            loaded = load(served, "selects", max(CLIENTS), 0.5)
            under[key] = loaded.connections, time.monotonic()
    for subject in run.subjects:
        if subject.key in started.failed:
            table.add(subject, started.failed[subject.key])
            continue
        number, ended = under[subject.key]
        time.sleep(max(0, ended + seconds - time.monotonic()))
        with Outside(started.served[subject.key].dsn) as outside:
            table.add(subject, [Figure([number]), Figure([outside.count()])])
    return table
