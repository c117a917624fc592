"""A real Prometheus scrapes the sandbox under traffic and under faults.

The alerts are the committed ones, but ``for`` is three seconds. There is a pool for
each fault, and all faults happen at once: whatever fires has the label of its pool.
"""

from __future__ import annotations

import http.client
import http.server
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg2
import pytest

from dbpool_mw.control.survey import survey
from sandbox.postgres import Server
from sandbox.server import GunicornServer, environment, manage, set_up
from sandbox.traffic import Page, Traffic
from tests.conftest import fresh_database
from tests.grafana.generated import (
    ALERTS,
    MARKS,
    QUERIES,
    VARIABLES,
    alert_names,
    filled_in,
)
from tests.grafana.scraper import Prometheus, needs_prometheus, prometheus
from tests.grafana.stopped import stopped
from tests.library import LIBRARY
from tests.process import servers

pytestmark = needs_prometheus

#: The alerts that the fault of each pool fires, and no other.
FAULTS: dict[str, set[str]] = {
    "default": set(),
    "full": {"DbPoolNearlyExhausted"},
    # The last fires when the requests that waited have a connection.
    "queued": {"DbPoolNearlyExhausted", "DbPoolRequestsWait", "DbPoolWaitsLong"},
    "late": {"DbPoolNearlyExhausted", "DbPoolRequestsRefused"},
    "unreachable": {"DbPoolConnectErrors", "DbPoolRequestsRefused"},
    "leaky": {"DbPoolConnectionsLeaked"},
    "overdue": {"DbPoolHoldersCancelled"},
    "ended": {"DbPoolConnectionsReclaimed"},
    "paused": {"DbPoolPaused"},
    "draining": {"DbPoolDraining"},
    # Each was closed at its next checkout, and replaced.
    "lost": set(),
    # The server has fewer connections than all of these pools may open.
    "": {"DbPoolServerNearlyFull"},
}
ALIASES = [alias for alias in FAULTS if alias]

#: The alerts that a test of its own fires.
OF_WORKERS = {"DbPoolWorkerSilent", "DbPoolMaintenanceStuck", "DbPoolNotScraped"}

WORKERS = 2
#: More threads than requests that the faults hold: a worker answers Prometheus too.
THREADS = 20
#: A silent worker delays an answer by a second.
SCRAPE_INTERVAL = "2s"


def wait_until(condition: Callable[[], Any], what: str) -> None:
    """Call ``condition`` until it is true; Prometheus takes its time."""
    servers.wait_until(condition, what, 60)


class Exporter(http.server.BaseHTTPRequestHandler):
    """postgres_exporter, as far as the alerts read it."""

    server_address = ""
    max_connections = 10_000

    def do_GET(self) -> None:
        labels = f'server="{self.server_address}"'
        line = f"pg_settings_max_connections{{{labels}}} {self.max_connections}\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(line.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def exporting(server: Server) -> Iterator[tuple[int, type[Exporter]]]:
    """Run an exporter for a PostgreSQL; give its port, and what it answers."""
    address = {"server_address": f"{server.host}:{server.port}"}
    answers: Any = type("OfServer", (Exporter,), address)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), answers) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            yield site.server_port, answers
        finally:
            site.shutdown()
            thread.join()


