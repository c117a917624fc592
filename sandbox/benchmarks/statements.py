"""Statements per second on a pooled connection, next to one of the library's own.

By hand: ``python -m sandbox.benchmarks.statements psycopg2 own DSN`` reads lines such
as ``2000 one`` from its standard input, and prints for each how many seconds so many
statements took, by ``one`` cursor or by a new one for ``each``. The first two words may
be psycopg, and pooled. ``again`` is the same as ``own``: what the two differ by is what
the measurement is good for.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from sandbox.benchmarks.figures import Part, Ratio, Series
from sandbox.server import ROOT, environment

#: The database libraries, with their names in titles.
LIBRARIES = {"psycopg2": "psycopg2", "psycopg": "psycopg 3"}

STATEMENT = "SELECT id, name, price FROM shop_product WHERE id = %s"


def measure(library: str, dsn: str, rounds: int, statements: int) -> Part:
    """Time both kinds of connection in turn, ``rounds`` times ``statements`` each.

    Each in a process of its own: in one that pools connections, the methods of the
    library's own cursors are wrapped. Client and backend wait for each other all the
    time, so they share a processor: see ``_share_a_processor``.
    """
    local, way = _by_socket(dsn)
    unit = "statements/s"
    series = {
        ("own", "one"): Series(f"{library}'s own cursor", unit),
        ("again", "one"): Series("the same in another process", unit),
        ("pooled", "one"): Series("the pooled connection's cursor", unit),
        ("own", "each"): Series(f"new cursors of {library}'s own", unit),
        ("pooled", "each"): Series("new cursors of the pooled connection", unit),
    }
    with ExitStack() as stack:
        timers = {
            kind: stack.enter_context(_Timer(library, kind, local))
            for kind in ("own", "again", "pooled")
        }
        order = list(series)
        for kind, cursors in order:
            timers[kind].seconds(statements, cursors)  # caches
        for number in range(rounds):
            turn = number % len(order)
            for kind, cursors in [*order[turn:], *order[:turn]]:
                took = timers[kind].seconds(statements, cursors)
                series[kind, cursors].rounds.append(statements / took)
    own, again, pooled, own_each, pooled_each = series.values()
    return Part(
        f"Statements per second on {LIBRARIES[library]}",
        f"One thread that selects one row by its primary key, {way}: a cursor of "
        f"{library}'s own, in two processes to show what chance makes of it, and the "
        "cursor of a pooled connection, which looks at the text of each statement; and "
        "the same with a new cursor for each statement. "
        f"{rounds} rounds of {statements} each, in turn.",
        list(series.values()),
        [
            Ratio(again, own, "at least"),
            Ratio(pooled, own, "at least", 0.97),
            Ratio(pooled_each, own_each, "at least"),
        ],
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

    def __init__(self, library: str, kind: str, dsn: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, library, kind, dsn],
            cwd=ROOT,
            env=environment(dsn, library=library),
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

    def seconds(self, statements: int, cursors: str) -> float:
        """Return how many seconds so many statements took, by ``one`` or ``each``."""
        commands = self._pipe(self._process.stdin)
        commands.write(f"{statements} {cursors}\n")
        commands.flush()
        return float(self._pipe(self._process.stdout).readline())

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def _connect(library: str, kind: str, dsn: str) -> Any:
    """Return a connection as Django opens it, the library's own or a tracked one."""
    module: Any = import_module(library)
    params = parse_dsn(dsn)
    if library == "psycopg":
        params["cursor_factory"] = module.ClientCursor
    if kind != "pooled":
        return module.connect(**params)
    from dbpool_mw import drivers

    driver = drivers.find(library)
    assert driver is not None
    connection = module.connect(**driver.connection_params(params, 10.0))
    assert driver.track(connection)
    return connection


def _share_a_processor(backend: int) -> None:
    """Have this process and its backend run on one processor, the same in each run.

    Left alone, some pairs share one and others don't, for the whole of a run, which
    makes one connection faster than the next by more than what is compared here. A
    backend on another machine, or of a user that this one can't steer, runs where it
    did.
    """
    with suppress(OSError):
        if b"postgres" in Path(f"/proc/{backend}/cmdline").read_bytes():
            processor = {min(os.sched_getaffinity(0))}
            os.sched_setaffinity(backend, processor)
            os.sched_setaffinity(0, processor)


def main(library: str, kind: str, dsn: str) -> None:
    """Run as many statements as each line of the standard input says."""
    connection = _connect(library, kind, dsn)
    connection.autocommit = True
    _share_a_processor(connection.info.backend_pid)
    gc.disable()
    run = {"one": _by_one_cursor, "each": _by_a_cursor_each}
    for line in sys.stdin:
        statements, cursors = line.split()
        began = time.perf_counter()
        run[cursors](connection, int(statements))
        print(time.perf_counter() - began, flush=True)
    connection.close()


def _by_one_cursor(connection: Any, statements: int) -> None:
    with connection.cursor() as cursor:
        for number in range(statements):
            cursor.execute(STATEMENT, [number % 100 + 1])
            cursor.fetchone()


def _by_a_cursor_each(connection: Any, statements: int) -> None:
    for number in range(statements):
        with connection.cursor() as cursor:
            cursor.execute(STATEMENT, [number % 100 + 1])
            cursor.fetchone()


if __name__ == "__main__":
    main(*sys.argv[1:])
