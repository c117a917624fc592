"""Real servers on the test project, and the commands that look at them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg2

from dbpool_mw.control import client, protocol
from dbpool_mw.control.client import Answer as Report
from dbpool_mw.core.stats import merge
from tests.conftest import Databases

ROOT = Path(__file__).resolve().parent.parent.parent
MANAGE = str(ROOT / "tests" / "process" / "project" / "manage.py")
#: The application_name of the tests' own sessions; one that was closed may linger.
OURS = "dbpool_mw tests"
GUNICORN = [
    *(sys.executable, "-m", "gunicorn", "--graceful-timeout", "10"),
    *("--config", "python:tests.process.project.gunicorn_conf"),
]


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """Look again until something that another process does has come about."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.02)


class Project:
    """The test project on two databases: its environment, its commands."""

    def __init__(self, databases: Databases, directory: Path) -> None:
        self.databases = databases
        self.control = directory / "control"
        self.directory = directory
        self.settings: dict[str, Any] = {
            "DBPOOL_MW_CONTROL_DIR": str(self.control),
            # The page that tells whether a server is up takes no connection.
            "DBPOOL_MW_EXEMPT": ["/exempt/"],
        }
        self.options: dict[str, Any] = {}
        self.extra: dict[str, str] = {}

    @property
    def environ(self) -> dict[str, str]:
        """Return what a process of the project needs in its environment."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        return {
            **clean,
            **self.databases.environ,
            "DJANGO_SETTINGS_MODULE": "tests.process.project.settings",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "TEST_SETTINGS": json.dumps(self.settings),
            "TEST_DATABASES": json.dumps(self.options),
            **self.extra,
        }

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a management command from another process than any worker."""
        return subprocess.run(
            [sys.executable, MANAGE, *words],
            cwd=ROOT,
            env=self.environ,
            text=True,
            capture_output=True,
            timeout=60,
        )

    def stats(self, alias: str = "default") -> dict[str, Any]:
        """Return the totals that dbpool_stats gives for an alias."""
        done = self.manage("dbpool_stats", "--format", "json", "--alias", alias)
        assert done.returncode == 0, done.stderr
        totals: dict[str, Any] = json.loads(done.stdout)["totals"]
        return totals

    def reports(self, holders: bool = False) -> list[Report]:
        """Return what each worker says of itself; quicker than the command."""
        request = protocol.request("stats", holders=holders)
        reports = client.ask_all(self.control, request, 10)
        return [report for report in reports if report.reply is not None]

    def pids(self) -> list[int]:
        """Return the worker processes that answer on their control sockets."""
        return sorted(report.pid for report in self.reports())

    def holders(self, path: str) -> list[dict[str, Any]]:
        """Return what the requests for a path hold right now."""
        return [
            holder
            for report in self.reports(holders=True)
            for holder in (report.reply or {})["holders"]
            if holder["path"] == path
        ]

    def in_use(self) -> int:
        """Return how many connections of any alias are not at rest."""
        totals = self.totals()
        return int(totals["in_use"] + totals["connecting"])

    def rest(self) -> None:
        """Wait until no connection is in use.

        A client has its answer before the request's end, which gives them back.
        """
        wait_until(lambda: self.in_use() == 0, "every connection was given back")

    def settled(self) -> dict[str, Any]:
        """Wait until no connection is in use; return the totals then."""
        self.rest()
        found = self.stats()
        assert found["in_use"] == found["connecting"] == found["waiting"] == 0
        assert found["size"] == found["idle"]
        return found

    def totals(self) -> dict[str, Any]:
        """Return the totals of all workers and aliases; quicker than the command."""
        pools = [
            pool for each in self.reports() for pool in (each.reply or {})["pools"]
        ]
        return merge(pools)

    def check_no_place_is_lost(self) -> None:
        """Compare what the pools say, all at rest, with what the server sees."""
        self.rest()
        totals = self.totals()
        assert totals["size"] == totals["idle"]
        # The server takes a moment to notice that a connection was closed.
        wait_until(
            lambda: len(self.backends()) == totals["size"],
            f"the server sees the {totals['size']} connections of the pools alone",
        )

    @contextmanager
    def session(self) -> Iterator[Any]:
        """Give a cursor of our own on the default database, in autocommit."""
        dsn = self.databases.server.dsn(self.databases.default)
        connection = psycopg2.connect(dsn, application_name=OURS)
        connection.autocommit = True
        try:
            yield connection.cursor()
        finally:
            connection.close()

    def backends(self) -> list[int]:
        """Return what the server sees on both databases, less our own sessions."""
        with self.session() as cursor:
            cursor.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname IN (%s, %s)"
                " AND backend_type = 'client backend' AND application_name <> %s"
                " ORDER BY pid",
                [self.databases.default, self.databases.replica, OURS],
            )
            return [pid for (pid,) in cursor.fetchall()]

    def terminate(self, pids: list[int] | None = None) -> None:
        """End backends from the server's side, and wait for their end."""
        chosen = self.backends() if pids is None else pids
        with self.session() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(p) FROM unnest(%s::int[]) p", [chosen]
            )
        wait_until(lambda: not set(chosen) & set(self.backends()), "the backends ended")

    @contextmanager
    def lock(self, key: int) -> Iterator[None]:
        """Hold an advisory lock that the view ``holds`` waits for."""
        with self.session() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [key])
            yield

    def wait_for_lock(self, key: int, number: int = 1) -> None:
        """Wait until so many views wait for the lock."""

        def waiting() -> bool:
            with self.session() as cursor:
                cursor.execute(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                    " AND objid = %s AND NOT granted",
                    [key],
                )
                return bool(cursor.fetchone()[0] == number)

        wait_until(waiting, f"{number} views wait for lock {key}")

    @contextmanager
    def gunicorn(self, *options: str, workers: int = 1) -> Iterator[Server]:
        """Run gunicorn."""
        command = [*GUNICORN, "--workers", str(workers), *options]
        command += ["tests.process.project.wsgi:application"]
        with Server(self, [*command, "--bind", "fd://{fd}"]) as server:
            yield server

    @contextmanager
    def runserver(self, *options: str) -> Iterator[Server]:
        """Run Django's own server."""
        command = [sys.executable, MANAGE, "runserver", *options, "{port}"]
        with Server(self, command, binds_itself=True) as server:
            yield server

    @contextmanager
    def uvicorn(self) -> Iterator[Server]:
        """Run uvicorn, one process."""
        command = [sys.executable, "-m", "uvicorn", "--log-level", "warning"]
        command += ["tests.process.project.asgi:application", "--fd", "{fd}"]
        with Server(self, command) as server:
            yield server


