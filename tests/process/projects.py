"""The test project on two databases: its servers, its commands and its connections."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2

from dbpool_mw.control import protocol
from dbpool_mw.control.client import Answer as Report
from dbpool_mw.core.metrics import merge
from tests.conftest import Databases
from tests.control.query import ask_all
from tests.documents import code_block
from tests.library import LIBRARY, PYTHONPATH
from tests.process.project import gunicorn_conf
from tests.process.servers import ROOT, Server, wait_until

MANAGE = str(ROOT / "tests" / "process" / "project" / "manage.py")
#: The application_name of the tests' sessions, which are not counted.
APPLICATION_NAME = "dbpool_mw tests"
GUNICORN = [sys.executable, "-m", "gunicorn", "--graceful-timeout", "10"]
APPLICATION = "tests.process.project.wsgi:application"
#: It is told where the virtual environment is, and to end at SIGTERM.
UWSGI = [str(Path(sys.executable).parent / "uwsgi"), "--die-on-term"]
UWSGI += ["--virtualenv", sys.prefix]
#: The gunicorn.conf.py of docs/gevent.rst.
GEVENT = code_block("docs/gevent.rst", f"gunicorn.conf.py, with {LIBRARY}\n")


class Project:
    """The test project on two databases: its environment, its commands."""

    def __init__(self, databases: Databases, directory: Path) -> None:
        self.databases = databases
        self.control = directory / "control"
        self.directory = directory
        self.settings: dict[str, Any] = {
            "DBPOOL_MW_CONTROL_DIR": str(self.control),
            # A request for this page tells whether a server is up, without a checkout.
            "DBPOOL_MW_EXEMPT": ["/exempt/"],
        }
        self.options: dict[str, Any] = {}
        self.extra: dict[str, str] = {}
        #: A command line that runs the servers; none when it is empty.
        self.run_by: list[str] = []

    @property
    def environ(self) -> dict[str, str]:
        """Return what a process of the project needs in its environment."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        # pytest-xdist sets the width of a terminal.
        clean.pop("COLUMNS", None)
        return {
            **clean,
            **self.databases.environ,
            "DJANGO_SETTINGS_MODULE": "tests.process.project.settings",
            "PYTHONPATH": PYTHONPATH,
            "PYTHONUNBUFFERED": "1",
            "TEST_SETTINGS": json.dumps(self.settings),
            "TEST_DATABASES": json.dumps(self.options),
            **self.extra,
        }

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a management command in a process of its own."""
        return self.run(MANAGE, *words)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments."""
        return subprocess.run(
            [sys.executable, *words],
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

    def reports(self, holders: bool = False, history: bool = False) -> list[Report]:
        """Return each worker's answer on its control socket, without a command."""
        request = protocol.request("stats", holders=holders, history=history)
        reports = ask_all(self.control, request, 10)
        return [report for report in reports if report.reply is not None]

    def pids(self) -> list[int]:
        """Return the worker processes that answer on their control sockets."""
        return sorted(report.pid for report in self.reports())

    def serve_by_all(self, server: Server, number: int) -> None:
        """Send requests until each of so many workers has opened its pools."""

        def have_served() -> bool:
            server.get("/facts/")
            served = [r for r in self.reports() if r.reply and r.reply["pools"]]
            return len(served) == number

        wait_until(have_served, f"{number} workers served a request")

    def states(self) -> dict[int, set[str]]:
        """Return the states of each worker's pools, by the worker's pid."""
        return {
            report.pid: {pool["state"] for pool in (report.reply or {})["pools"]}
            for report in self.reports()
        }

    def holders(self, path: str) -> list[dict[str, Any]]:
        """Return the connections that requests for a path hold right now."""
        return [
            holder
            for report in self.reports(holders=True)
            for holder in (report.reply or {})["holders"]
            if holder["path"] == path
        ]

    def in_use(self) -> int:
        """Return how many connections are in use or connecting, of all aliases."""
        totals = self.totals()
        return int(totals["in_use"] + totals["connecting"])

    def rest(self) -> None:
        """Wait until no connection is in use.

        A client has its answer a moment before the request's end, which is the checkin.
        """
        wait_until(lambda: self.in_use() == 0, "every connection was checked in")

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
            pool for report in self.reports() for pool in (report.reply or {})["pools"]
        ]
        return merge(pools)

    def check_no_place_is_lost(self, others: int = 0) -> None:
        """Wait until the server sees exactly the connections of the idle pools.

        ``others`` is the number of connections that were opened without a pool.
        """
        self.rest()
        # The server takes a moment to notice that a connection was closed.
        wait_until(
            lambda: len(self.backends()) == self.totals()["size"] + others,
            "the server sees exactly the connections of the pools",
        )

    @contextmanager
    def session(self) -> Iterator[Any]:
        """Give a cursor on the default database, in autocommit, for the test itself."""
        dsn = self.databases.server.dsn(self.databases.default)
        connection = psycopg2.connect(dsn, application_name=APPLICATION_NAME)
        connection.autocommit = True
        try:
            yield connection.cursor()
        finally:
            connection.close()

    def backends(self) -> list[int]:
        """Return the backends on both databases, without the tests' sessions."""
        return [pid for pid, _ in self._activity()]

    def doing(self) -> list[str]:
        """Return the states of those backends: "idle", "active" and so on."""
        return [state for _, state in self._activity()]

    def _activity(self) -> list[tuple[int, str]]:
        with self.session() as cursor:
            cursor.execute(
                "SELECT pid, state FROM pg_stat_activity WHERE datname IN (%s, %s)"
                " AND backend_type = 'client backend' AND application_name <> %s"
                " ORDER BY pid",
                [self.databases.default, self.databases.replica, APPLICATION_NAME],
            )
            found: list[tuple[int, str]] = cursor.fetchall()
            return found

    def terminate(self, pids: list[int] | None = None) -> None:
        """Have the server end backends, by default all, and wait for their end."""
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
        """Wait until ``number`` views wait for the lock."""

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
    def gunicorn(
        self, *options: str, configuration: str = "", workers: int = 1
    ) -> Iterator[Server]:
        """Run gunicorn, with what its configuration file is to begin with."""
        file = self.directory / "gunicorn.conf.py"
        file.write_text(configuration + Path(gunicorn_conf.__file__).read_text())
        command = [*GUNICORN, "--config", str(file), "--workers", str(workers)]
        command += [*options, APPLICATION, "--bind", "fd://{fd}"]
        with self.serve(command) as server:
            yield server

    @contextmanager
    def gevent(
        self, *options: str, configuration: str = GEVENT, workers: int = 1
    ) -> Iterator[Server]:
        """Run gunicorn's gevent worker, with the configuration of the documentation."""
        with self.gunicorn(
            *options, configuration=configuration, workers=workers
        ) as server:
            yield server

    @contextmanager
    def runserver(self, *options: str) -> Iterator[Server]:
        """Run Django's runserver."""
        command = [sys.executable, MANAGE, "runserver", *options, "{port}"]
        with self.serve(command, binds_itself=True) as server:
            yield server

    @contextmanager
    def uvicorn(self) -> Iterator[Server]:
        """Run uvicorn, one process."""
        command = [sys.executable, "-m", "uvicorn", "--log-level", "warning"]
        command += ["tests.process.project.asgi:application", "--fd", "{fd}"]
        with self.serve(command) as server:
            yield server

    @contextmanager
    def uwsgi(
        self, *options: str, workers: int = 2, application: str = APPLICATION
    ) -> Iterator[Server]:
        """Run uWSGI."""
        command = [*UWSGI, "--http-socket", "fd://{fd}", "--processes", str(workers)]
        command += ["--module", application, *options]
        with self.serve(command) as server:
            yield server

    def serve(self, command: list[str], binds_itself: bool = False) -> Server:
        """Run a server's command, in which {fd} or {port} says where it listens."""
        log = self.directory / "server.log"
        return Server([*self.run_by, *command], self.environ, log, binds_itself)


@contextmanager
def served(project: Project, asgi: bool) -> Iterator[tuple[Server, ThreadPoolExecutor]]:
    """Serve a project by uvicorn or by gunicorn with threads; give it with clients."""
    with (
        project.uvicorn() if asgi else project.gunicorn("--threads", "8") as server,
        ThreadPoolExecutor() as clients,
    ):
        yield server, clients
