"""How long a poll of the page takes, with eight workers that have a full history.

In a process that has Django set up. The workers are processes of ``poll_worker``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from django.test import Client, override_settings
from django.urls import reverse

from dbpool_mw import conf
from dbpool_mw.binding import registry
from dbpool_mw.dashboard import actions
from dbpool_mw.dashboard.access import Access, poll_token
from dbpool_mw.dashboard.views import TOKEN
from sandbox.benchmarks.figures import Part, Ratio, Series
from sandbox.server import ROOT, ServerError

WORKERS = 8
#: How many aliases each worker has pools of.
FEW, SEVERAL = 1, 4
#: Milliseconds that a poll may take.
LIMIT = 50


def measure(dsn: str, rounds: int, polls: int) -> Part:
    """Time each kind of poll in turn, ``rounds`` times ``polls`` of each.

    Raises ServerError when a worker doesn't start, when a poll fails or lacks a worker,
    and when one opens a pool.
    """
    series = {
        (FEW, False): Series("poll, 1 alias", "ms"),
        (FEW, True): Series("poll with charts, 1 alias", "ms"),
        (SEVERAL, False): Series(f"poll, {SEVERAL} aliases", "ms"),
        (SEVERAL, True): Series(f"poll with charts, {SEVERAL} aliases", "ms"),
    }
    limit = Series(f"{LIMIT} ms", "ms", [float(LIMIT)] * rounds)
    with ExitStack() as stack:
        asked = {n: stack.enter_context(_workers(n)) for n in (FEW, SEVERAL)}
        order = list(series)
        for aliases, charts in order:
            _milliseconds(*asked[aliases], charts, 2)  # templates
        for number in range(rounds):
            turn = number % len(order)
            for aliases, charts in [*order[turn:], *order[:turn]]:
                took = _milliseconds(*asked[aliases], charts, polls)
                series[aliases, charts].rounds.append(took)
    if any(registry.pools()):
        raise ServerError("a poll opened a pool")
    return Part(
        "Polls of the page",
        f"Milliseconds from a poll's request to its response, by Django's test client, "
        f"for all that the page can show of {WORKERS} workers: processes whose pools "
        "have a full quarter of an hour of history, in which a clock of their own has "
        "run fast. Each third poll of a page has the charts. A worker that doesn't "
        "answer within a second is waited for so long. "
        f"{rounds} rounds of {polls} each, in turn.",
        [*series.values(), limit],
        [Ratio(each, limit, "at most", 1) for each in series.values()],
    )


@contextmanager
def _workers(aliases: int) -> Iterator[tuple[str, list[int]]]:
    """Run the workers; return the control directory of their own, and their pids."""
    command = [sys.executable, "-m", "sandbox.benchmarks.poll_worker"]
    with tempfile.TemporaryDirectory(prefix="dbpool_mw-polls-") as folder:
        directory = str(Path(folder, "control"))
        workers = [
            subprocess.Popen(
                [*command, directory, str(aliases)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(WORKERS)
        ]
        try:
            for worker in workers:
                assert worker.stdout is not None
                if not worker.stdout.readline():
                    raise ServerError("a worker for the polls didn't start")
            yield directory, [worker.pid for worker in workers]
        finally:
            for worker in workers:
                worker.communicate()


def _milliseconds(directory: str, pids: list[int], charts: bool, polls: int) -> float:
    """Return how long a poll takes, of so many, which show all of these workers."""
    everything = Access(holders=True, drain=True, cancel=True)
    address = reverse("dbpool_mw:dashboard_poll") + ("?charts=1" if charts else "")
    with override_settings(DBPOOL_MW_CONTROL_DIR=directory):
        conf.reset_cache()
        token = poll_token(everything, [actions.here(), []])
        client = Client(headers={"Host": "localhost", TOKEN: token})
        began = time.perf_counter()
        answers = [client.get(address) for _ in range(polls)]
        took = time.perf_counter() - began
    conf.reset_cache()
    for answer in answers:
        text = answer.content.decode()
        if answer.status_code != 200 or not all(str(pid) in text for pid in pids):
            raise ServerError(f"a poll failed: {text:.500}")
    return took / polls * 1e3