class ServerEnded(Exception):
    """The server ended at its start; the text is its log."""


class Server:
    """One server process with its children; stopped by its process id."""

    def __init__(
        self, project: Project, command: list[str], binds_itself: bool = False
    ) -> None:
        self.log = project.directory / "server.log"
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = listener.getsockname()[1]
        fd = listener.fileno()
        if binds_itself:
            listener.close()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [word.format(fd=fd, port=self.port) for word in command],
                cwd=ROOT,
                env=project.environ,
                pass_fds=[] if binds_itself else [fd],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # From here on somebody listens as long as the server lives.
        listener.close()

    def __enter__(self) -> Server:
        try:
            wait_until(self._is_up, "the server answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            raise ServerEnded(self.text())
        try:
            self.get("/exempt/")
            return True
        except OSError:
            return False

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        # pytest shows it when the test failed.
        print(self.text()[-8000:])

    def stop(self) -> int:
        """End the server as an operator does; return its exit code."""
        self.process.terminate()
        return self.process.wait(20)

    def text(self) -> str:
        """Return what the server logged."""
        return self.log.read_text(errors="replace")

    def get(self, path: str, **headers: str) -> Answer:
        """Ask for a page on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        return Answer(response.status, dict(response.getheaders()), body)

    def break_off(self, path: str) -> None:
        """Ask for a page and go away after the first bytes of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert client.recv(1000)


class Answer:
    """One answer of a server."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def facts(self) -> dict[str, Any]:
        """Return what a view told as JSON."""
        assert self.headers["Content-Type"] == "application/json", self.body
        found: dict[str, Any] = json.loads(self.body)
        return found

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]


@contextmanager
def traffic(server: Server, path: str = "/facts/", clients: int = 6) -> Iterator[list]:
    """Ask for a page again and again; every answer must be 200."""
    done = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        while not done.is_set():
            statuses.append(server.get(path).status)

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask) for _ in range(clients)]
        try:
            wait_until(lambda: len(statuses) > 20, "the traffic flows")
            yield statuses
            before = len(statuses)
            wait_until(lambda: len(statuses) > before + 20, "the traffic flows still")
        finally:
            done.set()
        for each in asking:
            each.result(30)
    assert set(statuses) == {200}
