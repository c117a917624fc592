"""The benchmarks work: a few short rounds of each, whatever they measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import django

ROOT = Path(__file__).resolve().parent.parent.parent

ON_PSYCOPG = [
    "Cost in the worker on psycopg 3",
    "Pages per second on psycopg 3",
    "Statements per second on psycopg 3",
]


def has_djangos_pool():
    try:
        return django.VERSION >= (5, 1) and bool(version("psycopg-pool"))
    except PackageNotFoundError:
        return False


def test_each_benchmark_measures_every_series_in_every_round(postgres, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sandbox.benchmarks", "--quick", "--rounds=2", "--json"],
        cwd=ROOT,
        env={**os.environ, "SANDBOX_DSN": postgres.dsn()},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    parts = json.loads(done.stdout)["parts"]
    assert [part["title"] for part in parts] == [
        "Cost in the worker on psycopg2",
        "Pages per second on psycopg2",
        "Pages per second without a query",
        "Statements per second on psycopg2",
        "Polls of the page",
        *(ON_PSYCOPG if has_djangos_pool() else []),
    ]
    for part in parts:
        for series in part["series"]:
            assert len(series["rounds"]) == 2, series["name"]
            assert min(series["rounds"]) > 0, series["name"]
        assert any(ratio["target"] for ratio in part["ratios"]), part["title"]
