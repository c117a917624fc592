"""A worker with full histories: ``python -m sandbox.benchmarks.poll_worker DIR POOLS``.

Its control socket is in DIR. Its pools connect to nothing: a clock of their own has run
a quarter of an hour in no time, a sample a second, and stands still since then. It
prints a line when it can be asked, and ends with its standard input.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

from dbpool_mw import drivers
from dbpool_mw.control.server import ControlServer
from dbpool_mw.control.worker import Worker
from dbpool_mw.core.config import PoolConfig
from dbpool_mw.core.history import MOST
from dbpool_mw.core.pool import ConnectionPool


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _nothing(*_: Any) -> None:
    """Connect to nothing, and reset nothing."""


def _full(alias: str) -> ConnectionPool:
    """Return a pool in whose history each second is another one."""
    driver, clock = drivers.find("psycopg2"), _Clock()
    assert driver is not None
    pool = ConnectionPool(
        alias,
        PoolConfig(),
        driver=driver,
        connect=_nothing,
        reset=_nothing,
        address="shop/app@db1:5432",
        clock=clock,
    )
    metrics, checkouts = pool._metrics, 0
    while clock.now < MOST:
        clock.now += 1 + random.uniform(-1e-3, 1e-3)
        checkouts += random.randrange(100)
        for histogram in (metrics.hold, metrics.wait, metrics.connect):
            histogram.record(*(random.expovariate(20) for _ in range(5)))
        used = random.randrange(10)
        figures = {"in_use": used, "idle": 10 - used, "checkouts": checkouts}
        pool._history.add(
            clock.now,
            {**pool._figures(clock.now), **figures},
            metrics.take_maxima(),
            (random.randrange(used, 11), random.randrange(3)),
        )
    return pool


def main(directory: str, pools: str) -> None:
    """Answer at the control socket until the standard input ends."""
    names = ["default", *(f"tenant{number}" for number in range(1, int(pools)))]
    full = [_full(name) for name in names]
    server = ControlServer(Path(directory), Worker(lambda: None, lambda: full).handle)
    if not server.start():
        raise SystemExit("no control socket")
    print("ready", flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
