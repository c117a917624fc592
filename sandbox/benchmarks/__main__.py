"""Run the benchmarks; print the figures, or write them into docs/benchmarks.rst."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from sandbox.benchmarks import pages, report, statements
from sandbox.benchmarks.figures import Part
from sandbox.database import Observer, own_database
from sandbox.server import ROOT, environment, set_up, stop_in_order

PAGE = ROOT / "docs" / "benchmarks.rst"
PARTS = ("cost", "pages", "plain", "statements")


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
        tempfile.TemporaryDirectory(prefix="dbpool_mw-bench-") as name,
    ):
        directory = Path(name)
        env = environment(dsn, control_dir=str(directory / "control"))
        _tell(set_up(env))
        observer = Observer(dsn, "")
        about = report.surroundings(observer.version())
        observer.close()
        parts: list[Part] = []
        if "cost" in options.only:
            parts.append(_cost(dsn, env, options.rounds or 30, options.quick))
        seconds = 0.3 if options.quick else 2.0
        if "pages" in options.only:
            _tell("pages per second ...")
            rounds = options.rounds or 15
            parts.append(pages.with_queries(dsn, directory, rounds, seconds, _tell))
        if "plain" in options.only:
            _tell("pages per second without a query ...")
            rounds = options.rounds or 100
            short = min(seconds, 0.5)
            parts.append(pages.without_queries(dsn, directory, rounds, short, _tell))
        if "statements" in options.only:
            _tell("statements per second ...")
            number = 300 if options.quick else 2_000
            parts.append(statements.measure(dsn, options.rounds or 50, number))
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
    parser.add_argument("--only", choices=PARTS, help="one benchmark of the four")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument(
        "--write-docs", action="store_true", help=f"rewrite the figures in {PAGE.name}"
    )
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if options.write_docs and (options.only or options.quick):
        parser.error("--write-docs takes a whole run, without --only and --quick")
    options.only = (options.only,) if options.only else PARTS
    if options.quick and options.rounds is None:
        options.rounds = 2
    return options


def _cost(dsn: str, env: dict[str, str], rounds: int, quick: bool) -> Part:
    _tell("cost in the worker ...")
    os.environ.update(env)
    import django

    django.setup()
    # sandbox.benchmarks.cost reads the settings when it is imported.
    from sandbox.benchmarks import cost

    return cost.measure(dsn, rounds, operations=1_000 if quick else 5_000)


def _tell(text: str) -> None:
    """Print progress to stderr, apart from the figures."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
