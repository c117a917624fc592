"""Write figures as a table, as JSON, and into the documentation."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import fill

import django
import psycopg2

import dbpool_mw
from sandbox.benchmarks.figures import Part
from sandbox.documents import list_table, write_between

BEGIN = ".. figures begin: written by python -m sandbox.benchmarks --write-docs"
END = ".. figures end"


def surroundings(server_version: str) -> dict[str, str]:
    """Return the machine and the versions, on which the figures depend."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": f"{_processor()}, {_usable_processors()} of them usable",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Django": django.get_version(),
        "psycopg2": psycopg2.__version__.split(" ")[0],  # type: ignore[attr-defined]
        "psycopg": _version("psycopg"),
        "psycopg_pool": _version("psycopg-pool"),
        "PostgreSQL": f"{server_version}, on the same machine",
        "dbpool_mw": dbpool_mw.__version__,
    }


def _version(distribution: str) -> str:
    """Return a version without an import, which may be hidden in this process."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def table(about: dict[str, str], parts: Sequence[Part]) -> str:
    """Return everything as text for a terminal."""
    lines = [f"{key:<14}{value}" for key, value in about.items()]
    for part in parts:
        lines += ["", part.title, "-" * len(part.title), fill(part.method, 88), ""]
        names = [series.name for series in part.series]
        names += [ratio.name for ratio in part.ratios]
        width = max(map(len, names))
        for series in part.series:
            lines.append(
                f"{series.name:<{width}}  {series.median:9.2f} {series.unit}"
                f"  ({min(series.rounds):.2f} to {max(series.rounds):.2f})"
            )
        for ratio in part.ratios:
            lines.append(
                f"{ratio.name:<{width}}  {ratio.median:9.3f}"
                f"  ({min(ratio.rounds):.3f} to {max(ratio.rounds):.3f})"
                f"  {ratio.verdict}"
            )
    return "\n".join(lines)


def as_json(about: dict[str, str], parts: Sequence[Part]) -> str:
    """Return everything, each round included, as JSON."""
    return json.dumps(
        {
            "version": 1,
            "about": about,
            "parts": [
                {
                    "title": part.title,
                    "method": part.method,
                    "series": [
                        {
                            "name": series.name,
                            "unit": series.unit,
                            "median": series.median,
                            "rounds": series.rounds,
                        }
                        for series in part.series
                    ],
                    "ratios": [
                        {
                            "name": ratio.name,
                            "median": ratio.median,
                            "rounds": ratio.rounds,
                            "bound": ratio.bound,
                            "target": ratio.target,
                            "met": ratio.met,
                        }
                        for ratio in part.ratios
                    ],
                }
                for part in parts
            ],
        },
        indent=2,
    )


def restructured_text(about: dict[str, str], parts: Sequence[Part]) -> str:
    """Return everything as reStructuredText."""
    lines = ["Measured on:", ""]
    lines += [f":{key}: {value}" for key, value in about.items()]
    for part in parts:
        lines += ["", part.title, "~" * len(part.title), "", fill(part.method, 88), ""]
        lines += list_table(
            [
                ["What", "Median", "Least", "Most", "Target"],
                *(
                    [
                        series.name,
                        f"{series.median:.2f} {series.unit}",
                        f"{min(series.rounds):.2f}",
                        f"{max(series.rounds):.2f}",
                        "",
                    ]
                    for series in part.series
                ),
                *(
                    [
                        ratio.name,
                        f"**{ratio.median:.3f}**",
                        f"{min(ratio.rounds):.3f}",
                        f"{max(ratio.rounds):.3f}",
                        "" if ratio.target is None else ratio.verdict,
                    ]
                    for ratio in part.ratios
                ),
            ],
        )
    return "\n".join(lines)


def write_into(page: Path, text: str) -> None:
    """Replace the figures of a page. Raises ValueError."""
    write_between(page, BEGIN, END, text)
