"""Pages per second under gunicorn, with several ways to connect."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sandbox.benchmarks.figures import Part, Ratio, Series
from sandbox.server import THREADS, WORKERS, GunicornServer, ServerError, environment
from sandbox.traffic import SHOP, Page, Traffic

SENDERS = 8


@dataclass(frozen=True)
class Comparison:
    """One page from one server for each way to connect, all under the same load.

    ``modes`` has the ways to connect, by their values of ``SANDBOX_POOLING``, with
    their names. ``apart`` gives the servers one processor and the client the others,
    where there are several. ``library`` is what Django runs on: psycopg2, or psycopg.
    """

    modes: Mapping[str, str]
    page: Page
    workers: int
    threads: int
    apart: bool = False
    library: str = "psycopg2"

    def run(
        self,
        dsn: str,
        directory: Path,
        rounds: int,
        seconds: float,
        tell: Callable[[str], None],
    ) -> dict[str, Series]:
        """Load each of the servers in turn, ``rounds`` times for ``seconds`` each.

        All servers run from the first round to the last, and only the server that is
        being measured gets requests. Each round begins with another mode. Raises
        ServerError when a request fails.
        """
        series = {mode: Series(name, "pages/s") for mode, name in self.modes.items()}
        order = list(self.modes)
        usable = os.sched_getaffinity(0)
        first = {min(usable)} if self.apart and len(usable) > 1 else usable
        with ExitStack() as stack:
            stack.callback(os.sched_setaffinity, 0, usable)
            os.sched_setaffinity(0, first)  # the servers inherit it
            servers = {
                mode: stack.enter_context(
                    GunicornServer(
                        environment(
                            dsn, mode, str(directory / "control"), self.library
                        ),
                        directory / f"gunicorn-{mode}.log",
                        workers=self.workers,
                        threads=self.threads,
                    )
                )
                for mode in order
            }
            os.sched_setaffinity(0, usable - first or usable)
            for mode in order:
                self._load(servers[mode], min(seconds, 1.0))  # caches, connections
            for number in range(rounds):
                turn = number % len(order)
                for mode in [*order[turn:], *order[:turn]]:
                    series[mode].rounds.append(self._load(servers[mode], seconds))
                figures = [
                    f"{each.name} {each.rounds[-1]:.0f}" for each in series.values()
                ]
                tell(f"round {number + 1} of {rounds}: {', '.join(figures)}")
        return series

    def _load(self, server: GunicornServer, seconds: float) -> float:
        traffic = Traffic(server.host, server.port, (self.page,), threads=SENDERS)
        report = traffic.run(seconds)
        if report.failures or not report.answered:
            raise ServerError(
                "\n".join(
                    [*report.lines(), "gunicorn's log ends:", server.last_words()]
                )
            )
        return report.per_second


_WITH_QUERIES = Comparison(
    {
        "none": "a connection for each request",
        "persistent": "CONN_MAX_AGE = None",
        "dbpool": "dbpool_mw",
    },
    SHOP[0],
    WORKERS,
    THREADS,
)

_ON_PSYCOPG = Comparison(
    {
        "none": "a connection for each request",
        "persistent": "CONN_MAX_AGE = None",
        "native": "Django's own pool",
        "dbpool": "dbpool_mw",
    },
    SHOP[0],
    WORKERS,
    THREADS,
    library="psycopg",
)

_WITHOUT_QUERIES = Comparison(
    {
        "nothing": "a middleware that does nothing",
        "dbpool": "dbpool_mw",
        "lazy": "dbpool_mw with EAGER = ()",
    },
    SHOP[1],
    workers=1,
    threads=8,
    apart=True,
)


def with_queries(
    dsn: str,
    directory: Path,
    rounds: int,
    seconds: float,
    tell: Callable[[str], None],
) -> Part:
    """Measure the simple page. Raises ServerError when a request fails."""
    series = _WITH_QUERIES.run(dsn, directory, rounds, seconds, tell)
    pooled = series["dbpool"]
    return Part(
        "Pages per second on psycopg2",
        _method(rounds, seconds),
        list(series.values()),
        [
            Ratio(pooled, series["persistent"], "at least", 0.97),
            Ratio(pooled, series["none"], "at least"),
        ],
    )


def on_psycopg(
    dsn: str,
    directory: Path,
    rounds: int,
    seconds: float,
    tell: Callable[[str], None],
) -> Part:
    """Measure the simple page on psycopg 3. Raises ServerError if a request fails."""
    series = _ON_PSYCOPG.run(dsn, directory, rounds, seconds, tell)
    pooled = series["dbpool"]
    return Part(
        "Pages per second on psycopg 3",
        _method(rounds, seconds),
        list(series.values()),
        [
            Ratio(pooled, series["persistent"], "at least", 0.99),
            Ratio(pooled, series["native"], "at least", 1.0),
            Ratio(pooled, series["none"], "at least"),
        ],
    )


def without_queries(
    dsn: str,
    directory: Path,
    rounds: int,
    seconds: float,
    tell: Callable[[str], None],
) -> Part:
    """Measure a page that needs no database. Raises ServerError if a request fails."""
    series = _WITHOUT_QUERIES.run(dsn, directory, rounds, seconds, tell)
    nothing = series["nothing"]
    return Part(
        "Pages per second without a query",
        "A page that asks the database nothing, from gunicorn, one worker with "
        f"{_WITHOUT_QUERIES.threads} threads and a processor of its own, where there "
        f"are several. {_client(rounds, seconds)}",
        list(series.values()),
        [
            Ratio(series["dbpool"], nothing, "at least", 0.97),
            Ratio(series["lazy"], nothing, "at least", 0.97),
        ],
    )


def _method(rounds: int, seconds: float) -> str:
    return (
        "The simple page (four selects, one template) from gunicorn, "
        f"{WORKERS} workers with {THREADS} threads each. {_client(rounds, seconds)}"
    )


def _client(rounds: int, seconds: float) -> str:
    return (
        f"{SENDERS} client threads of one Python process on the same machine, a TCP "
        f"connection for each page, {seconds:g} s for each way in each of {rounds} "
        "rounds; the client and PostgreSQL take their share of the processors."
    )
