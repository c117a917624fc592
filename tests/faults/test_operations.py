"""Operators drain, pause, resume and recycle under traffic: no request fails."""

from __future__ import annotations

import random

import pytest

from dbpool_mw.control import protocol
from tests.control.query import ask_all
from tests.process.servers import wait_until
from tests.soak import soaked

VERBS = soaked(60)


def send(project, verb):
    """Send a verb to every worker, as the commands do."""
    request = protocol.request(verb)
    for answer in ask_all(project.control, request, 10):
        assert answer.reply is not None, answer.error


@pytest.mark.parametrize("seed", [1, 2])
def test_verbs_at_random_fail_no_request(under, project, figures, seed):
    project.settings["DBPOOL_MW_TIMEOUT"] = 20
    chance = random.Random(seed)
    with under.traffic(clients=10) as (_, traffic):
        for _ in range(VERBS):
            verb = chance.choice(["drain", "pause", "resume", "recycle", "recycle"])
            send(project, verb)
            traffic.done.wait(chance.uniform(0, 0.1))
        send(project, "resume")
        traffic.wait_for_200(100)
    assert set(traffic.counts) == {200}
    figures.add(f"{VERBS} verbs at random (seed {seed})", under, traffic)


def test_a_failover_behind_a_pause_fails_no_request(under, project, figures):
    project.settings["DBPOOL_MW_TIMEOUT"] = 30
    with under.traffic() as (_, traffic):
        paused = project.manage("dbpool_drain", "--pause")
        assert paused.returncode == 0, paused.stderr
        wait_until(lambda: project.backends() == [], "no connection is left")
        project.databases.server.restart()
        assert project.manage("dbpool_drain", "--resume").returncode == 0
        traffic.wait_for_200(50)
        assert project.totals()["connect_errors"] == 0
    assert set(traffic.counts) == {200}
    figures.add("a failover: pause, restart, resume", under, traffic)