class Site:
    """The sandbox with a pool for each fault, and Prometheus."""

    def __init__(self, dsn: str, directory: Path) -> None:
        self.dsn = dsn
        self.control = directory / "control"
        self.env = environment(dsn, control_dir=str(self.control), library=LIBRARY)
        self.env["DJANGO_SETTINGS_MODULE"] = "tests.grafana.settings"
        self.server = GunicornServer(
            self.env, directory / "log", workers=WORKERS, threads=THREADS
        )
        self.prometheus: Prometheus
        self.exporter: type[Exporter]

    def get(self, path: str) -> int:
        """Request a page, and return the status of the answer."""
        return self.ask(path)[0]

    def ask(self, path: str) -> tuple[int, bytes]:
        """Request a page, and return the status and the body of the answer."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.server.port, timeout=60
        )
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def command(self, *words: str) -> None:
        done = manage(self.env, *words)
        assert done.returncode == 0, done.stdout + done.stderr

    def pools(self) -> list[dict[str, Any]]:
        """Return the report of every pool of every worker."""
        return [
            pool
            for answer in survey(self.control, 10)
            for pool in (answer.reply or {}).get("pools", ())
        ]

    def open_every_pool(self) -> None:
        """Query on every alias until each worker has a pool for it."""
        for alias in ALIASES:

            def is_open(alias: str = alias) -> bool:
                if [p["alias"] for p in self.pools()].count(alias) == WORKERS:
                    return True
                self.get(f"/query/?alias={alias}")
                return False

            wait_until(is_open, f"each worker has a pool {alias}")

    def wait_until_scraped(self) -> None:
        """Wait until Prometheus has every pool of every worker, twice."""
        self.open_every_pool()
        pids = "|".join(str(answer.pid) for answer in survey(self.control, 10))
        scraped = f'count_over_time(db_client_connection_max{{pid=~"{pids}"}}[1m]) > 1'
        wait_until(
            lambda: len(self.prometheus.now(scraped)) == WORKERS * len(ALIASES),
            "every pool was scraped twice",
        )

    def fired_by_pool(self) -> dict[str, set[str]]:
        """Return the alerts that have fired so far for each pool."""
        fired = self.prometheus.fired()
        return {alias: {a for a, pool in fired if pool == alias} for alias in FAULTS}

    @contextmanager
    def traffic(self) -> Iterator[None]:
        """Request pages that use a connection of "default" for a moment."""
        page = Page("/", "</html>\n")
        running = Traffic("127.0.0.1", self.server.port, [page], threads=2, pause=0.05)
        running.start()
        try:
            yield
        finally:
            running.stop()


@pytest.fixture(scope="module")
def site(postgres: Server) -> Iterator[Site]:
    """Run the sandbox and Prometheus for the tests of this module."""
    with (
        TemporaryDirectory(prefix="dbpool-", dir="/tmp") as directory,
        fresh_database(postgres) as database,
        exporting(postgres) as exporter,
    ):
        site = Site(postgres.dsn(database), Path(directory))
        set_up(site.env)
        with site.server:
            site.open_every_pool()
            port, site.exporter = exporter
            targets = {
                "shop": f"127.0.0.1:{site.server.port}/dbpool/metrics",
                "postgres": f"127.0.0.1:{port}/metrics",
            }
            rules = re.sub(r"(?m)^    for: \w+$", "    for: 3s", ALERTS)
            assert rules.count("for: 3s") == len(alert_names())
            with prometheus(targets, rules, SCRAPE_INTERVAL) as site.prometheus:
                yield site
            print(site.server.last_words(60))


@contextmanager
def held(site: Site) -> Iterator[tuple[Callable[..., None], Callable[[str], None]]]:
    """Give functions that begin requests which hold connections, and end them.

    At the end of the block all of them end.
    """
    keys = {alias: str(number) for number, alias in enumerate(ALIASES)}
    connection = psycopg2.connect(site.dsn)
    connection.autocommit = True
    with ThreadPoolExecutor(THREADS) as clients:
        try:
            with connection.cursor() as cursor:
                for key in keys.values():
                    cursor.execute("SELECT pg_advisory_lock(%s)", [key])

            def begin(alias: str, number: int) -> None:
                for _ in range(number):
                    clients.submit(site.get, f"/hold/?alias={alias}&key={keys[alias]}")

            def end(alias: str) -> None:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_unlock(%s)", [keys[alias]])

            yield begin, end
        finally:
            connection.close()


@contextmanager
def without(thread: int, site: Site) -> Iterator[None]:
    """Stop a thread of a worker for the block, at a moment when it holds no lock."""
    while True:
        with stopped(thread):
            if all(answer.reply for answer in survey(site.control, 5)):
                yield
                return


def wait_for_data(site: Site, queries: dict[str, str], pool: str = ".*") -> None:
    """Wait until Prometheus has a number for each query."""
    left = dict(queries)

    def have_data() -> bool:
        for name, expr in list(left.items()):
            if site.prometheus.ever(filled_in(expr, pool), 60):
                del left[name]
        return not left

    try:
        wait_until(have_data, "every query has data")
    except AssertionError:
        pytest.fail(f"no data: {left}")


def test_every_alert_has_a_fault() -> None:
    assert set().union(*FAULTS.values(), OF_WORKERS) == set(alert_names())


def test_under_calm_traffic_every_panel_has_data_and_no_alert_fires(
    site: Site,
) -> None:
    with site.traffic():
        site.wait_until_scraped()
        # So that connections are opened, and closed.
        site.command("dbpool_drain", "--recycle", "--alias", "default", "--no-wait")
        wait_for_data(site, QUERIES, "default")
        used = "sum(rate(db_client_connection_use_time_seconds_count[10s]))"
        assert max(site.prometheus.ever(used, 60)[0]) > 1
    assert site.prometheus.fired() == set()


def test_a_killed_worker_leaves_the_figures_and_fires_no_alert(site: Site) -> None:
    workers = "dbpool_mw_worker_up"
    pids = {int(dict(labels)["pid"]) for labels in site.prometheus.now(workers)}
    killed = min(pids)
    with site.traffic():
        os.kill(killed, signal.SIGKILL)

        def is_replaced() -> bool:
            found = site.prometheus.now(workers)
            now = {int(dict(labels)["pid"]) for labels in found}
            return (
                killed not in now and len(now) == WORKERS and min(found.values()) == 1
            )

        wait_until(is_replaced, "another worker took its place")
    assert site.prometheus.fired() == set()


def test_each_fault_fires_its_alerts_and_no_other(site: Site) -> None:
    site.wait_until_scraped()
    with site.traffic(), held(site) as (hold, release):
        # One worker has all of its connections in use.
        hold("full", 1)
        # With two workers and one connection each, one of three requests waits.
        hold("queued", 3)
        hold("late", 3)
        hold("leaky", 1)
        hold("overdue", 1)
        site.get("/end/?alias=ended")
        assert site.get("/query/?alias=unreachable") == 503
        backends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        backends += " WHERE application_name = 'lost'"
        with psycopg2.connect(site.dsn) as connection, connection.cursor() as cursor:
            cursor.execute(backends)
            assert cursor.rowcount == WORKERS
        connection.close()
        site.get("/query/?alias=lost")
        site.exporter.max_connections = 20
        site.command("dbpool_drain", "--pause", "--alias", "paused", "--no-wait")
        site.command("dbpool_drain", "--alias", "draining", "--no-wait")

        before = {**FAULTS, "queued": FAULTS["queued"] - {"DbPoolWaitsLong"}}
        waited = "max(dbpool_mw_oldest_wait_seconds)"
        wait_until(
            lambda: (
                site.fired_by_pool() == before
                and max(site.prometheus.now(waited).values()) > 4
            ),
            "every fault fires its alerts, and a request waits for long",
        )
        release("queued")
        wait_until(
            lambda: site.fired_by_pool() == FAULTS, "a long wait fires its alert"
        )
        wait_for_data(site, QUERIES | MARKS)
        fullest = filled_in(QUERIES["Fullest pool, A"], "full")
        assert set(site.prometheus.now(fullest).values()) == {1.0}
    assert site.fired_by_pool() == FAULTS


def test_each_variable_offers_what_there_is(site: Site) -> None:
    site.wait_until_scraped()
    expected = {
        "job": ["shop"],
        "instance": [f"127.0.0.1:{site.server.port}"],
        "pool": sorted(ALIASES),
    }
    for name, query in VARIABLES.items():
        asked = re.fullmatch(r"label_values\((.*), (\w+)\)", filled_in(query))
        assert asked, query
        series, label = asked.groups()
        found = site.prometheus.get(f"label/{label}/values", **{"match[]": series})
        assert found == expected[name]


def test_a_worker_that_does_not_answer_fires_one_alert(site: Site) -> None:
    site.wait_until_scraped()
    before = site.prometheus.fired()
    silent = min(answer.pid for answer in survey(site.control, 10))
    os.kill(silent, signal.SIGSTOP)
    try:
        wait_until(lambda: site.prometheus.fired() != before, "an alert fires")
    finally:
        os.kill(silent, signal.SIGCONT)
    assert site.prometheus.fired() - before == {("DbPoolWorkerSilent", str(silent))}


def test_a_worker_whose_maintenance_hangs_fires_one_alert(site: Site) -> None:
    site.wait_until_scraped()
    before = site.prometheus.fired()
    found = json.loads(site.ask("/maintenance/")[1])
    with without(found["thread"], site), site.traffic():
        wait_until(lambda: site.prometheus.fired() != before, "an alert fires")
    pid = str(found["pid"])
    assert site.prometheus.fired() - before == {("DbPoolMaintenanceStuck", pid)}


def test_a_site_that_shows_no_figures_any_more_fires_one_alert(site: Site) -> None:
    site.wait_until_scraped()
    before = site.prometheus.fired()
    # It stays down: this is the last test of the module.
    site.server.stop()
    wait_until(lambda: site.prometheus.fired() != before, "an alert fires")
    assert site.prometheus.fired() - before == {("DbPoolNotScraped", "")}
