"""What operators do, under traffic: no request fails because of it."""

from __future__ import annotations

import random
import threading

import pytest

from dbpool_mw.control import client, protocol
from tests.faults.conftest import MAX_CONNS
from tests.process.servers import wait_until


class Watch:
    """Look from the server's side how many connections the pools have at a time."""

    def __init__(self, project):
        self.project = project
        self.most = 0
        self.looks = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.look)

    def look(self):
        with self.project.session() as cursor:
            while not self.done.is_set():
                cursor.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname ="
                    " current_database() AND backend_type = 'client backend'"
                    " AND application_name <> 'dbpool_mw tests'"
                )
                self.most = max(self.most, cursor.fetchone()[0])
                self.looks += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join(20)


def tell(project, verb):
    """Send a verb to every worker, as the commands do."""
    request = protocol.request(verb)
    for answer in client.ask_all(project.control, request, 10):
        assert answer.reply is not None, answer.error


@pytest.mark.parametrize("seed", [1, 2])
def test_verbs_at_random(under, project, figures, seed):
    project.settings["DBPOOL_MW_TIMEOUT"] = 20
    chance = random.Random(seed)
    with under.traffic(clients=10) as (_, met), Watch(project) as watch:
        for _ in range(60):
            verb = chance.choice(["drain", "pause", "resume", "recycle", "recycle"])
            tell(project, verb)
            watch.done.wait(chance.uniform(0, 0.1))
        tell(project, "resume")
        met.good(100)
        assert watch.most <= MAX_CONNS * under.workers
        assert watch.looks > 100
    assert set(met.counts) == {200}
    with under() as _:
        pass
    figures.add(f"60 verbs at random (seed {seed})", under.name, met)


def test_a_failover_behind_a_pause(under, project, figures):
    project.settings["DBPOOL_MW_TIMEOUT"] = 30
    with under.traffic() as (_, met):
        paused = project.manage("dbpool_drain", "--pause")
        assert paused.returncode == 0, paused.stderr
        wait_until(lambda: project.backends() == [], "nobody is connected")
        project.databases.server.restart()
        assert project.manage("dbpool_drain", "--resume").returncode == 0
        met.good(50)
        project_totals = project.totals()
        assert project_totals["connect_errors"] == 0
    assert set(met.counts) == {200}
    figures.add("a failover: pause, restart, resume", under.name, met)
