"""A pause or a drain reaches every worker: those that served, and those to come."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.process.projects import GEVENT, Project
from tests.process.servers import Server, traffic, wait_until


def children(pid: int) -> set[int]:
    """Return the processes that a process has forked."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return set(map(int, file.read().split()))


def wait_for_workers(project: Project, server: Server, number: int) -> list[int]:
    """Wait until as many workers of a gunicorn are seen, and nothing else is."""

    def seen() -> bool:
        pids = project.pids()
        return len(pids) == number and set(pids) == children(server.process.pid)

    wait_until(seen, f"exactly the {number} workers are seen")
    return project.pids()


def kept(project: Project) -> list[dict]:
    """Return the orders that dbpool_stats shows as kept."""
    done = project.manage("dbpool_stats", "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["orders"]


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """Stop processes during the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


# --- Who is seen ----------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["each loads", "preload"])
@pytest.mark.parametrize("threads", ["1", "4"])
def test_workers_are_seen_before_their_first_request(project, options, threads):
    project.extra["PYTHONWARNINGS"] = "always::DeprecationWarning"
    with project.gunicorn("--threads", threads, *options, workers=3) as server:
        wait_for_workers(project, server, 3)
        assert project.totals()["max"] == 0
        assert project.backends() == []
        # The master has no thread when it forks.
        assert "multi-threaded" not in server.text()
        assert server.stop() == 0
    assert list(project.control.iterdir()) == []


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["each loads", "preload"])
def test_gevent_workers_are_seen_before_their_first_request(project, options):
    first = "from gevent import monkey\nmonkey.patch_all()\n" if options else ""
    with project.gevent(*options, configuration=first + GEVENT, workers=2) as server:
        pids = wait_for_workers(project, server, 2)
        with traffic(server, clients=10):
            assert project.pids() == pids
        assert server.stop() == 0
    assert list(project.control.iterdir()) == []


def test_uvicorn_is_seen_before_its_first_request(project):
    with project.uvicorn() as server:
        wait_until(lambda: project.pids() == [server.process.pid], "it is seen")
        assert project.totals()["max"] == 0


@pytest.mark.parametrize("options", [[], ["--noreload"]])
def test_runserver_is_seen_before_its_first_request(project, options):
    with project.runserver(*options) as server:
        wait_until(lambda: len(project.pids()) == 1, "the process that serves is seen")
        assert (project.pids() == [server.process.pid]) is bool(options)


def test_a_worker_that_serves_forks_no_worker(project):
    with project.gunicorn("--threads", "2") as server:
        project.serve_by_all(server, 1)
        pids = project.pids()
        for _ in range(3):
            assert server.get("/forks/").status == 200
        assert project.pids() == pids


# --- A pause reaches all of them ------------------------------------------------------


def test_a_pause_reaches_workers_that_have_not_served_yet(project):
    project.settings["DBPOOL_MW_TIMEOUT"] = 0.5
    with project.gunicorn("--threads", "2", workers=3) as server:
        pids = wait_for_workers(project, server, 3)
        assert server.get("/facts/").status == 200
        done = project.manage("dbpool_drain", "--pause")
        assert done.returncode == 0, done.stderr
        assert "Paused: no connection is left in 3 workers" in done.stdout
        answers = [server.get("/facts/") for _ in range(12)]
        assert Counter(answer.status for answer in answers) == {503: 12}
        assert project.backends() == []
        assert project.pids() == pids
        assert project.manage("dbpool_drain", "--resume").returncode == 0
        assert server.get("/facts/").status == 200


@pytest.mark.parametrize("how", ["a crash", "a reload", "max_requests"])
def test_a_worker_that_starts_in_a_pause_is_paused_from_its_first_request(project, how):
    project.settings["DBPOOL_MW_TIMEOUT"] = 0.5
    options = ["--max-requests", "30"] if how == "max_requests" else []
    with project.gunicorn("--threads", "2", *options) as server:
        (old,) = wait_for_workers(project, server, 1)
        assert project.manage("dbpool_drain", "--pause").returncode == 0
        if how == "a crash":
            os.kill(old, signal.SIGKILL)
        elif how == "a reload":
            os.kill(server.process.pid, signal.SIGHUP)
        else:
            for _ in range(30):
                server.get("/exempt/")
        wait_until(lambda: old not in children(server.process.pid), "it has ended")
        assert {server.get("/facts/").status for _ in range(2)} == {503}
        assert project.backends() == []
        wait_until(lambda: project.pids() and old not in project.pids(), "it is seen")
        assert list(project.states().values()) == [{"paused"}]
        assert project.manage("dbpool_drain", "--resume").returncode == 0
        assert server.get("/facts/").status == 200
        assert kept(project) == []


def test_a_drained_server_that_is_restarted_is_drained_until_the_resume(project):
    with project.gunicorn("--threads", "2") as server:
        wait_for_workers(project, server, 1)
        done = project.manage("dbpool_drain")
        assert "also in workers that start meanwhile" in done.stdout
        assert server.stop() == 0
    with project.gunicorn("--threads", "2") as server:
        assert server.get("/facts/").status == 200
        assert list(project.states().values()) == [{"draining"}]
        wait_until(lambda: project.backends() == [], "nothing is pooled")
        assert "under a drain that is kept" in server.text()
        assert project.manage("dbpool_drain", "--resume").returncode == 0
        assert server.get("/facts/").status == 200
        assert project.settled()["size"] == 1


def test_an_order_without_any_worker_is_kept_and_shown(project):
    project.settings["DBPOOL_MW_TIMEOUT"] = 0.5
    done = project.manage("dbpool_drain", "--pause", "--alias", "default")
    assert done.returncode == 3
    assert "Kept for workers that start later:" in done.stderr
    assert "pause of default" in done.stderr
    with project.gunicorn() as server:
        assert server.get("/facts/").status == 503
        (order,) = kept(project)
        assert (order["verb"], order["aliases"]) == ("pause", ["default"])
        assert 0 < order["seconds_left"] <= 300


# --- The directory and its files are lost -------------------------------------------


def test_a_pause_whose_directory_is_lost_reaches_a_worker_that_starts_later(project):
    project.settings["DBPOOL_MW_TIMEOUT"] = 0.5
    with project.gunicorn("--threads", "2") as server:
        (old,) = wait_for_workers(project, server, 1)
        assert project.manage("dbpool_drain", "--pause", "--for", "100").returncode == 0
        shutil.rmtree(project.control)
        wait_until((project.control / "orders.json").exists, "it is written anew")
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: old not in children(server.process.pid), "it has ended")
        assert server.get("/facts/").status == 503
        assert project.backends() == []
        assert project.manage("dbpool_drain", "--resume").returncode == 0
        assert server.get("/facts/").status == 200


@pytest.mark.parametrize("lost", ["the sockets", "the directory"])
def test_a_drain_waits_for_a_worker_whose_socket_is_removed_meanwhile(project, lost):
    with ThreadPoolExecutor() as clients, project.gunicorn("--threads", "3") as server:
        project.serve_by_all(server, 1)
        with project.lock(5):
            request = clients.submit(server.get, "/holds/?key=5")
            project.wait_for_lock(5)
            command = clients.submit(project.manage, "dbpool_drain")
            wait_until(lambda: "draining" in str(project.states()), "it is drained")
            if lost == "the directory":
                shutil.rmtree(project.control)
            for path in project.control.glob("*.sock"):
                path.unlink()
            wait_until(lambda: len(project.pids()) == 1, "it is seen again")
            assert project.in_use() == 1
            assert not command.done()
        assert request.result().status == 200
        done = command.result()
        assert done.returncode == 0, done.stderr
        assert "ended" not in done.stderr
        assert "Drained: no pooled connection is left in 1 worker" in done.stdout


# --- It ends by itself ----------------------------------------------------------------


def test_a_pause_ends_by_itself_even_without_its_directory(project):
    project.settings["DBPOOL_MW_TIMEOUT"] = 30
    with project.gunicorn("--threads", "4") as server:
        project.serve_by_all(server, 1)
        done = project.manage("dbpool_drain", "--pause", "--for", "4")
        assert done.returncode == 0, done.stderr
        # A cleaner of /tmp comes by.
        for path in project.control.iterdir():
            path.unlink()
        project.control.rmdir()
        # However slow the commands were, this waits for the end of the pause at most.
        assert server.get("/facts/").status == 200
        assert "the pause has ended by itself, after 4 s" in server.text()


@pytest.mark.parametrize("end", ["its time", "a resume"])
def test_a_pause_that_ends_while_a_connection_is_in_use_is_not_done(project, end):
    seconds = "2" if end == "its time" else "100"
    with ThreadPoolExecutor() as clients, project.gunicorn("--threads", "3") as server:
        project.serve_by_all(server, 1)
        with project.lock(6):
            request = clients.submit(server.get, "/holds/?key=6")
            project.wait_for_lock(6)
            words = ("dbpool_drain", "--pause", "--for", seconds)
            command = clients.submit(project.manage, *words)
            if end == "a resume":
                wait_until(lambda: "paused" in str(project.states()), "it is paused")
                assert project.manage("dbpool_drain", "--resume").returncode == 0
            # It ends although the connection stays in use.
            done = command.result()
        assert request.result().status == 200
        assert done.returncode == 1, done.stderr
        assert "Paused" not in done.stdout
        assert "The pause has ended meanwhile" in done.stderr
        assert "with 1 stale connection open" in done.stderr


def test_stats_say_how_long_a_state_lasts(project):
    with project.gunicorn("--threads", "2") as server:
        project.serve_by_all(server, 1)
        assert project.manage("dbpool_drain", "--for", "100").returncode == 0
        done = project.manage("dbpool_stats", "--format", "json")
        (worker,) = json.loads(done.stdout)["workers"]
        lefts = [pool["state_seconds_left"] for pool in worker["pools"]]
        assert all(0 < left <= 100 for left in lefts)
        table = project.manage("dbpool_stats").stdout
        assert "draining, " in table
        assert "Kept for workers that start later:\n  drain of all aliases, " in table
        assert project.manage("dbpool_drain").returncode == 0
        done = project.manage("dbpool_stats", "--format", "json")
        (worker,) = json.loads(done.stdout)["workers"]
        assert [p["state_seconds_left"] for p in worker["pools"]] == [None]


# --- A server that hangs --------------------------------------------------------------


def test_a_pause_with_a_frozen_backend_says_what_is_open_and_never_no_answer(project):
    with project.gunicorn("--threads", "2", workers=2) as server:
        project.serve_by_all(server, 2)
        project.rest()
        backends = project.backends()
        with frozen(backends):
            done = project.manage("dbpool_drain", "--pause", "--timeout", "1")
            assert done.returncode in (0, 1), (done.stdout, done.stderr)
            assert "no answer" not in (done.stdout + done.stderr).lower()
            assert all(states == {"paused"} for states in project.states().values())
            assert project.manage("dbpool_stats").returncode == 0
        assert project.manage("dbpool_drain", "--pause").returncode == 0
        assert not set(backends) & set(project.backends())


# --- Who doesn't begin ----------------------------------------------------------------

LOADS = """
import threading
from django.core.wsgi import get_wsgi_application
from django.test import Client
from dbpool_mw.binding import registry
{first}
Client()
{load}
started = {{t.name for t in threading.enumerate()}} - {{"MainThread"}}
print(sorted(started))
registry.close()
"""
NO_POOLS = {"default": None, "replica": None}


@pytest.mark.parametrize(
    ("load", "settings", "said"),
    [
        ("", {}, "[]"),
        ("get_wsgi_application()", {}, "['dbpool_mw-maintenance']"),
        ("get_wsgi_application()", {"DBPOOL_MW_ENABLED": False}, "[]"),
        ("get_wsgi_application()", {"DBPOOL_MW_CONTROL_DIR": False}, "[]"),
        ("get_wsgi_application()", {"DBPOOL_MW_POOLS": NO_POOLS}, "[]"),
    ],
    ids=["a test client", "a server", "disabled", "no control directory", "no pool"],
)
def test_a_process_begins_when_it_loads_the_middleware(project, load, settings, said):
    project.settings |= settings
    done = project.manage("shell", "-c", LOADS.format(first="", load=load))
    assert done.stdout.splitlines()[-1] == said, done.stderr


def test_a_test_run_begins_nothing(project):
    first = "from django.test.utils import setup_test_environment as s; s()"
    script = LOADS.format(first=first, load="get_wsgi_application()")
    done = project.manage("shell", "-c", script)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_server_without_the_middleware_is_seen_from_its_first_request_on(project):
    project.settings["MIDDLEWARE"] = []
    project.options["default"] = {"ENGINE": "dbpool_mw.backends.postgresql"}
    with project.gunicorn("--threads", "2") as server:
        assert server.get("/nothing/").status == 200
        wait_until(lambda: len(project.pids()) == 1, "it is seen")
