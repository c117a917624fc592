"""promtool runs the committed alerts on series of figures, as time goes by.

Each fault begins after ten minutes. Its alert fires when its time is over and not
before, with these labels and this summary, and no other alert fires.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from dbpool_mw.core import docs
from tests.documents import code_block
from tests.grafana.generated import DIRECTORY, alert_names
from tests.grafana.scraper import PROMTOOL, needs_prometheus

pytestmark = needs_prometheus

GRAFANA = "docs/grafana/README.rst"
OBSERVABILITY = "docs/observability.rst"

#: Prometheus scrapes four times a minute, for half an hour.
STEP, SAMPLES, ONSET = 15, 121, 40

SITE = 'job="shop",instance="shop1:8000"'
POOL = 'db_client_connection_pool_name="default",address="shop/app@db1:5432"'
WORKER_7, WORKER_8, WORKER_9 = (f'{SITE},pid="{pid}"' for pid in (7, 8, 9))
OF_7, OF_8, OF_9 = (f"{worker},{POOL}" for worker in (WORKER_7, WORKER_8, WORKER_9))
LABELS = {"job": "shop", "instance": "shop1:8000"}
LABELS_OF_POOL = LABELS | {"db_client_connection_pool_name": "default"}

Values = Sequence[object]
Series = dict[str, Values]


class Fault(NamedTuple):
    """What changes after ten minutes, and the alert that comes of it.

    ``silent_at`` and ``fires_at`` are times such as "12m30s".
    """

    alert: str
    series: Series
    silent_at: str
    fires_at: str
    summary: str
    severity: str = "warning"
    labels: dict[str, str] = LABELS_OF_POOL


def always(value: object) -> Values:
    return [value] * SAMPLES


def then(before: object, after: object) -> Values:
    """Return values that change when the fault begins."""
    return [before] * ONSET + [after] * (SAMPLES - ONSET)


def growing(before: int, step: int, begin: int = 0) -> Values:
    """Return a counter that has grown by ``step`` at ``begin`` and since then."""
    return [before + step * max(0, n - begin + 1) for n in range(SAMPLES)]


def waits(worker: str, fast: int, slow: int) -> Series:
    """Return the histogram of waits: so many in each step, slow ones from the onset."""
    name = "db_client_connection_wait_time_seconds_bucket"
    at_once, late = growing(0, fast), growing(0, slow, ONSET)
    every = [a + b for a, b in zip(at_once, late, strict=True)]
    bounds = {"1e-05": at_once, "2.62144": at_once, "5.24288": every, "+Inf": every}
    return {f'{name}{{{worker},le="{le}"}}': values for le, values in bounds.items()}


def of_worker(worker: str) -> Series:
    return {
        f"dbpool_mw_worker_up{{{worker}}}": always(1),
        f"dbpool_mw_worker_maintenance_age_seconds{{{worker}}}": always(0.5),
    }


def of_pool(pool: str) -> Series:
    """Return the figures of a pool with some history, and nothing wrong now."""
    state = "db_client_connection_state"
    # Requests that wait for a moment.
    waiting = [*[0] * 20, 3, *[0] * 100]
    return {
        f'db_client_connection_count{{{pool},{state}="used"}}': always(3),
        f'db_client_connection_count{{{pool},{state}="idle"}}': always(2),
        f"db_client_connection_max{{{pool}}}": always(10),
        f"db_client_connection_pending_requests{{{pool}}}": waiting,
        **{
            f'dbpool_mw_refused_total{{{pool},reason="{reason}"}}': always(5)
            for reason in ("timeout", "max_waiting", "connect")
        },
        # The pool of a worker that ends.
        f'dbpool_mw_refused_total{{{pool},reason="closed"}}': then(0, 1),
        f"dbpool_mw_connect_errors_total{{{pool}}}": always(4),
        f"dbpool_mw_leaked_total{{{pool}}}": always(2),
        f"dbpool_mw_overdue_total{{{pool}}}": always(2),
        f"dbpool_mw_reclaimed_total{{{pool}}}": always(2),
        f'dbpool_mw_state{{{pool},state="running"}}': always(1),
        f'dbpool_mw_state{{{pool},state="draining"}}': always(0),
        f'dbpool_mw_state{{{pool},state="paused"}}': always(0),
        **waits(pool, fast=100, slow=0),
    }


def stopping(series: Series) -> Series:
    """Return series that end when the fault begins."""
    return {name: [*values[:ONSET], "stale"] for name, values in series.items()}


def beginning(series: Series) -> Series:
    """Return series that begin then."""
    return {
        name: ["_"] * ONSET + [*values[: SAMPLES - ONSET]]
        for name, values in series.items()
    }


FIGURES: Series = {
    **of_worker(WORKER_7),
    **of_worker(WORKER_8),
    **of_pool(OF_7),
    **of_pool(OF_8),
}
CALM: Series = {
    f"up{{{SITE}}}": always(1),
    **FIGURES,
    # What else is scraped: one target is down, and never had a pool.
    'up{job="node",instance="db1:9100"}': always(0),
    'pg_settings_max_connections{job="postgres",server="db1:5432"}': always(100),
}

PREFIX = "Pool default of shop1:8000: "

FAULTS = [
    Fault(
        "DbPoolRequestsRefused",
        {f'dbpool_mw_refused_total{{{OF_7},reason="timeout"}}': growing(5, 1, ONSET)},
        "9m45s",
        "20m",
        PREFIX + "requests that got no connection in 5 minutes: 20 (timeout).",
        "critical",
        LABELS_OF_POOL | {"reason": "timeout"},
    ),
    Fault(
        "DbPoolRequestsRefused",
        {f'dbpool_mw_refused_total{{{OF_7},reason="connect"}}': then(5, 6)},
        "16m",
        "12m",
        PREFIX + "requests that got no connection in 5 minutes: 1 (connect).",
        "critical",
        LABELS_OF_POOL | {"reason": "connect"},
    ),
    Fault(
        "DbPoolConnectErrors",
        {f"dbpool_mw_connect_errors_total{{{OF_8}}}": growing(4, 2, ONSET)},
        "10m45s",
        "20m",
        PREFIX + "connections that could not be opened in 5 minutes: 40.",
        "critical",
    ),
    Fault(
        "DbPoolRequestsWait",
        {f"db_client_connection_pending_requests{{{OF_7}}}": then(0, 3)},
        "10m45s",
        "11m",
        PREFIX + "requests that wait for a connection: 3.",
    ),
    Fault(
        "DbPoolWaitsLong",
        waits(OF_7, fast=80, slow=20),
        "14m45s",
        "20m",
        PREFIX + "1 % of the requests wait for a connection longer than 4.981s.",
    ),
    Fault(
        "DbPoolNearlyExhausted",
        {
            "db_client_connection_count"
            f'{{{OF_7},db_client_connection_state="used"}}': then(3, 10)
        },
        "14m45s",
        "15m",
        PREFIX + "100% of the connections of a worker are in use.",
    ),
    Fault(
        "DbPoolPaused",
        {f'dbpool_mw_state{{{OF_7},state="paused"}}': then(0, 1)},
        "11m45s",
        "12m",
        PREFIX + "paused, so requests wait.",
    ),
    Fault(
        "DbPoolDraining",
        {f'dbpool_mw_state{{{OF_7},state="draining"}}': then(0, 1)},
        "24m45s",
        "25m",
        PREFIX + "draining, so each request opens a connection.",
    ),
    Fault(
        "DbPoolConnectionsLeaked",
        {f"dbpool_mw_leaked_total{{{OF_7}}}": then(2, 3)},
        "9m45s",
        "20m",
        PREFIX + "holds longer than LEAK_AFTER in 15 minutes: 1.",
    ),
    Fault(
        "DbPoolHoldersCancelled",
        {f"dbpool_mw_overdue_total{{{OF_7}}}": then(2, 3)},
        "9m45s",
        "20m",
        PREFIX + "holders cancelled after MAX_HOLD in 15 minutes: 1.",
    ),
    Fault(
        "DbPoolConnectionsReclaimed",
        {f"dbpool_mw_reclaimed_total{{{OF_7}}}": then(2, 4)},
        "9m45s",
        "20m",
        PREFIX + "connections taken back from holders that are gone, in 15 minutes: 2.",
    ),
    Fault(
        "DbPoolWorkerSilent",
        {f"dbpool_mw_worker_up{{{WORKER_7}}}": then(1, 0)},
        "10m45s",
        "11m",
        "Worker 7 of shop1:8000: it runs, and doesn't answer.",
        labels=LABELS | {"pid": "7"},
    ),
    Fault(
        "DbPoolMaintenanceStuck",
        {f"dbpool_mw_worker_maintenance_age_seconds{{{WORKER_7}}}": then(0.5, 60)},
        "10m45s",
        "11m",
        "Worker 7 of shop1:8000: its maintenance last ran 1m 0s ago.",
        labels=LABELS | {"pid": "7"},
    ),
    Fault(
        "DbPoolNotScraped",
        {**stopping(FIGURES), f"up{{{SITE}}}": then(1, 0)},
        "11m45s",
        "12m",
        "shop1:8000 shows no figures of its pools.",
        "critical",
        LABELS,
    ),
    Fault(
        "DbPoolServerNearlyFull",
        {f"db_client_connection_max{{{pool}}}": then(10, 46) for pool in (OF_7, OF_8)},
        "24m45s",
        "25m",
        "The pools may open 92 connections to db1:5432, more than 90 % of its "
        "max_connections.",
        labels={"server": "db1:5432"},
    ),
]

#: What goes on without a fault.
CHANGES: dict[str, Series] = {
    "calm": {},
    "a worker is replaced": {
        **stopping(of_worker(WORKER_8)),
        **stopping(of_pool(OF_8)),
        **beginning(of_worker(WORKER_9)),
        **beginning(of_pool(OF_9)),
    },
    "a host is given up": stopping({f"up{{{SITE}}}": always(1), **FIGURES}),
    "a short pause and a short drain": {
        f'dbpool_mw_state{{{OF_7},state="{state}"}}': [*[0] * 40, *[1] * 7, *[0] * 74]
        for state in ("paused", "draining")
    },
}


def run(directory: Path, series: Series, expected: dict[str, list[Fault]]) -> None:
    """Have promtool compare what fires at each time with what is expected.

    Every alert that isn't in ``expected`` must be silent then.
    """
    checked = [
        {
            "eval_time": time,
            "alertname": alert,
            "exp_alerts": [
                {
                    "exp_labels": fault.labels | {"severity": fault.severity},
                    "exp_annotations": {
                        "summary": fault.summary,
                        "runbook_url": docs.address("troubleshooting", alert.lower()),
                    },
                }
                for fault in faults
                if fault.alert == alert
            ],
        }
        for time, faults in expected.items()
        for alert in alert_names()
    ]
    found = [
        {"series": name, "values": " ".join(map(str, values))}
        for name, values in series.items()
    ]
    test = {
        "interval": f"{STEP}s",
        "input_series": found,
        "alert_rule_test": checked,
    }
    tests = {
        "rule_files": [str(DIRECTORY / "alerts.yml")],
        "evaluation_interval": f"{STEP}s",
        "tests": [test],
    }
    file = directory / "tests.yml"
    file.write_text(json.dumps(tests))
    promtool("test", "rules", str(file))


def promtool(*words: str) -> str:
    """Run promtool, which must find nothing wrong; return what it says."""
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_rules() -> None:
    said = promtool("check", "rules", "--lint-fatal", str(DIRECTORY / "alerts.yml"))
    assert f"{len(alert_names())} rules found" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (code_block(GRAFANA, "scrape_configs", "yaml"), "1 rule files found"),
        (code_block(OBSERVABILITY, "scrape_configs", "yaml"), "SUCCESS"),
    ],
)
def test_promtool_takes_the_documented_configuration(
    tmp_path: Path, text: str, said: str
) -> None:
    shutil.copy(DIRECTORY / "alerts.yml", tmp_path)
    token = tmp_path / "shop.token"
    token.write_text("a token that nobody guesses")
    config = tmp_path / "prometheus.yml"
    config.write_text(text.replace("/etc/prometheus/shop.token", str(token)))
    assert said in promtool("check", "config", str(config))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.alert)
def test_an_alert_fires_on_its_fault_alone(tmp_path: Path, fault: Fault) -> None:
    run(tmp_path, CALM | fault.series, {fault.silent_at: [], fault.fires_at: [fault]})


@pytest.mark.parametrize("name", CHANGES)
def test_no_alert_fires_without_a_fault(tmp_path: Path, name: str) -> None:
    times = [f"{minute}m{second}s" for minute in range(30) for second in (0, 30)]
    run(tmp_path, CALM | CHANGES[name], {time: [] for time in times})


def test_every_alert_has_a_fault() -> None:
    assert {fault.alert for fault in FAULTS} == set(alert_names())
