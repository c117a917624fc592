"""Prometheus' alert rules for the pools: what each fires on, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from dbpool_mw.core import docs

#: The label that names a pool.
POOL = "db_client_connection_pool_name"
POOLS = f"job, instance, {POOL}"
WORKERS = "job, instance, pid"

_OF_POOL = "Pool {{ $labels." + POOL + " }} of {{ $labels.instance }}: "
_NUMBER = '{{ $value | printf "%.0f" }}'
_OF_WORKER = "Worker {{ $labels.pid }} of {{ $labels.instance }}: "

HEADER = """\
# Alerts for the pools of dbpool_mw. "make grafana" writes this file: change
# sandbox/grafana/alerts.py instead. What to do about each alert is in
# docs/troubleshooting.rst, in the section of the alert's name.
"""


@dataclass(frozen=True)
class Alert:
    """An alert rule.

    ``lasts`` is how long ``expr`` has to hold, in Prometheus' spelling. ``meaning``
    says in a table when the alert fires.
    """

    name: str
    severity: str
    lasts: str
    expr: str
    summary: str
    meaning: str

    def rule(self) -> dict[str, Any]:
        """Return the rule as Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.lasts,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                # Each alert has a section that says what to do.
                "runbook_url": docs.address("troubleshooting", self.name.lower()),
            },
        }


def _growing(metric: str, window: str, by: str = POOLS) -> str:
    """Tell whether a counter has grown; one worker's at a time, and then added up."""
    return f"sum by ({by}) (\n  increase({metric}[{window}])\n) > 0"


ALERTS = (
    Alert(
        "DbPoolRequestsRefused",
        "critical",
        "0m",
        _growing('dbpool_mw_refused_total{reason!="closed"}', "5m", f"{POOLS}, reason"),
        _OF_POOL + "requests that got no connection in 5 minutes: "
        f"{_NUMBER} ({{{{ $labels.reason }}}}).",
        "Requests got no connection, and were answered with 503.",
    ),
    Alert(
        "DbPoolConnectErrors",
        "critical",
        "1m",
        _growing("dbpool_mw_connect_errors_total", "5m"),
        f"{_OF_POOL}connections that could not be opened in 5 minutes: {_NUMBER}.",
        "Connections can't be opened: the server can't be reached, or refuses.",
    ),
    Alert(
        "DbPoolRequestsWait",
        "warning",
        "1m",
        f"sum by ({POOLS}) (\n  db_client_connection_pending_requests\n) > 0",
        f"{_OF_POOL}requests that wait for a connection: {_NUMBER}.",
        "Requests are in the queue all the time.",
    ),
    Alert(
        "DbPoolWaitsLong",
        "warning",
        "5m",
        # Half of the default TIMEOUT.
        "histogram_quantile(0.99,\n"
        f"  sum by ({POOLS}, le) (\n"
        "    rate(db_client_connection_wait_time_seconds_bucket[5m])\n"
        "  )\n"
        ") > 2.5",
        _OF_POOL + "1 % of the requests wait for a connection longer than "
        "{{ $value | humanizeDuration }}.",
        "1 % of the requests wait longer than 2.5 s for a connection, half of the "
        "default of ``TIMEOUT``.",
    ),
    Alert(
        "DbPoolNearlyExhausted",
        "warning",
        "5m",
        f"max by ({POOLS}) (\n"
        '  db_client_connection_count{db_client_connection_state="used"}\n'
        "  / ignoring (db_client_connection_state) db_client_connection_max\n"
        ") > 0.9",
        _OF_POOL + "{{ $value | humanizePercentage }} of the connections of a worker "
        "are in use.",
        "More than 90 % of ``MAX_CONNS`` are in use in one worker, all the time.",
    ),
    Alert(
        "DbPoolPaused",
        "warning",
        "2m",
        f'max by ({POOLS}) (\n  dbpool_mw_state{{state="paused"}}\n) == 1',
        _OF_POOL + "paused, so requests wait.",
        "The pool is paused: a pause was forgotten, or takes long.",
    ),
    Alert(
        "DbPoolDraining",
        "warning",
        "15m",
        f'max by ({POOLS}) (\n  dbpool_mw_state{{state="draining"}}\n) == 1',
        _OF_POOL + "draining, so each request opens a connection.",
        "The pool is drained. Without ``--for`` it is until ``--resume``.",
    ),
    Alert(
        "DbPoolConnectionsLeaked",
        "warning",
        "0m",
        _growing("dbpool_mw_leaked_total", "15m"),
        f"{_OF_POOL}holds longer than LEAK_AFTER in 15 minutes: {_NUMBER}.",
        "Connections are held longer than ``LEAK_AFTER``. It is off by default.",
    ),
    Alert(
        "DbPoolHoldersCancelled",
        "warning",
        "0m",
        _growing("dbpool_mw_overdue_total", "15m"),
        f"{_OF_POOL}holders cancelled after MAX_HOLD in 15 minutes: {_NUMBER}.",
        "Statements were cancelled after ``MAX_HOLD``. It is off by default.",
    ),
    Alert(
        "DbPoolConnectionsReclaimed",
        "warning",
        "0m",
        _growing("dbpool_mw_reclaimed_total", "15m"),
        f"{_OF_POOL}connections taken back from holders that are gone, in "
        f"15 minutes: {_NUMBER}.",
        "Threads or blocks ended without giving their connections back.",
    ),
    Alert(
        "DbPoolWorkerSilent",
        "warning",
        "1m",
        f"max by ({WORKERS}) (dbpool_mw_worker_up) == 0",
        _OF_WORKER + "it runs, and doesn't answer.",
        "A worker runs, and doesn't answer on its control socket.",
    ),
    Alert(
        "DbPoolMaintenanceStuck",
        "warning",
        "1m",
        f"max by ({WORKERS}) (dbpool_mw_worker_maintenance_age_seconds) > 30",
        _OF_WORKER + "its maintenance last ran {{ $value | humanizeDuration }} ago.",
        "The maintenance of a worker's pools, once a second, doesn't run.",
    ),
    Alert(
        "DbPoolNotScraped",
        "critical",
        "2m",
        "up == 0\n"
        "and on (job, instance)\n"
        "  max by (job, instance) (max_over_time(dbpool_mw_worker_up[1d]))",
        "{{ $labels.instance }} shows no figures of its pools.",
        "Prometheus gets no figures from a target that had them within a day.",
    ),
    Alert(
        "DbPoolServerNearlyFull",
        "warning",
        "15m",
        "sum by (server) (\n"
        "  label_replace(\n"
        '    db_client_connection_max, "server", "$1", "address", ".*@([^ ]+).*"\n'
        "  )\n"
        ") > 0.9 * max by (server) (pg_settings_max_connections)",
        "The pools may open {{ $value }} connections to {{ $labels.server }}, more "
        "than 90 % of its max_connections.",
        "All pools together may open more than 90 % of the server's "
        "``max_connections``. Needs postgres_exporter.",
    ),
)


class _Dumper(yaml.SafeDumper):
    """Write texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def rules() -> dict[str, Any]:
    """Return all rules as Prometheus reads them."""
    return {"groups": [{"name": "dbpool_mw", "rules": [a.rule() for a in ALERTS]}]}


def alerts_yml() -> str:
    """Return the text of the file of rules."""
    text = yaml.dump(rules(), Dumper=_Dumper, sort_keys=False, width=1000)
    return HEADER + text
