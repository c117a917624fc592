"""dbpool_stats and dbpool_drain against workers that serve requests."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dbpool_mw.core import metrics
from tests import schema
from tests.process.projects import Project
from tests.process.servers import Server, traffic, wait_until


@pytest.fixture
def workers(project: Project) -> Iterator[Server]:
    """Run two workers of four threads, each of which served a request.

    A request checks a connection of both aliases out.
    """
    project.settings["DBPOOL_MW_EAGER"] = ("default", "replica")
    project.settings["DBPOOL_MW_ROUTES"] = 50
    # A paused request waits as long as two commands take to start, on a busy machine.
    project.settings["DBPOOL_MW_TIMEOUT"] = 30
    with project.gunicorn("--threads", "4", workers=2) as server:
        project.serve_by_all(server, 2)
        yield server


def held_backend(project: Project, path: str) -> int:
    """Return the backend pid of the connection to "default" that a request holds."""
    (holder,) = [h for h in project.holders(path) if h["alias"] == "default"]
    pid: int = holder["backend_pid"]
    return pid


def test_stats_show_a_row_for_each_worker_and_alias(workers, project):
    done = project.manage("dbpool_stats")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["PID", "ALIAS", "STATE", "SIZE"]
    assert len(lines) == 1 + 2 * 2 + 1
    for pid in project.pids():
        assert sum(line.split()[0] == str(pid) for line in lines) == 2
    assert lines[-1].startswith("total")
    one = project.pids()[0]
    done = project.manage("dbpool_stats", "--pid", str(one), "--alias", "default")
    assert len(done.stdout.splitlines()) == 2


def test_stats_count_what_the_workers_did(workers, project):
    before = project.settled()["checkouts"]
    for _ in range(20):
        workers.get("/facts/")
    assert project.settled()["checkouts"] == before + 20


def test_prometheus_output_names_every_worker(workers, project):
    text = project.manage("dbpool_stats", "--format", "prometheus").stdout
    for pid in project.pids():
        assert f'dbpool_mw_worker_up{{pid="{pid}"}} 1' in text
    assert "db_client_connection_count{" in text


def test_json_output_is_what_the_schemas_describe(workers, project):
    with ThreadPoolExecutor() as clients, project.lock(5):
        held = clients.submit(workers.get, "/holds/?key=5")
        project.wait_for_lock(5)
        done = project.manage("dbpool_stats", "--format", "json", "--holders")
        schema.check(json.loads(done.stdout), "dbpool_stats")
        done = project.manage("dbpool_drain", "--no-wait", "--format", "json")
        schema.check(json.loads(done.stdout), "dbpool_drain")
        (holder,) = [h for h in project.holders("/holds/") if h["alias"] == "default"]
        words = ["dbpool_drain", "--cancel", holder["id"], "--format", "json"]
        done = project.manage(*words)
        schema.check(json.loads(done.stdout), "dbpool_drain")
        assert held.result(20).status == 500
    done = project.manage("dbpool_drain", "--resume", "--format", "json")
    schema.check(json.loads(done.stdout), "dbpool_drain")
    done = project.manage("dbpool_stats", "--routes", "--format", "json")
    document = json.loads(done.stdout)
    schema.check(document, "dbpool_stats")
    assert document["routes"]
    done = project.manage("dbpool_stats", "--advise", "--format", "json")
    document = json.loads(done.stdout)
    schema.check(document, "dbpool_stats")
    assert {each["pools"] for each in document["advice"]["aliases"]} == {2}


def test_a_burst_is_in_the_peak_the_recent_figures_and_the_history(workers, project):
    with ThreadPoolExecutor() as clients, project.lock(6):
        held = [clients.submit(workers.get, "/holds/?key=6") for _ in range(4)]
        project.wait_for_lock(6, 4)
    assert [request.result(20).status for request in held] == [200] * 4

    def pools():
        answers = [r.reply for r in project.reports(history=True)]
        for reply in answers:
            for pool, history in zip(reply["pools"], reply["history"], strict=True):
                assert pool["alias"] == history["alias"]
                if pool["alias"] == "default":
                    yield pool, history

    def seen():
        counts = [(p["checkouts"], p["recent"]["900"]["checkouts"]) for p, _ in pools()]
        return all(all_of_them == recent for all_of_them, recent in counts)

    wait_until(seen, "the workers' loops have seen all requests")
    assert sum(pool["checkouts"] for pool, _ in pools()) >= 4
    assert sum(pool["in_use_peak"] for pool, _ in pools()) >= 4
    for pool, history in pools():
        recent = pool["recent"]["900"]
        assert recent["hold_seconds"] == {
            **pool["hold_seconds"],
            **metrics.with_summaries(pool["hold_seconds"]),
            "sum": pytest.approx(pool["hold_seconds"]["sum"]),
        }
        assert recent["in_use_peak"] == pool["in_use_peak"]
        values = zip(*history["rows"], strict=True)
        columns = dict(zip(history["columns"], values, strict=True))
        assert sum(columns["checkouts"]) == pool["checkouts"]
        assert max(columns["in_use_peak"]) == pool["in_use_peak"]
        assert list(columns["age"]) == sorted(columns["age"], reverse=True)
        assert min(columns["seconds"]) >= 0.5


def test_holders_have_the_request_and_its_backend_pid(workers, project):
    with ThreadPoolExecutor() as clients, project.lock(4):
        held = clients.submit(workers.get, "/holds/?key=4")
        project.wait_for_lock(4)
        done = project.manage("dbpool_stats", "--format", "json", "--holders")
        (holder,) = [
            holder
            for worker in json.loads(done.stdout)["workers"]
            for holder in worker["holders"]
            if holder["path"] == "/holds/" and holder["alias"] == "default"
        ]
        assert holder["method"] == "GET"
        assert holder["backend_pid"] in project.backends()
        table = project.manage("dbpool_stats", "--holders").stdout
        assert "GET /holds/" in table
        project.terminate([holder["backend_pid"]])
        held.result(20)


def test_a_drain_empties_the_pools_and_fails_no_request(workers, project):
    pooled = set(project.backends())
    with traffic(workers):
        done = project.manage("dbpool_drain")
        assert done.returncode == 0, done.stderr
        assert "Drained" in done.stdout
        wait_until(
            lambda: not pooled & set(project.backends()),
            "the old connections are closed",
        )
    wait_until(lambda: project.backends() == [], "nothing is kept")
    stats = project.settled()
    assert stats["size"] == 0
    assert stats["discarded"]["drained"] > 0
    assert project.manage("dbpool_drain", "--resume").returncode == 0
    workers.get("/facts/")
    assert project.settled()["size"] == 1


def test_a_pause_leaves_the_server_without_any_connection(workers, project):
    with traffic(workers) as statuses:
        done = project.manage("dbpool_drain", "--pause")
        assert done.returncode == 0, done.stderr
        assert project.backends() == []
        assert project.stats()["waiting"] > 0
        before = len(statuses)
        assert project.manage("dbpool_drain", "--resume").returncode == 0
        wait_until(lambda: len(statuses) > before, "requests go on")
    assert project.settled()["size"] > 0


def test_a_failover_makes_requests_wait_and_none_fail(own_project):
    project = own_project
    project.settings["DBPOOL_MW_TIMEOUT"] = 30
    with project.gunicorn("--threads", "4", workers=2) as server, traffic(server):
        assert project.manage("dbpool_drain", "--pause").returncode == 0
        project.databases.server.restart()
        assert project.manage("dbpool_drain", "--resume").returncode == 0


def test_a_request_that_holds_a_connection_gets_one_of_another_alias_in_a_pause(
    project,
):
    project.settings |= {"DBPOOL_MW_EAGER": (), "DBPOOL_MW_TIMEOUT": 30}
    with (
        project.gunicorn("--threads", "4") as server,
        ThreadPoolExecutor(2) as clients,
    ):
        with project.lock(9):
            request = clients.submit(server.get, "/holds_then_replica/?key=9")
            project.wait_for_lock(9)
            done = project.manage("dbpool_drain", "--pause", "--timeout", "0.1")
            assert done.returncode == 1
        # If the request waited for the resume, the pause would wait for the request.
        assert request.result(20).status == 200
        assert project.manage("dbpool_drain", "--pause").returncode == 0
        assert project.totals()["size"] == 0


def test_a_recycle_replaces_every_connection_under_traffic(workers, project):
    with traffic(workers):
        old = set(project.backends())
        done = project.manage("dbpool_drain", "--recycle")
        assert done.returncode == 0, done.stderr
        wait_until(
            lambda: not old & set(project.backends()), "the old connections are closed"
        )
    stats = project.settled()
    assert stats["size"] > 0
    assert stats["discarded"]["recycled"] > 0


def test_a_drain_that_runs_out_of_time_names_who_holds_what(workers, project):
    with ThreadPoolExecutor() as clients:
        with project.lock(6):
            held = clients.submit(workers.get, "/holds/?key=6")
            project.wait_for_lock(6)
            done = project.manage("dbpool_drain", "--timeout", "0.5")
            assert done.returncode == 1
            assert "GET /holds/" in done.stdout
            backend = held_backend(project, "/holds/")
            assert str(backend) in done.stdout
            assert "Not done after 0.5 s" in done.stderr
            done = project.manage("dbpool_drain", "--timeout", "0.5", "--format=json")
            assert done.returncode == 1
            assert json.loads(done.stdout)["done"] is False
            done = project.manage("dbpool_drain", "--no-wait")
            assert done.returncode == 0
            assert "not waiting" in done.stdout
            # The drain is confirmed and not done yet.
            assert backend in project.backends()
        assert held.result(20).status == 200
    assert project.manage("dbpool_drain").returncode == 0
    wait_until(lambda: backend not in project.backends(), "the connection is closed")


def test_a_drain_of_the_first_of_two_workers_leaves_the_other(workers, project):
    first, second = project.pids()
    assert project.manage("dbpool_drain", "--pid", str(first)).returncode == 0
    states = {
        report.pid: {pool["state"] for pool in report.reply["pools"]}
        for report in project.reports()
    }
    assert states == {first: {"draining"}, second: {"running"}}


def test_a_request_that_waits_through_a_pause_gets_its_connection(workers, project):
    assert project.manage("dbpool_drain", "--pause").returncode == 0
    with ThreadPoolExecutor() as clients:
        waiting = [clients.submit(workers.get, "/facts/") for _ in range(3)]
        wait_until(lambda: project.totals()["waiting"] == 3, "three wait")
        assert project.backends() == []
        done = project.manage("dbpool_drain", "--resume")
        assert done.returncode == 0
        assert {request.result(20).status for request in waiting} == {200}


def test_only_the_chosen_alias_is_drained(workers, project):
    assert project.manage("dbpool_drain", "--alias", "replica").returncode == 0
    assert project.stats("replica")["size"] == 0
    assert project.stats("default")["size"] > 0


def test_a_killed_worker_is_not_listed_and_its_replacement_is_drained(workers, project):
    assert project.manage("dbpool_drain").returncode == 0
    victim = project.pids()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(
        lambda: str(victim) not in project.manage("dbpool_stats").stdout,
        "the killed worker isn't listed",
    )
    project.serve_by_all(workers, 2)
    done = project.manage("dbpool_stats", "--format", "json")
    states = {
        worker["pid"]: {pool["state"] for pool in worker["pools"]}
        for worker in json.loads(done.stdout)["workers"]
    }
    assert victim not in states
    assert sorted(map(sorted, states.values())) == [["draining"], ["draining"]]


def test_a_regular_stop_closes_the_connections_and_removes_the_sockets(
    workers, project
):
    assert len(list(project.control.iterdir())) == 2
    assert workers.stop() == 0
    assert list(project.control.iterdir()) == []
    wait_until(lambda: project.backends() == [], "the connections are closed")
    done = project.manage("dbpool_stats")
    assert done.returncode == 3
    assert str(project.control) in done.stderr
    assert project.manage("dbpool_drain").returncode == 3


def test_uvicorn_ended_by_a_signal_is_not_listed_afterwards(project):
    with project.uvicorn() as server:
        assert server.get("/facts/").status == 200
        assert len(project.pids()) == 1
        server.stop()
        assert project.manage("dbpool_stats").returncode == 3
        assert list(project.control.iterdir()) == []


def test_management_commands_open_no_socket(project):
    for words in (
        ("check", "--database", "default"),
        ("migrate", "-v0"),
        ("shell", "-c", "from django.db import connection as c; c.cursor()"),
    ):
        done = project.manage(*words)
        assert done.returncode == 0, done.stderr
    assert not project.control.exists()


@pytest.mark.parametrize("options", [[], ["--noreload"]])
def test_runserver_is_a_worker_like_any_other(project, options):
    with project.runserver(*options) as server:
        backends = set()
        for _ in range(5):
            answer = server.get("/facts/")
            backends.add(answer["backend"])
            project.rest()
        assert len(backends) == 1
        # With the reloader the child process serves; its parent has no pool.
        assert project.pids() == [answer["pid"]]
        assert (answer["pid"] == server.process.pid) is bool(options)


def test_workers_whose_control_sockets_are_removed_are_soon_seen_again(
    workers, project
):
    before = project.pids()
    shutil.rmtree(project.control)
    wait_until(lambda: project.pids() == before, "both workers opened new sockets")
    assert project.manage("dbpool_drain").returncode == 0
    assert project.backends() == []


def test_with_control_dir_false_no_socket_is_opened_and_nothing_is_logged(project):
    project.settings["DBPOOL_MW_CONTROL_DIR"] = False
    with project.gunicorn() as server:
        assert server.get("/facts/").status == 200
        threads = server.get("/threads/")["threads"]
        assert "dbpool_mw-maintenance" in threads
        assert "dbpool_mw-control" not in threads
        done = project.manage("dbpool_stats")
        assert done.returncode == 2
        assert "DBPOOL_MW_CONTROL_DIR is False" in done.stderr
        assert "control socket" not in server.text()


def test_stats_hide_the_passwords_in_the_arguments_of_a_worker(project):
    secrets = ["--env", "DB_PASSWORD=hunter2", "--env", "URL=a://me:hunter2@db"]
    with project.gunicorn(*secrets) as server:
        server.get("/facts/")
        text = project.manage("dbpool_stats", "--format", "json").stdout
        assert "--env DB_PASSWORD=*** --env URL=a://me:***@db" in text
        assert "hunter2" not in text
