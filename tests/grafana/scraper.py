"""A private Prometheus that scrapes a site, and what it is asked."""

from __future__ import annotations

import http.client
import json
import math
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from sandbox.postgres import machine
from sandbox.postgres.watchdog import Watchdog
from tests.process.servers import wait_until

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
STOP_SECONDS = 30.0

needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None,
    reason="no prometheus and promtool on PATH. On Debian, root can install them with "
    ".ci/debian.",
)


class Prometheus:
    """Prometheus' HTTP API."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, **parameters: object) -> Any:
        """Return the data that the API answers with."""
        asked = f"/api/v1/{path}?{urlencode(parameters, doseq=True)}"
        answer = json.loads(self._ask(asked)[1])
        assert answer["status"] == "success", (asked, answer)
        return answer["data"]

    def is_ready(self) -> bool:
        """Tell whether Prometheus scrapes and answers."""
        try:
            return self._ask("/-/ready")[0] == 200
        except OSError:
            return False

    def _ask(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def now(self, expr: str) -> dict[frozenset[tuple[str, str]], float]:
        """Return the value of each series of an expression, by its labels."""
        found = self.get("query", query=expr)["result"]
        return {
            frozenset(series["metric"].items()): float(series["value"][1])
            for series in found
        }

    def ever(self, expr: str, seconds: float = 600) -> list[list[float]]:
        """Return the values of each series in the last ``seconds``, without NaN."""
        now = time.time()
        found = self.get(
            "query_range", query=expr, start=now - seconds, end=now, step=1
        )
        values = [[float(v) for _, v in series["values"]] for series in found["result"]]
        return [kept for v in values if (kept := [x for x in v if not math.isnan(x)])]

    def fired(self) -> set[tuple[str, str]]:
        """Return what has fired so far: alerts, and their pools or else instances."""
        now = time.time()
        found = self.get(
            "query_range",
            query='ALERTS{alertstate="firing"}',
            start=now - 600,
            end=now,
            step=0.5,
        )
        fired = [series["metric"] for series in found["result"]]
        pool = "db_client_connection_pool_name"
        return {(f["alertname"], f.get(pool, f.get("pid", ""))) for f in fired}


@contextmanager
def prometheus(
    targets: dict[str, str], rules: str, interval: str
) -> Iterator[Prometheus]:
    """Run Prometheus for the block; it ends with this process too.

    ``targets`` are the metrics' addresses by job, as host:port/path; ``rules`` is the
    text of a rule file; ``interval`` is the time between two scrapes.
    """
    assert PROMETHEUS is not None
    directory = machine.new_directory({})
    watchdog = Watchdog(directory)
    try:
        (directory / "rules.yml").write_text(rules)
        (directory / "prometheus.yml").write_text(_config(targets, interval))
        port = machine.free_port()
        command = [
            PROMETHEUS,
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        log = directory / "log"
        process = _start(command, log)
        watchdog.tell(process.pid)
        found = Prometheus(port)

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            return found.is_ready()

        try:
            wait_until(is_ready, "Prometheus is ready")
            yield found
        finally:
            process.kill()
            process.wait(STOP_SECONDS)
            watchdog.tell(None)
            print(log.read_text()[-4000:])
    finally:
        watchdog.release(STOP_SECONDS)


def _config(targets: dict[str, str], interval: str) -> str:
    """Return Prometheus' configuration; YAML has JSON in it."""
    jobs = []
    for job, address in targets.items():
        place, _, path = address.partition("/")
        static = [{"targets": [place]}]
        jobs.append(
            {"job_name": job, "metrics_path": f"/{path}", "static_configs": static}
        )
    return json.dumps(
        {
            "global": {
                "scrape_interval": interval,
                "scrape_timeout": interval,
                "evaluation_interval": "1s",
            },
            "rule_files": ["rules.yml"],
            "scrape_configs": jobs,
        }
    )


def _start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
