"""Real Celery workers, whose broker is a folder of files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.documents import code_block
from tests.process.projects import Project
from tests.process.servers import ROOT, end, wait_until

APP = "tests.process.project.tasks"
APPS: dict[str, list[str]] = {}
exec(code_block("docs/tasks.rst", "INSTALLED_APPS"), APPS)  # type: ignore[arg-type]

SEND = f"""
import sys, json
from {APP} import app
for name, *arguments in json.loads(sys.argv[1]):
    app.send_task(f"{APP}.{{name}}", args=arguments)
"""
SEND_AND_REVOKE = f"""
import sys
from {APP} import app
if sys.argv[1] == "send":
    app.send_task("{APP}.waits", task_id="revoked")
else:
    app.control.revoke("revoked", terminate=True)
"""


class Worker:
    """One `celery worker` with its children, and the events of its tasks."""

    def __init__(self, project: Project, pool: str, concurrency: int) -> None:
        self.project = project
        self.log = project.directory / "celery.log"
        self.command = [sys.executable, "-m", "celery", "-A", APP, "worker"]
        self.command += ["--pool", pool, "--concurrency", str(concurrency)]
        self.command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        self.command += ["--loglevel", "INFO"]

    def start(self) -> None:
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.project.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(lambda: " ready." in self.text(), "the worker is ready", 40)

    def kill(self) -> None:
        end(self.process)
        print(self.text()[-8000:])

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, *tasks: tuple[object, ...]) -> None:
        """Send tasks, each a name and its arguments."""
        self.run(SEND, json.dumps(tasks))

    def run(self, program: str, argument: str) -> None:
        """Run a program in the project's environment, in a process of its own."""
        subprocess.run(
            [sys.executable, "-c", program, argument],
            cwd=ROOT,
            env=self.project.environ,
            check=True,
            timeout=60,
        )

    def events(self) -> list[tuple[int, int, str]]:
        """Return the events: process, backend and kind."""
        with self.project.session() as cursor:
            cursor.execute("SELECT pid, backend, what FROM events ORDER BY at")
            return list(cursor.fetchall())

    def wait(self, **expected: int) -> list[tuple[int, int, str]]:
        """Wait for so many events of each kind, and until no connection is in use."""
        names = {key.replace("_", " "): number for key, number in expected.items()}
        wait_until(
            lambda: Counter(what for _, _, what in self.events()) == names,
            f"the events {names}",
            40,
        )
        self.project.rest()
        return self.events()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def ready(project: Project, tmp_path: Path) -> Project:
    """Give the project with the app of the documentation and a broker."""
    (tmp_path / "control").mkdir()
    project.extra["TEST_BROKER"] = str(tmp_path)
    project.settings |= {
        "INSTALLED_APPS": list(APPS["INSTALLED_APPS"]),
        "DBPOOL_MW_POOLS": {"replica": None},
        "DBPOOL_MW_MAX_CONNS": 3,
        "DBPOOL_MW_TIMEOUT": 20,
    }
    with project.session() as cursor:
        cursor.execute("DROP TABLE IF EXISTS events")
        cursor.execute(
            "CREATE TABLE events (at serial, pid int, backend int, what text)"
        )
    return project


@contextmanager
def celery(
    project: Project, pool: str, concurrency: int = 2, *options: str
) -> Iterator[Worker]:
    """Run a worker."""
    worker = Worker(project, pool, concurrency)
    worker.command += options
    try:
        worker.start()
        yield worker
    finally:
        worker.kill()


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_each_task_checks_one_connection_out_and_in(ready, pool):
    with celery(ready, pool, 8 if pool in ("threads", "gevent") else 2) as worker:
        # Nothing is connected to the database before the first task.
        seen = {"prefork": 2, "solo": 1}.get(pool, 0)
        wait_until(lambda: len(ready.pids()) == seen, "the processes are seen")
        assert ready.backends() == []
        worker.send(*[("notes", "first")] * 20)
        events = worker.wait(first=20)
        processes = {pid for pid, _, _ in events}
        backends = {backend for _, backend, _ in events}
        assert len(processes) == (2 if pool == "prefork" else 1)
        assert len(backends) <= 3
        totals = ready.settled()
        assert totals["checkouts"] == 20
        assert totals["opened"] == len(backends)
        assert totals["reclaimed"] == 0
        assert "celery" in ready.manage("dbpool_stats").stdout
        # Tasks that end in other ways, and a task inside another.
        worker.send(("fails",), ("retries",), ("calls",), ("leaves_session",))
        worker.wait(first=20, fails=1, tries=2, inner=1, same=1, left=1)
        worker.send(*[("looks",)] * 4)
        worker.wait(first=20, fails=1, tries=2, inner=1, same=1, left=1, timeout_0=4)
        totals = ready.settled()
        assert totals["reclaimed"] == totals["timeouts"] == 0
        assert totals["resets"] == 1
        ready.check_no_place_is_lost()


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_concurrent_tasks_share_the_pool_of_their_process(ready, pool):
    with celery(ready, pool, 10) as worker:
        with ready.lock(1):
            worker.send(*[("holds", 1)] * 10)
            ready.wait_for_lock(1, 3)
            wait_until(lambda: ready.totals()["waiting"] == 7, "the others wait")
            assert len(ready.backends()) == 3
            holders = [
                (holder["method"], holder["path"])
                for report in ready.reports(holders=True)
                for holder in (report.reply or {})["holders"]
            ]
            assert holders == [("task", f"{APP}.holds")] * 3
            table = ready.manage("dbpool_stats", "--holders").stdout
            assert f"task {APP}.holds" in table
        events = worker.wait(held=10)
        assert len({backend for _, backend, _ in events}) == 3
        assert ready.settled()["waits"] == 7
        assert ready.manage("dbpool_drain").returncode == 0
        assert ready.totals()["size"] == 0


