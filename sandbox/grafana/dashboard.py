"""The Grafana dashboard of the pools: its panels, what they ask and what they mean.

Counters are added up after ``rate()`` or ``increase()``, never before: a sum falls when
a worker ends, which would look like a restart of all. Built with Grafana's own library,
which needs Python 3.11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import TypeAlias

from grafana_foundation_sdk.builders import common as options
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import (
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmaps
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from sandbox.grafana.alerts import POOL

UID = "dbpool-mw"
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")

#: The figures of workers, and of pools, that the variables choose.
WORKERS = 'job=~"$job", instance=~"$instance"'
POOLS = f'{WORKERS}, {POOL}=~"$pool"'
POOL_LEGEND = "{{" + POOL + "}}"

WAIT = "db_client_connection_wait_time_seconds"
HOLD = "db_client_connection_use_time_seconds"
CONNECT = "db_client_connection_create_time_seconds"

GREEN, YELLOW, RED = "green", "yellow", "red"

_Panel: TypeAlias = (
    stat.Panel | timeseries.Panel | heatmap.Panel | statetimeline.Panel | table.Panel
)


def _of_pools(metric: str, more: str = "") -> str:
    return f"{metric}{{{POOLS}{', ' if more else ''}{more}}}"


def _of_workers(metric: str) -> str:
    return f"{metric}{{{WORKERS}}}"


def _rate(metric: str, by: str = "", window: str = "$__rate_interval") -> str:
    grouping = f"by ({by}) " if by else ""
    return f"sum {grouping}(rate({_of_pools(metric)}[{window}]))"


def _by_pool(function: str, metric: str, more: str = "") -> str:
    return f"{function} by ({POOL}) ({_of_pools(metric, more)})"


def _query(expr: str, legend: str = "") -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expr).datasource(SOURCE).range()
    return query.legend_format(legend) if legend else query


def _instant(expr: str) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expr).datasource(SOURCE).instant()
    return query.format(PromQueryFormat.TABLE)


def _ask(panel: _Panel, *queries: prometheus.Dataquery) -> None:
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(query.ref_id(letter))


def _thresholds(steps: Mapping[float, str]) -> build.ThresholdsConfig:
    found = [model.Threshold(value=None, color=GREEN)]
    found += [
        model.Threshold(value=value, color=color) for value, color in steps.items()
    ]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(found)


def _stat(
    title: str,
    unit: str,
    description: str,
    steps: Mapping[float, str],
    *queries: prometheus.Dataquery,
) -> stat.Panel:
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .thresholds(_thresholds(steps))
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(options.ReduceDataOptions().calcs(["lastNotNull"]))
        .height(4)
        .span(4)
    )
    _ask(panel, *queries)
    return panel


def _graph(
    title: str,
    unit: str,
    description: str,
    *queries: prometheus.Dataquery,
    span: int = 8,
) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .fill_opacity(10)
        .show_points(VisibilityMode.NEVER)
        .legend(
            options.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
        .tooltip(options.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .height(8)
        .span(span)
    )
    _ask(panel, *queries)
    return panel


def _quantiles(
    title: str, histogram: str, description: str, window: str = "$__rate_interval"
) -> timeseries.Panel:
    buckets = _rate(f"{histogram}_bucket", "le", window)
    queries = [
        _query(f"histogram_quantile({q}, {buckets})", name)
        for q, name in [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")]
    ]
    return _graph(title, "s", description, *queries)


def _heatmap(title: str, histogram: str, description: str) -> heatmap.Panel:
    expr = (
        f"sum by (le) (increase({_of_pools(f'{histogram}_bucket')}[$__rate_interval]))"
    )
    panel = (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit("s"))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmaps.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .steps(64)
        )
        .height(8)
        .span(8)
    )
    _ask(panel, _query(expr, "{{le}}").format(PromQueryFormat.HEATMAP))
    return panel


def _overview() -> list[stat.Panel]:
    used = _of_pools("db_client_connection_count", 'db_client_connection_state="used"')
    most = _of_pools("db_client_connection_max")
    refused = _of_pools("dbpool_mw_refused_total", 'reason!="closed"')
    not_running = _of_pools("dbpool_mw_state", 'state=~"draining|paused"')
    return [
        _stat(
            "Fullest pool",
            "percentunit",
            "Share of MAX_CONNS in use in the fullest pool of any worker. At 100 % for "
            "long: see whether holds are long (row Holds) or many (row Waits). "
            "Alert: DbPoolNearlyExhausted.",
            {0.7: YELLOW, 0.9: RED},
            _query(f"max({used} / ignoring (db_client_connection_state) {most})"),
        ),
        _stat(
            "Waiting now",
            "short",
            "Requests in the queue. Not 0 for long: see who holds the connections, "
            "with dbpool_stats --holders. Alert: DbPoolRequestsWait.",
            {1: YELLOW},
            _query(f"sum({_of_pools('db_client_connection_pending_requests')})"),
        ),
        _stat(
            "Oldest wait",
            "s",
            "How long the first request in any queue has waited. At TIMEOUT it is "
            "answered with 503.",
            {1: YELLOW, 2.5: RED},
            _query(f"max({_of_pools('dbpool_mw_oldest_wait_seconds')})"),
        ),
        _stat(
            "Got no connection",
            "short",
            "Requests answered with 503 in the time shown: TIMEOUT, MAX_WAITING or a "
            "failed connect. See docs/troubleshooting.rst, My requests get 503. "
            "Alert: DbPoolRequestsRefused.",
            {1: RED},
            _query(f"sum(increase({refused}[$__range]))").instant(),
        ).decimals(0),
        _stat(
            "Silent workers",
            "short",
            "Workers that run and don't answer. Their requests are stuck too: look at "
            "the process. Alert: DbPoolWorkerSilent.",
            {1: RED},
            _query(f"sum(1 - {_of_workers('dbpool_mw_worker_up')})"),
        ),
        _stat(
            "Drained or paused",
            "short",
            "Pools that are drained or paused; dbpool_drain --resume ends both. "
            "Alerts: DbPoolPaused, DbPoolDraining.",
            {1: YELLOW},
            _query(f"sum({not_running})"),
        ),
    ]


def _connections() -> list[timeseries.Panel]:
    by_state = (
        "sum by (db_client_connection_state) "
        f"({_of_pools('db_client_connection_count')})"
    )
    limit = [
        model.DynamicConfigValue("custom.fillOpacity", 0),
        model.DynamicConfigValue("custom.stacking", {"mode": "none"}),
        model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": RED}),
    ]
    return [
        _graph(
            "Connections",
            "short",
            "Open connections of all workers, by state, below MAX_CONNS of all pools. "
            "Used near the limit: more work than connections, or holds that are too "
            "long. Connecting for long: the server is slow to accept.",
            _query(by_state, "{{db_client_connection_state}}"),
            _query(f"sum({_of_pools('dbpool_mw_connecting')})", "connecting"),
            _query(f"sum({_of_pools('db_client_connection_max')})", "limit"),
            span=12,
        )
        .stacking(options.StackingConfig().mode(StackingMode.NORMAL))
        .override_by_name("limit", limit),
        _graph(
            "In use: mean and peak",
            "short",
            "The mean is exact, as long as holds are shorter than the interval; the "
            "peak is the sum of the workers' peaks of the last minute. A scrape alone "
            "misses bursts. A mean far below the limit with a peak at it: bursts. "
            "Size the pool by docs/sizing.rst.",
            _query(_rate(f"{HOLD}_sum", POOL), f"{POOL_LEGEND}, mean"),
            _query(_by_pool("sum", "dbpool_mw_in_use_peak"), f"{POOL_LEGEND}, peak"),
            _query(
                _by_pool("sum", "db_client_connection_max"), f"{POOL_LEGEND}, limit"
            ),
            span=12,
        ),
    ]


def _waits() -> list[timeseries.Panel | heatmap.Panel]:
    waits, checkouts = (
        _rate(f"dbpool_mw_{name}_total", POOL) for name in ("waits", "checkouts")
    )
    return [
        _quantiles(
            "Time to get a connection",
            WAIT,
            "From asking for a connection to having it. Close to 0: the pool is no "
            "bottleneck. p99 near TIMEOUT comes before the first 503. "
            "Alert: DbPoolWaitsLong.",
        ),
        _heatmap(
            "Waits",
            WAIT,
            "How many requests waited how long. A second band above that of no wait: "
            "some requests queue behind long holds.",
        ),
        _graph(
            "Checkouts that had to wait",
            "percentunit",
            "Share of the checkouts that found no idle connection. A growing share "
            "comes before the first 503: raise MAX_CONNS where the server has room.",
            _query(f"{waits} / {checkouts}", POOL_LEGEND),
        ),
        _graph(
            "In the queue",
            "short",
            "Requests that wait for a connection. See who holds the connections, with "
            "dbpool_stats --holders. Alert: DbPoolRequestsWait.",
            _query(
                _by_pool("sum", "db_client_connection_pending_requests"), POOL_LEGEND
            ),
        ),
        _graph(
            "Oldest wait",
            "s",
            "How long the first request in a queue has waited. It grows while nothing "
            "comes back: the holders are stuck, or the pool is paused.",
            _query(_by_pool("max", "dbpool_mw_oldest_wait_seconds"), POOL_LEGEND),
        ),
        _graph(
            "Got no connection, per second",
            "short",
            "timeout: waited TIMEOUT in vain. max_waiting: the queue was full. "
            "connect: the server can't be reached, see Connects that failed. closed: "
            "the process ended. cancelled: the client hung up. Alert: "
            "DbPoolRequestsRefused.",
            _query(_rate("dbpool_mw_refused_total", "reason"), "{{reason}}"),
            _query(_rate("dbpool_mw_cancelled_total"), "cancelled"),
        ),
    ]


def _holds() -> list[timeseries.Panel | heatmap.Panel]:
    return [
        _quantiles(
            "Time that a connection is in use",
            HOLD,
            "From checkout to checkin. A request that calls other services meanwhile "
            "should give its connection back: see released() in docs/streams.rst.",
        ),
        _heatmap(
            "Holds",
            HOLD,
            "How many holds took how long. A band far above the others is a page, or a "
            "task, of its own: find it with dbpool_stats --holders.",
        ),
        _graph(
            "Oldest hold",
            "s",
            "How long the oldest holder has had its connection. It grows without end: "
            "a leak, or a job that keeps its connection. Set LEAK_AFTER to log where. "
            "Alerts: DbPoolConnectionsLeaked, DbPoolHoldersCancelled.",
            _query(_by_pool("max", "dbpool_mw_oldest_hold_seconds"), POOL_LEGEND),
        ),
        _graph(
            "In a transaction",
            "short",
            "Connections in use that are in a transaction, of those in use. Many, and "
            "long holds: transactions are open while the code does something else.",
            _query(
                _by_pool("sum", "dbpool_mw_in_transaction"),
                f"{POOL_LEGEND}, in a transaction",
            ),
            _query(
                _by_pool(
                    "sum",
                    "db_client_connection_count",
                    'db_client_connection_state="used"',
                ),
                f"{POOL_LEGEND}, in use",
            ),
        ),
        _graph(
            "Leaked, cancelled, reclaimed",
            "short",
            "leaked: held longer than LEAK_AFTER. cancelled: held longer than "
            "MAX_HOLD. reclaimed: something ended without giving its connection back. "
            "Each has a line in the log that names the holder. Alert: "
            "DbPoolConnectionsReclaimed.",
            *(
                _query(
                    f"sum(increase({_of_pools(f'dbpool_mw_{key}_total')}"
                    "[$__rate_interval]))",
                    legend,
                )
                for key, legend in [
                    ("leaked", "leaked"),
                    ("overdue", "cancelled"),
                    ("reclaimed", "reclaimed"),
                ]
            ),
        ),
        _graph(
            "Work at checkins, per second",
            "short",
            "resets: sessions that a request had changed; close to the checkouts, "
            "each request costs a round trip, see docs/sessions.rst. rollbacks: "
            "requests that left a transaction open, a bug. checks: pings of "
            "connections that were idle for long.",
            *(
                _query(_rate(f"dbpool_mw_{key}_total"), key)
                for key in ("checkouts", "resets", "rollbacks", "checks")
            ),
        ),
    ]


def _opening() -> list[timeseries.Panel]:
    return [
        _quantiles(
            "Time to open a connection",
            CONNECT,
            "Of the connections of the last hour, since few are opened. Slow: the "
            "server is busy, or far away, or TLS and DNS take their time. MIN_CONNS "
            "opens connections ahead.",
            window="1h",
        ),
        _graph(
            "Connects that failed, per second",
            "short",
            "The server can't be reached or refuses; the log has its own words. "
            "Alert: DbPoolConnectErrors.",
            _query(_rate("dbpool_mw_connect_errors_total", POOL), POOL_LEGEND),
        ),
        _graph(
            "Opened and closed, per second",
            "short",
            "As many opened as checkouts: connections don't live, and the reason of "
            "their closing says why. See the table of reasons in "
            "docs/troubleshooting.rst.",
            _query(_rate("dbpool_mw_opened_total"), "opened"),
            _query(_rate("dbpool_mw_discarded_total", "reason"), "closed: {{reason}}"),
        ),
    ]


def _states() -> statetimeline.Panel:
    by_instance = "max by (instance, " + POOL + ") ({})"
    draining, paused = (
        by_instance.format(_of_pools("dbpool_mw_state", f'state="{state}"'))
        for state in ("draining", "paused")
    )
    names = {
        "0": ("running", GREEN),
        "1": ("draining", YELLOW),
        "2": ("paused", RED),
        "3": ("draining and paused", RED),
    }
    mapping = {
        value: model.ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(names.items())
    }
    panel = (
        statetimeline.Panel()
        .title("State of the pools")
        .description(
            "What dbpool_drain did, and when. A pool that stays drained or paused: "
            "dbpool_drain --resume. Alerts: DbPoolPaused, DbPoolDraining."
        )
        .datasource(SOURCE)
        .mappings([model.ValueMap(options=mapping)])
        .height(8)
        .span(24)
    )
    state = f"{draining} + 2 * {paused}"
    _ask(panel, _query(state, "{{instance}} " + POOL_LEGEND))
    return panel


def _workers() -> table.Panel:
    used = _of_pools("db_client_connection_count", 'db_client_connection_state="used"')
    columns = {
        "Answers": f"max by (instance, pid) ({_of_workers('dbpool_mw_worker_up')})",
        "Uptime": "max by (instance, pid) "
        f"({_of_workers('dbpool_mw_worker_uptime_seconds')})",
        "Maintenance ran": "max by (instance, pid) "
        f"({_of_workers('dbpool_mw_worker_maintenance_age_seconds')})",
        "In use": f"sum by (instance, pid) ({used})",
        "Waiting": "sum by (instance, pid) "
        f"({_of_pools('db_client_connection_pending_requests')})",
        "Limit": f"sum by (instance, pid) ({_of_pools('db_client_connection_max')})",
        "Checkouts per second": _rate("dbpool_mw_checkouts_total", "instance, pid"),
    }
    renamed = {
        f"Value #{letter}": name
        for letter, name in zip(ascii_uppercase, columns, strict=False)
    }
    seconds = [model.DynamicConfigValue("unit", "s")]
    panel = (
        table.Panel()
        .title("Workers")
        .description(
            "The workers now; Answers is 1 or 0. Uptimes of seconds again and again: "
            "workers are killed. Maintenance runs once a second: much more says that "
            "nothing expires. Alerts: DbPoolWorkerSilent, DbPoolMaintenanceStuck."
        )
        .datasource(SOURCE)
        .with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            model.DataTransformerConfig(
                id_val="organize",
                options={"excludeByName": {"Time": True}, "renameByName": renamed},
            )
        )
        .override_by_name("Uptime", seconds)
        .override_by_name("Maintenance ran", seconds)
        .height(8)
        .span(24)
    )
    _ask(panel, *map(_instant, columns.values()))
    return panel


def _variables() -> list[Builder[model.VariableModel]]:
    chosen = [
        ("job", "Job", "label_values(dbpool_mw_worker_up, job)"),
        (
            "instance",
            "Instance",
            'label_values(dbpool_mw_worker_up{job=~"$job"}, instance)',
        ),
        (
            "pool",
            "Pool",
            f"label_values(db_client_connection_max{{{WORKERS}}}, {POOL})",
        ),
    ]
    source = build.DatasourceVariable("datasource").label("Data source")
    queries = [
        build.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": query, "refId": name})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
        for name, label, query in chosen
    ]
    return [source.type("prometheus"), *queries]


class _Marks(model.AnnotationQuery):
    """What is marked in every graph, with what the library leaves out: titles."""

    def __init__(self, name: str, color: str, expr: str, title: str) -> None:
        super().__init__(name, SOURCE, icon_color=color, expr=expr)
        self.title = title

    def to_json(self) -> dict[str, object]:
        """Return the query as Grafana reads it."""
        return {**super().to_json(), "titleFormat": self.title}


def _marks() -> list[model.AnnotationQuery]:
    states = _of_pools("dbpool_mw_state", 'state=~"draining|paused"')
    return [
        _Marks(
            "Drained or paused",
            YELLOW,
            f"max by ({POOL}, state) ({states}) > 0",
            "{{state}}: " + POOL_LEGEND,
        ),
        _Marks(
            "Alerts",
            RED,
            f'ALERTS{{{WORKERS}, alertname=~"DbPool.*", alertstate="firing"}}',
            "{{alertname}}",
        ),
    ]


def dashboard() -> model.Dashboard:
    """Return the dashboard."""
    builder = (
        build.Dashboard("Database pools (dbpool_mw)")
        .uid(UID)
        .description(
            "Connection pools of Django workers. Generated: change "
            "sandbox/grafana/dashboard.py of dbpool_mw instead."
        )
        .tags(["django", "postgresql", "dbpool_mw"])
        .refresh("30s")
        .time("now-1h", "now")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .variables(_variables())
    )
    rows: dict[str, Sequence[_Panel]] = {
        "Now": _overview(),
        "Connections": _connections(),
        "Waits": _waits(),
        "Holds": _holds(),
        "Opening and closing": _opening(),
        "Workers": [_states(), _workers()],
    }
    number = 0
    for title, panels in rows.items():
        builder.with_row(build.Row(title).id(number := number + 1))
        for panel in panels:
            builder.with_panel(panel.id(number := number + 1))
    found = builder.build()
    found.annotations = model.AnnotationContainer(_marks())
    return found


def dashboard_json() -> str:
    """Return the text of the file of the dashboard."""
    return JSONEncoder(indent=2).encode(dashboard()) + "\n"
