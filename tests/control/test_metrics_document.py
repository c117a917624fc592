"""docs/metrics.rst names every series, column and key, and its examples work."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from dbpool_mw.control.prometheus import Family, families
from dbpool_mw.control.worker import MOST_SAMPLES
from dbpool_mw.core import metrics
from dbpool_mw.core.history import COLUMNS, MOST
from tests.control.fakes import pool
from tests.control.test_prometheus_readers import PROMTOOL, needs_promtool
from tests.control.test_render import answered
from tests.core.fakes import make_pool
from tests.core.test_pool_figures import next_second
from tests.documents import (
    ROOT,
    WRITE,
    code_block,
    code_blocks,
    sections,
    table,
    write_table,
    written_table,
)

METRICS = "docs/metrics.rst"

#: Labels of every series, and that of the buckets of a histogram.
COMMON = {"db_client_connection_pool_name", "address", "pid", "le"}
#: Series that are not one figure of a report.
APART = {
    "db_client_connection_count": "``idle``, ``in_use``",
    "db_client_connection_idle_max": "``max``",
    "dbpool_mw_state": "``state``",
    "dbpool_mw_worker_up": "``error``, if not",
    "dbpool_mw_worker_uptime_seconds": "``uptime``",
    "dbpool_mw_worker_maintenance_age_seconds": "``maintenance_age``",
}


def every_family() -> list[Family]:
    reasons = {key: {"x": 1} for key in metrics.LABELLED}
    return families([answered(7, pool(**reasons))])


def labels_of(family: Family) -> set[str]:
    return {label for sample in family.samples for label in sample.labels}


def test_the_table_has_every_series() -> None:
    keys = {m.prometheus_name: f"``{m.key}``" for m in metrics.METRICS if m.exported}
    rows = [
        [
            f"``{family.name}``",
            family.kind,
            ", ".join(f"``{label}``" for label in labels_of(family) - COMMON),
            (keys | APART)[family.name],
            family.help,
        ]
        for family in every_family()
    ]
    made = table(["Name", "Type", "Own label", "Key", "What it says"], rows)
    if WRITE:
        write_table(METRICS, made, "metrics")
    assert written_table(METRICS, "metrics") == made


def test_every_label_is_described() -> None:
    text = sections(METRICS)["Names and labels"]
    described = re.findall(r"^``(\w+)``", text, re.MULTILINE)
    used = set().union(*map(labels_of, every_family())) - {"le"}
    assert set(described) == used
    assert len(described) == len(used)


def test_every_column_of_a_history_is_described() -> None:
    text = sections(METRICS)["History"]
    assert tuple(re.findall(r"^``(\w+)``", text, re.MULTILINE)) == COLUMNS


def test_the_bound_of_a_reply_is_the_documents() -> None:
    assert f"at most {MOST_SAMPLES:,} samples".replace(",", " ") in " ".join(
        sections(METRICS)["History"].split()
    )
    assert MOST_SAMPLES // 13 >= MOST > MOST_SAMPLES // 14


def test_the_example_of_recent_figures_has_their_keys() -> None:
    example = json.loads(code_block(METRICS, '"60"', "json"))
    made, _, clock = make_pool()
    next_second(made, clock)
    recent = made.stats()["recent"]
    assert example.keys() == recent.keys()
    assert example["60"].keys() == recent["60"].keys()
    assert example["60"]["wait_seconds"].keys() == recent["60"]["wait_seconds"].keys()


def queries() -> list[str]:
    return code_blocks(METRICS, "promql")


def test_the_queries_name_series_that_exist() -> None:
    series = {sample.name for family in every_family() for sample in family.samples}
    for query in queries():
        named = set(re.findall(r"\b(?:dbpool_mw|db_client)_\w+", query))
        assert named - {"db_client_connection_pool_name"} <= series
        assert named - {"db_client_connection_pool_name"}


@needs_promtool
@pytest.mark.parametrize("query", queries())
def test_promtool_understands_the_query(query: str, tmp_path: Path) -> None:
    rule = {"record": "job:example", "expr": query}
    rules = tmp_path / "rules.yml"
    rules.write_text(json.dumps({"groups": [{"name": "docs", "rules": [rule]}]}))
    ended = subprocess.run(
        [str(PROMTOOL), "check", "rules", str(rules)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_the_readme_names_the_document() -> None:
    assert "/metrics.html>" in (ROOT / "README.rst").read_text(encoding="utf-8")