def test_a_child_that_is_killed_takes_its_connections_with_it(ready):
    with celery(ready, "prefork") as worker:
        worker.send(("too_long",), ("exits",))
        wait_until(lambda: "Hard time limit" in worker.text(), "the kill")
        worker.send(*[("notes", "after")] * 6)
        worker.wait(begins=1, exits=1, after=6)
        ready.check_no_place_is_lost()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_warm_shutdown_leaves_no_connection_and_no_socket(ready, pool):
    with celery(ready, pool) as worker:
        worker.send(*[("notes", "one")] * 4)
        worker.wait(one=4)
        worker.process.terminate()
        assert worker.process.wait(30) == 0
        # Look before any command runs: a command removes the sockets of dead workers.
        assert list(ready.control.iterdir()) == []
        wait_until(lambda: ready.backends() == [], "no connection is left")
        assert ready.manage("dbpool_stats").returncode == 3


def test_children_come_and_go_and_the_parent_keeps_its_own_session(ready):
    ready.extra["TEST_PARENT_QUERIES"] = "1"
    with celery(ready, "prefork", 1, "--max-tasks-per-child", "2") as worker:
        worker.send(*[("notes", "one")] * 6)
        before, *events = worker.wait(before=1, one=6)
        assert len({pid for pid, _, _ in events} - {before[0]}) == 3
        assert len({backend for _, backend, _ in events} - {before[1]}) == 3
        # The last child is about to end; the others have closed their connections.
        wait_until(
            lambda: ready.backends() == [before[1]], "only the parent is connected"
        )
        worker.process.terminate()
        assert worker.process.wait(30) == 0
        assert worker.events()[-1] == (before[0], before[1], "behind")


def test_the_connection_of_a_task_that_a_signal_ends_is_checked_in(ready):
    with celery(ready, "prefork") as worker:
        worker.send(("waits_a_second",))
        wait_until(lambda: "Soft time limit" in worker.text(), "the limit is reached")
        ((_, backend, _),) = worker.wait(waits=1)
        totals = ready.settled()
        assert totals["reclaimed"] == 0
        # The child goes on, with its connection.
        assert ready.backends() == [backend]
        worker.run(SEND_AND_REVOKE, "send")
        wait_until(lambda: len(worker.events()) == 2, "the task waits")
        assert len(ready.holders(f"{APP}.waits")) == 1
        revoked, _, _ = worker.events()[-1]
        worker.run(SEND_AND_REVOKE, "revoke")
        # Celery may give a task to a child that is about to end.
        wait_until(lambda: not is_alive(revoked), "the child has ended")
        worker.send(*[("notes", "after")] * 4)
        worker.wait(waits=2, after=4)
        ready.check_no_place_is_lost()


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_with_the_engine_the_app_is_not_needed(ready, pool):
    ready.settings["INSTALLED_APPS"] = ["dbpool_mw"]
    ready.options["default"] = {"ENGINE": "dbpool_mw.backends.postgresql"}
    with celery(ready, pool, 8) as worker:
        worker.send(*[("notes", "one")] * 20, ("fails",))
        events = worker.wait(one=20, fails=1)
        assert len({backend for _, backend, _ in events}) <= 3
        totals = ready.settled()
        assert totals["checkouts"] == 21
        assert totals["reclaimed"] == 0
        ready.check_no_place_is_lost()
