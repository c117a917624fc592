"""The committed dashboard and alerts, as they are: their queries, their names."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.documents import ROOT

DIRECTORY = ROOT / "docs" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((DIRECTORY / "dashboard.json").read_text())
ALERTS = (DIRECTORY / "alerts.yml").read_text()
PANELS: list[dict[str, Any]] = [p for p in DASHBOARD["panels"] if p["type"] != "row"]

#: What each panel asks, by its title and the letter of the query.
QUERIES: dict[str, str] = {
    f"{panel['title']}, {target['refId']}": target["expr"]
    for panel in PANELS
    for target in panel["targets"]
}

#: What is marked in every graph.
MARKS: dict[str, str] = {
    mark["name"]: mark["expr"] for mark in DASHBOARD["annotations"]["list"]
}

#: What the choices of each variable are.
VARIABLES: dict[str, str] = {
    variable["name"]: variable["query"]["query"]
    for variable in DASHBOARD["templating"]["list"]
    if variable["type"] == "query"
}


def filled_in(expr: str, pool: str = ".*", interval: str = "10s") -> str:
    """Put values in the place of a query's variables, as Grafana does."""
    values = {
        "$job": ".*",
        "$instance": ".*",
        "$pool": pool,
        "$__rate_interval": interval,
        "$__range": "1m",
    }
    for name, value in values.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr


def alert_names() -> list[str]:
    """Return the names of the alerts, in order."""
    return re.findall(r"^  - alert: (\w+)$", ALERTS, re.MULTILINE)
