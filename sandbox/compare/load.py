"""Pages a second and their latency, with 8 and with 32 clients."""

from __future__ import annotations

from sandbox.compare import idle
from sandbox.compare.pages import all_served, measure_page
from sandbox.compare.report import Table
from sandbox.compare.run import Run
from sandbox.server import THREADS

PAGES = ("selects", "plain")


def measure(run: Run) -> list[Table]:
    """Load every subject with the pages that don't wait, and see what stays open."""
    with all_served(run, PAGES, THREADS) as started:
        tables = [measure_page(run, page, started, THREADS) for page in PAGES]
        return [*tables, idle.measure(run, started)]
