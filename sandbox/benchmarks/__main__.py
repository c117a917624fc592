"""Run the benchmarks; print the figures, or write them into docs/benchmarks.rst."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import django

from sandbox.benchmarks import apart, pages, report, statements
from sandbox.benchmarks.figures import Part
from sandbox.database import Observer, own_database
from sandbox.server import ROOT, environment, set_up, stop_in_order

PAGE = ROOT / "docs" / "benchmarks.rst"

#: What is measured on psycopg 3, and what needs to be installed for it.
ON_PSYCOPG = ("psycopg-cost", "psycopg-pages", "psycopg-statements")
NEEDS = ("psycopg", "psycopg-pool")
PARTS = ("cost", "pages", "plain", "statements", "polls", *ON_PSYCOPG)


def main() -> int:
    """Run the benchmarks; a missed target is printed and does not fail the run."""
    options = _parse()
    stop_in_order()
    try:
        return _run(options)
    except KeyboardInterrupt:
        _tell("Stopped; everything that was started has been stopped.")
        return 130


def _run(options: argparse.Namespace) -> int:
    with (
        own_database() as dsn,
        tempfile.TemporaryDirectory(prefix="dbpool_mw-bench-") as folder,
    ):
        directory = Path(folder)
        control_dir = str(directory / "control")
        env = environment(dsn, control_dir=control_dir)
        on_psycopg = environment(dsn, control_dir=control_dir, library="psycopg")
        _tell(set_up(env))
        observer = Observer(dsn, "")
        about = report.surroundings(observer.version())
        observer.close()
        operations = 1_000 if options.quick else 5_000
        number = 300 if options.quick else 2_000
        seconds = 0.3 if options.quick else 2.0
        short = min(seconds, 0.5)
        polls = 2 if options.quick else 10
        benchmarks: dict[str, Callable[[int], Part]] = {
            "cost": lambda rounds: apart.measure("cost", env, rounds or 30, operations),
            "pages": lambda rounds: pages.with_queries(
                dsn, directory, rounds or 15, seconds, _tell
            ),
            "plain": lambda rounds: pages.without_queries(
                dsn, directory, rounds or 100, short, _tell
            ),
            "statements": lambda rounds: statements.measure(
                "psycopg2", dsn, rounds or 50, number
            ),
            "polls": lambda rounds: apart.measure("polls", env, rounds or 15, polls),
            "psycopg-cost": lambda rounds: apart.measure(
                "cost_psycopg", on_psycopg, rounds or 30, operations
            ),
            "psycopg-pages": lambda rounds: pages.on_psycopg(
                dsn, directory, rounds or 15, seconds, _tell
            ),
            "psycopg-statements": lambda rounds: statements.measure(
                "psycopg", dsn, rounds or 50, number
            ),
        }
        parts: list[Part] = []
        for name in options.only:
            _tell(f"{name} ...")
            parts.append(benchmarks[name](options.rounds or 0))
    if options.json:
        print(report.as_json(about, parts))
    else:
        print(report.table(about, parts))
    if options.write_docs:
        report.write_into(PAGE, report.restructured_text(about, parts))
        _tell(f"Wrote the figures into {PAGE}.")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.benchmarks", description=__doc__
    )
    parser.add_argument("--rounds", type=int, help="rounds of each benchmark")
    parser.add_argument("--quick", action="store_true", help="a few short rounds")
    parser.add_argument("--only", choices=PARTS, help="one of the benchmarks")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument(
        "--write-docs", action="store_true", help=f"rewrite the figures in {PAGE.name}"
    )
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if options.write_docs and (options.only or options.quick):
        parser.error("--write-docs takes a whole run, without --only and --quick")
    lacks = _lacks()
    if lacks and (options.write_docs or options.only in ON_PSYCOPG):
        parser.error(f"on psycopg 3 this needs {lacks}")
    if options.only:
        options.only = (options.only,)
    elif lacks:
        _tell(f"Nothing is measured on psycopg 3, which needs {lacks}.")
        options.only = tuple(part for part in PARTS if part not in ON_PSYCOPG)
    else:
        options.only = PARTS
    if options.quick and options.rounds is None:
        options.rounds = 2
    return options


def _lacks() -> str:
    """Return what the benchmarks on psycopg 3 need and don't find, "" if nothing."""
    if django.VERSION < (5, 1):
        return "the pool of Django 5.1"
    for name in NEEDS:
        try:
            version(name)
        except PackageNotFoundError:
            return name
    return ""


def _tell(text: str) -> None:
    """Print progress to stderr, apart from the figures."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
