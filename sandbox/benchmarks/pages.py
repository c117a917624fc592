"""Pages per second of the simple page under gunicorn, with three ways to connect."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from sandbox.benchmarks.figures import Part, Ratio, Series
from sandbox.server import THREADS, WORKERS, GunicornServer, ServerError, environment
from sandbox.traffic import SHOP, Traffic

#: The ways to connect, by their values of ``SANDBOX_POOLING``, with their names.
MODES = {
    "none": "a connection for each request",
    "persistent": "CONN_MAX_AGE = None",
    "dbpool": "dbpool_mw",
}
SENDERS = 8
HOME = SHOP[:1]


def measure(
    dsn: str,
    directory: Path,
    rounds: int,
    seconds: float,
    tell: Callable[[str], None],
) -> Part:
    """Load each of three servers in turn, ``rounds`` times for ``seconds`` each.

    All three servers run from the first round to the last, and only the server that is
    being measured gets requests. Each round begins with another mode. Raises
    ServerError when a request fails.
    """
    series = {mode: Series(name, "pages/s") for mode, name in MODES.items()}
    with ExitStack() as stack:
        servers = {
            mode: stack.enter_context(
                GunicornServer(
                    environment(dsn, mode, control_dir=str(directory / "control")),
                    directory / f"gunicorn-{mode}.log",
                )
            )
            for mode in MODES
        }
        for mode in MODES:
            _load(servers[mode], min(seconds, 1.0))  # templates, caches, connections
        for number in range(rounds):
            turn = number % len(MODES)
            for mode in [*list(MODES)[turn:], *list(MODES)[:turn]]:
                series[mode].rounds.append(_load(servers[mode], seconds))
            tell(
                f"round {number + 1} of {rounds}: "
                + ", ".join(
                    f"{MODES[mode]} {series[mode].rounds[-1]:.0f}" for mode in MODES
                )
            )
    pooled, persistent = series["dbpool"], series["persistent"]
    return Part(
        "Pages per second",
        "The simple page (four selects, one template) from gunicorn, "
        f"{WORKERS} workers with {THREADS} threads each. {SENDERS} client threads of "
        "one Python process on the same machine, a TCP connection for each page, "
        f"{seconds:g} s for each way in each of {rounds} rounds; the client and "
        "PostgreSQL take their share of the processors.",
        list(series.values()),
        [
            Ratio(pooled, persistent, "at least", 0.97),
            Ratio(pooled, series["none"], "at least"),
        ],
    )


def _load(server: GunicornServer, seconds: float) -> float:
    traffic = Traffic(server.host, server.port, HOME, threads=SENDERS)
    report = traffic.run(seconds)
    if report.failures or not report.answered:
        raise ServerError(
            "\n".join([*report.lines(), "gunicorn's log ends:", server.last_words()])
        )
    return report.per_second
