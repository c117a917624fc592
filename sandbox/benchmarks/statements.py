"""Statements per second on a pooled connection, next to psycopg2's own.

By hand: ``python -m sandbox.benchmarks.statements psycopg2 DSN`` reads numbers from its
standard input, and prints for each how many seconds so many statements took.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import psycopg2
from psycopg2.extensions import make_dsn

from sandbox.benchmarks.figures import Part, Ratio, Series
from sandbox.server import ROOT

STATEMENT = "SELECT id, name, price FROM shop_product WHERE id = %s"


def measure(dsn: str, rounds: int, statements: int) -> Part:
    """Time both kinds of connection in turn, ``rounds`` times ``statements`` each.

    Each in a process of its own: in one that pools connections, the methods of
    psycopg2's own cursors are wrapped.
    """
    local, way = _by_socket(dsn)
    series = {
        "psycopg2": Series("psycopg2's own cursor", "statements/s"),
        "dbpool_mw": Series("the pooled connection's cursor", "statements/s"),
    }
    with ExitStack() as stack:
        timers = {kind: stack.enter_context(_Timer(kind, local)) for kind in series}
        order = list(series)
        for kind in order:
            timers[kind].seconds(statements)  # caches
        for number in range(rounds):
            turn = number % len(order)
            for kind in [*order[turn:], *order[:turn]]:
                took = timers[kind].seconds(statements)
                series[kind].rounds.append(statements / took)
    own, pooled = series.values()
    return Part(
        "Statements per second",
        f"One thread that selects one row by its primary key, {way}: a cursor of "
        "psycopg2's own, and the cursor of a pooled connection, which looks at the "
        f"text of each statement. {rounds} rounds of {statements} each, in turn.",
        [own, pooled],
        [Ratio(pooled, own, "at least", 0.97)],
    )


def _by_socket(dsn: str) -> tuple[str, str]:
    """Return a DSN by the server's Unix socket where it is on this machine."""
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT current_setting('unix_socket_directories'),"
                " current_setting('port')"
            )
            directories, port = cursor.fetchone() or ("", "")
    finally:
        connection.close()
    for directory in directories.split(","):
        if Path(directory.strip(), f".s.PGSQL.{port}").exists():
            return make_dsn(dsn, host=directory.strip()), "by a Unix socket"
    return dsn, "by the network"


class _Timer:
    """A process that runs statements on a connection of one kind."""

    def __init__(self, kind: str, dsn: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, kind, dsn],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> _Timer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe(self._process.stdin).close()
        self._process.wait()
        self._pipe(self._process.stdout).close()

    def seconds(self, statements: int) -> float:
        """Return how many seconds so many statements took."""
        commands = self._pipe(self._process.stdin)
        commands.write(f"{statements}\n")
        commands.flush()
        return float(self._pipe(self._process.stdout).readline())

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def main(kind: str, dsn: str) -> None:
    """Run as many statements as each line of the standard input says."""
    if kind == "dbpool_mw":
        from dbpool_mw import drivers

        driver = drivers.find("psycopg2")
        assert driver is not None
        connection = psycopg2.connect(**driver.connection_params({"dsn": dsn}, 10.0))
        assert driver.track(connection)
    else:
        connection = psycopg2.connect(dsn)
    connection.autocommit = True
    gc.disable()
    with connection.cursor() as cursor:
        for line in sys.stdin:
            began = time.perf_counter()
            for number in range(int(line)):
                cursor.execute(STATEMENT, [number % 100 + 1])
                cursor.fetchone()
            print(time.perf_counter() - began, flush=True)
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
