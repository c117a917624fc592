"""Compare; print the tables, or write them and their plots into docs/comparison.rst."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from sandbox.benchmarks.report import surroundings
from sandbox.compare import readme, report
from sandbox.compare.run import Run
from sandbox.compare.served import postgres
from sandbox.compare.subjects import (
    CONNECTIONS,
    SUBJECTS,
    WORKERS,
    Subject,
    bouncer_version,
    installed,
    versions,
)
from sandbox.database import Observer
from sandbox.server import ROOT, THREADS, stop_in_order

PAGE = ROOT / "docs" / "comparison.rst"
IMAGES = ROOT / "docs" / "images"

#: The modules of this folder whose ``measure`` returns tables, in their order.
PARTS = ("load", "waits", "wire", "cost", "fairness", "failures", "sessions", "places")


def main() -> int:
    """Compare; what a subject does badly is a figure and doesn't fail the run."""
    options = _parse()
    stop_in_order()
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("Stopped; everything that was started has been stopped.")
        return 130


def _run(options: argparse.Namespace) -> int:
    chosen = [each for each in SUBJECTS if each.key in options.subjects]
    missing = {each: why for each in chosen if (why := installed(each))}
    tables = [_compared(chosen)]
    with (
        postgres() as server,
        tempfile.TemporaryDirectory(prefix="dbpool_mw-compare-") as folder,
    ):
        run = Run(
            [each for each in chosen if each not in missing],
            server,
            Path(folder),
            options.quick,
            options.rounds,
        )
        observer = Observer(server.dsn(), "")
        about = surroundings(observer.version()) | {"PgBouncer": bouncer_version()}
        observer.close()
        if options.quick:
            about["figures"] = "of a quick run, not for comparing"
        stopped = False
        try:
            for name in options.only:
                run.tell(f"{name} ...")
                part = import_module(f"sandbox.compare.{name}")
                for table in part.measure(run):
                    for subject, why in missing.items():
                        table.add(subject, why)
                    tables.append(table)
        except KeyboardInterrupt:
            about["figures"] = f"of a run that was stopped while it measured {name}"
            stopped = True
    print(report.as_text(about, tables))
    if options.json:
        options.json.write_text(report.as_json(about, tables))
    if stopped:
        print("Stopped; everything that was started has been stopped.")
        return 130
    if options.write_docs:
        from sandbox.compare.plots import draw

        draw(tables, IMAGES)
        report.write_into(PAGE, report.restructured_text(about, tables))
        run.tell(f"Wrote the figures into {PAGE} and the plots into {IMAGES}.")
        readme.write(about, tables)
        run.tell(f"Wrote what the README shows into {readme.README}.")
    return 0


def _compared(subjects: Sequence[Subject]) -> report.Table:
    table = report.Table(
        "What is compared",
        f"Each under gunicorn with {WORKERS} workers, of {THREADS} threads each unless "
        f"a table says otherwise, or on gevent. A worker's pool has {CONNECTIONS} "
        f"connections, and PgBouncer {WORKERS * CONNECTIONS}; without a pool a thread "
        "has one. What isn't named is the default.",
        ("Versions", "Settings"),
    )
    for subject in subjects:
        table.add(subject, (versions(subject), subject.best))
    return table


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.compare", description=__doc__
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="a part")
    parser.add_argument(
        "--subjects",
        type=lambda text: text.split(","),
        default=[each.key for each in SUBJECTS],
        help="their keys, separated by commas",
        metavar="KEY,...",
    )
    parser.add_argument("--rounds", type=int, help="rounds of each measurement")
    parser.add_argument("--quick", action="store_true", help="a few short rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write JSON too")
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help=f"rewrite the figures in {PAGE.name} and the README; of a whole run only",
    )
    options = parser.parse_args()
    known = {each.key for each in SUBJECTS}
    if unknown := set(options.subjects) - known:
        parser.error(f"no such subject: {', '.join(sorted(unknown))}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    options.only = options.only or PARTS
    whole = set(options.only) == set(PARTS) and set(options.subjects) == known
    if options.write_docs and (options.quick or not whole):
        parser.error("--write-docs is for a whole run: no other table would be left")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
