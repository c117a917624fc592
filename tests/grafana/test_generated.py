"""What docs/grafana has: as generated, and right by itself."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest

from dbpool_mw.control.prometheus import families
from dbpool_mw.core import metrics
from dbpool_mw.core.docs import SITE
from tests.control.fakes import pool
from tests.control.test_render import answered
from tests.documents import WRITE, sections, table, write_table, written_table
from tests.grafana.generated import (
    ALERTS,
    DASHBOARD,
    DIRECTORY,
    MARKS,
    PANELS,
    QUERIES,
    VARIABLES,
    alert_names,
)

README = "docs/grafana/README.rst"
TROUBLES = "docs/troubleshooting.rst"

needs_generator = pytest.mark.skipif(
    find_spec("grafana_foundation_sdk") is None or find_spec("yaml") is None,
    reason="no grafana-foundation-sdk, which makes the dashboard. It needs Python 3.11 "
    "and is in the extra `grafana`: one pair of Python and Django is enough to compare",
)

#: Every pair of a series' name and its labels, with some values of each label.
SERIES: dict[str, dict[str, set[str]]] = {}
for _family in families(
    [
        answered(
            7,
            pool(
                refused_by_reason=dict.fromkeys(metrics.REFUSALS, 0),
                discarded={"dead": 1},
            ),
        )
    ]
):
    for _sample in _family.samples:
        _labels = SERIES.setdefault(_sample.name, {})
        for _label, _value in _sample.labels.items():
            _labels.setdefault(_label, set()).add(_value)

#: Labels that Prometheus adds.
ADDED = {"job", "instance"}

SELECTOR = re.compile(r"\b((?:dbpool_mw|db_client_connection)_\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')


@needs_generator
@pytest.mark.parametrize("name", ["dashboard.json", "alerts.yml"])
def test_the_committed_file_is_the_generated_one(name: str) -> None:
    from sandbox.grafana.__main__ import GENERATED, write

    if WRITE:
        write()
    assert (DIRECTORY / name).read_text(encoding="utf-8") == GENERATED[name]()


def test_no_data_source_is_hard_wired() -> None:
    variable, *_ = DASHBOARD["templating"]["list"]
    assert (variable["name"], variable["type"]) == ("datasource", "datasource")
    assert variable["query"] == "prometheus"
    assert "current" not in variable
    parts = [*PANELS, *(t for p in PANELS for t in p["targets"])]
    parts += DASHBOARD["annotations"]["list"]
    parts += [v for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert [part for part in parts if part["datasource"] != chosen] == []


def test_the_dashboard_replaces_itself_when_it_is_imported_anew() -> None:
    assert DASHBOARD["uid"] == "dbpool-mw"
    assert "id" not in DASHBOARD
    assert DASHBOARD["schemaVersion"] <= 41
    assert [*VARIABLES] == ["job", "instance", "pool"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_panels_cover_no_other_and_fill_the_width() -> None:
    covered: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in covered, (panel["title"], covered[x, y])
                covered[x, y] = panel["title"]
    assert {x for x, _ in covered} == set(range(24))


def test_every_panel_says_what_it_shows_and_has_a_unit() -> None:
    for panel in PANELS:
        assert len(panel["description"]) > 60, panel["title"]
        if panel["type"] in ("timeseries", "stat"):
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_every_query_follows_the_variables() -> None:
    for name, expr in QUERIES.items():
        for metric, matchers in SELECTOR.findall(expr):
            wanted = 'job=~"$job", instance=~"$instance"'
            if not metric.startswith("dbpool_mw_worker_"):
                wanted += ', db_client_connection_pool_name=~"$pool"'
            assert matchers.startswith(wanted), name


def test_counters_are_added_up_after_their_rate_only() -> None:
    # The sum of a counter falls when a worker ends, as if all had begun anew.
    counters = r"\b\w+_(?:total|bucket|sum|count)\b(?!=)"
    for expr in [*QUERIES.values(), *alert_exprs()]:
        # This one is a gauge.
        text = expr.replace("db_client_connection_count", "")
        for found in re.finditer(counters, text):
            assert re.search(r"(rate|increase)\(\s*$", text[: found.start()]), expr


def alert_exprs() -> list[str]:
    """Return the expressions of the alerts, read as text."""
    found = re.findall(r"^    expr: (.*?)\n    for:", ALERTS, re.MULTILINE | re.DOTALL)
    assert len(found) == len(alert_names())
    return found


@pytest.mark.parametrize(
    "expr", [*QUERIES.values(), *MARKS.values(), *VARIABLES.values(), *alert_exprs()]
)
def test_every_name_and_label_is_one_that_is_exported(expr: str) -> None:
    labels = {label for found in SERIES.values() for label in found}
    words = set(re.findall(r"\b(?:dbpool_mw|db_client_connection)_\w+", expr))
    assert words - labels <= {*SERIES}
    for metric, matchers in SELECTOR.findall(expr):
        for label, operator, value in MATCHER.findall(matchers):
            assert label in {*SERIES[metric], *ADDED}
            if not value.startswith("$"):
                values = set(value.split("|")) if operator == "=~" else {value}
                assert values <= SERIES[metric][label]


def test_every_metric_is_shown() -> None:
    shown = " ".join(QUERIES.values())
    left = {
        metric.prometheus_name
        for metric in metrics.METRICS
        if metric.exported and metric.prometheus_name not in shown
    }
    # The number of each: MIN_CONNS; what a drain waits for, which it prints itself; and
    # what is among the refusals, by reason.
    assert left == {
        "db_client_connection_idle_min",
        "dbpool_mw_stale",
        "db_client_connection_timeouts_total",
    }


@needs_generator
def test_the_table_of_alerts_is_the_generated_one() -> None:
    from sandbox.grafana.alerts import ALERTS as FOUND

    rows = [
        [
            f"`{alert.name} <../troubleshooting.rst#{alert.name.lower()}>`__",
            alert.severity,
            alert.lasts,
            alert.meaning,
        ]
        for alert in FOUND
    ]
    made = table(["Alert", "Severity", "After", "Fires when"], rows)
    if WRITE:
        write_table(README, made, "alerts")
    assert written_table(README, "alerts") == made


def test_every_alert_has_an_entry_that_says_what_to_do() -> None:
    text = sections(TROUBLES)["An alert fires"]
    entries = re.findall(r"^(\w+)\n-+$", text, re.MULTILINE)
    assert entries == alert_names()
    for name in entries:
        address = f"{SITE}troubleshooting.html#{name.lower()}"
        assert f"runbook_url: {address}\n" in ALERTS
