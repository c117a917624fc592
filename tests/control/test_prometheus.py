from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import pytest

from dbpool_mw.control.prometheus import prometheus
from tests.control.fakes import histogram, pool
from tests.control.test_render import answered, silent

LABEL = r'[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"([a-z_:]+)\{{((?:{LABEL})(?:,{LABEL})*)\}} (\S+)")


def labels_of(address: str = "shop/app@db1:5432") -> str:
    """Return the labels of the series of worker 7's pool at an address."""
    pool = 'db_client_connection_pool_name="default"'
    return f'{pool},address="{address}",pid="7"'


def parse(text: str) -> dict[str, dict[str, float]]:
    """Read the exposition format strictly; return name -> labels -> value."""
    assert text.endswith("\n")
    kinds: dict[str, str] = {}
    helped: list[str] = []
    samples: dict[str, dict[str, float]] = defaultdict(dict)
    current = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            current = line.split()[2]
            helped.append(current)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name == current
            assert name not in kinds
            kinds[name] = kind
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            name, labels, value = match.groups()
            family = name
            if kinds[current] == "histogram":
                family = re.sub("_(bucket|sum|count)$", "", name)
            assert family == current, "samples of one family stand together"
            assert labels not in samples[name], "a series is there once"
            assert (kinds[current] == "counter") == name.endswith("_total")
            samples[name][labels] = float(value)
    assert len(helped) == len(set(helped)) == len(kinds)
    return samples


def test_a_figure_that_opentelemetry_names_has_that_name() -> None:
    samples = parse(
        prometheus(
            [
                answered(
                    7,
                    pool(idle=2, in_use=1, min=1, max=10, waiting=4, timeouts=5),
                    uptime=3.5,
                )
            ]
        )
    )
    labels = (
        'db_client_connection_pool_name="default",address="shop/app@db1:5432",pid="7"'
    )
    count = samples["db_client_connection_count"]
    assert count == {
        f'{labels},db_client_connection_state="idle"': 2,
        f'{labels},db_client_connection_state="used"': 1,
    }
    for name, value in {
        "db_client_connection_idle_min": 1,
        "db_client_connection_idle_max": 10,
        "db_client_connection_max": 10,
        "db_client_connection_pending_requests": 4,
        "db_client_connection_timeouts_total": 5,
    }.items():
        assert samples[name] == {labels: value}
    assert samples["dbpool_mw_worker_uptime_seconds"] == {'pid="7"': 3.5}
    assert samples["dbpool_mw_worker_maintenance_age_seconds"] == {'pid="7"': 0.5}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("connect_seconds", "create_time"),
        ("wait_seconds", "wait_time"),
        ("hold_seconds", "use_time"),
    ],
)
def test_a_histogram_is_cumulative_and_complete(key: str, name: str) -> None:
    changes: Any = {key: histogram(0.000015, 0.001, 0.001, 0.5, 5000.0)}
    samples = parse(prometheus([answered(7, pool(**changes))]))
    family = f"db_client_connection_{name}_seconds"
    buckets = {
        float(re.findall(r'le="([^"]+)"', labels)[0]): value
        for labels, value in samples[f"{family}_bucket"].items()
    }
    assert list(buckets) == sorted(buckets)
    assert list(buckets.values()) == sorted(buckets.values())
    assert buckets[1e-5] == 0
    assert buckets[2e-5] == 1
    assert buckets[0.00128] == 3
    assert buckets[0.65536] == 4
    assert buckets[float("inf")] == 5
    labels = (
        'db_client_connection_pool_name="default",address="shop/app@db1:5432",pid="7"'
    )
    assert samples[f"{family}_count"] == {labels: 5}
    assert samples[f"{family}_sum"][labels] == pytest.approx(5000.502015)


def test_other_figures_have_the_packages_prefix() -> None:
    samples = parse(
        prometheus(
            [
                answered(
                    7,
                    pool(
                        opened=6,
                        checkouts=9,
                        resets=2,
                        rollbacks=1,
                        state="paused",
                        discarded={"idle": 3, "expired": 1},
                    ),
                ),
                silent(8),
            ]
        )
    )
    labels = (
        'db_client_connection_pool_name="default",address="shop/app@db1:5432",pid="7"'
    )
    assert samples["dbpool_mw_opened_total"] == {labels: 6}
    assert samples["dbpool_mw_checkouts_total"] == {labels: 9}
    assert samples["dbpool_mw_resets_total"] == {labels: 2}
    assert samples["dbpool_mw_rollbacks_total"] == {labels: 1}
    assert samples["dbpool_mw_discarded_total"] == {
        f'{labels},reason="expired"': 1,
        f'{labels},reason="idle"': 3,
    }
    assert samples["dbpool_mw_state"] == {
        f'{labels},state="{state}"': float(state == "paused")
        for state in ("running", "draining", "paused", "closed")
    }
    assert samples["dbpool_mw_worker_up"] == {'pid="7"': 1, 'pid="8"': 0}


def test_labels_are_escaped() -> None:
    text = prometheus([answered(7, pool('a"b\\c\nd\udcff'))])
    parse(text)
    assert 'pool_name="a\\"b\\\\c\\nd\\\\udcff"' in text


def test_control_characters_in_labels_are_escaped() -> None:
    text = prometheus([answered(7, pool("\x1b[2J\r", discarded={"\u2028": 1}))])
    parse(text)
    assert 'pool_name="\\\\x1b[2J\\\\r"' in text
    assert all(line.isprintable() for line in text.split("\n"))


def test_several_workers_and_pools_repeat_no_series() -> None:
    parse(
        prometheus(
            [
                answered(7, pool(), pool("replica")),
                answered(7, pool(), suffix="b"),
                answered(8, pool()),
                answered(9),
            ]
        )
    )


def test_the_pools_of_one_alias_have_series_that_add_up() -> None:
    one = pool(max=10, opened=4)
    other = pool(max=10, opened=3, state="draining", address="shop/report@db1")
    samples = parse(prometheus([answered(7, one, other)]))
    opened = samples["dbpool_mw_opened_total"]
    assert opened == {
        labels_of(): 4,
        labels_of("shop/report@db1"): 3,
    }
