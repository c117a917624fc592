"""Requests without a free connection wait, and then get a 503 with the reason."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.process.projects import Project
from tests.process.servers import ServerEnded, wait_until


@pytest.fixture(params=["wsgi", "asgi"])
def crowded(request: pytest.FixtureRequest, project: Project):
    """Give a server whose one connection is held by /holds/."""
    project.settings |= {"DBPOOL_MW_MAX_CONNS": 1, "DBPOOL_MW_TIMEOUT": 0.3}
    asgi = request.param == "asgi"
    with project.uvicorn() if asgi else project.gunicorn("--threads", "4") as server:
        with ThreadPoolExecutor() as clients:
            with project.lock(9):
                held = clients.submit(server.get, "/holds/?key=9")
                project.wait_for_lock(9)
                yield server
            assert held.result(20).status == 200
        assert project.settled()["size"] == 1


def test_the_wait_ends_in_503_with_the_reason(crowded, project):
    answer = crowded.get("/facts/")
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["Content-Type"].startswith("text/plain")
    text = answer.body.decode()
    assert "pool 'default': no connection within 0.3 s" in text
    # Clients must not see the paths of other requests; the log has them.
    assert "/holds/" not in text
    (line,) = [line for line in crowded.text().splitlines() if "503 for GET" in line]
    assert "503 for GET /facts/: pool 'default'" in line
    assert "1 in use, 0 idle and 0 connecting of at most 1" in line
    assert "held by GET /holds/ in thread" in line


def test_a_client_that_prefers_json_gets_json(crowded):
    answer = crowded.get("/facts/", Accept="application/json, text/plain")
    assert answer.status == 503
    assert answer["error"] == "unavailable"
    assert "no connection within" in answer["detail"]
    assert answer["retry_after"] == 1
    browser = crowded.get("/facts/", Accept="text/html,application/json")
    assert browser.headers["Content-Type"].startswith("text/plain")


def test_a_request_beyond_max_waiting_is_refused_at_once(project):
    project.settings |= {
        "DBPOOL_MW_MAX_CONNS": 1,
        "DBPOOL_MW_MAX_WAITING": 1,
        "DBPOOL_MW_TIMEOUT": 25,
    }
    with project.gunicorn("--threads", "4") as server, ThreadPoolExecutor() as clients:
        with project.lock(9):
            held = clients.submit(server.get, "/holds/?key=9")
            project.wait_for_lock(9)
            waits = clients.submit(server.get, "/facts/")
            wait_until(lambda: project.totals()["waiting"] == 1, "one waits")
            answer = server.get("/facts/")
            assert answer.status == 503
            assert "1) callers wait already" in answer.body.decode()
            assert not waits.done()
        assert held.result(20).status == waits.result(20).status == 200
        totals = project.settled()
        assert (totals["refused"], totals["timeouts"]) == (1, 0)


@pytest.mark.parametrize("lazy", [False, True])
def test_the_unavailable_view_of_the_project_answers(project, lazy):
    project.settings |= {
        "DBPOOL_MW_MAX_CONNS": 1,
        "DBPOOL_MW_TIMEOUT": 0.1,
        "DBPOOL_MW_LAZY": lazy,
        "DBPOOL_MW_UNAVAILABLE_VIEW": "tests.process.project.busy.busy",
    }
    with project.gunicorn("--threads", "4") as server, ThreadPoolExecutor() as clients:
        with project.lock(9):
            held = clients.submit(server.get, "/holds/?key=9")
            project.wait_for_lock(9)
            answer = server.get("/facts/")
            assert answer.status == 503
            assert json.loads(answer.body) == {"busy": "default", "by": "PoolTimeout"}
        assert held.result(20).status == 200


def test_requests_get_503_without_a_database_and_200_when_it_is_back(own_project):
    project, postgres = own_project, own_project.databases.server
    with project.gunicorn("--threads", "2") as server:
        assert server.get("/facts/").status == 200
        postgres.stop("immediate")
        answer = server.get("/facts/")
        assert answer.status == 503
        assert "can't connect to the database" in answer.body.decode()
        assert "refused" not in answer.body.decode()
        assert "Connection refused" in server.text()
        assert server.get("/no_database/").status == 200
        postgres.start()
        assert server.get("/facts/").status == 200
        assert project.settled()["connect_errors"] >= 1


def test_a_server_starts_without_a_database(own_project):
    project, postgres = own_project, own_project.databases.server
    postgres.stop("immediate")
    with project.gunicorn("--threads", "2") as server:
        assert server.get("/facts/").status == 503
        postgres.start()
        wait_until(lambda: server.get("/facts/").status == 200, "an answer with 200")


def test_wrong_settings_stop_the_server_at_its_start(project):
    project.settings["DBPOOL_MW_MAX_CONNS"] = "10"
    with pytest.raises(ServerEnded) as caught, project.gunicorn():
        pass
    text = str(caught.value)
    assert "DBPOOL_MW_MAX_CONNS must be a whole number, not '10'." in text
    assert "Environment variables are strings" in text
