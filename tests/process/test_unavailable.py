"""Requests without a free connection wait, and then get a 503 with the reason."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import pytest
from django.conf import settings

from tests.documents import code_block
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


def test_the_wait_ends_in_503_and_the_log_has_the_reason(crowded, project):
    answer = crowded.get("/facts/")
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    # Clients must not see the pools and the paths of other requests; the log has them.
    assert b"default" not in answer.body
    assert b"/holds/" not in answer.body
    (line,) = [line for line in crowded.text().splitlines() if "503 for GET" in line]
    assert "503 for GET /facts/: pool 'default': no connection within 0.3 s" in line
    assert "1 in use, 0 idle and 0 connecting of at most 1" in line
    assert "held by GET /holds/ in thread" in line


def test_a_client_that_prefers_json_gets_json(crowded):
    answer = crowded.get("/facts/", Accept="application/json, text/plain")
    assert answer.status == 503
    assert answer["error"] == "unavailable"
    assert answer["retry_after"] == 1
    browser = crowded.get("/facts/", Accept="text/html,application/json;q=0.9")
    assert browser.headers["Content-Type"].startswith("text/html")


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
            assert "1) callers wait already" in server.text()
            assert not waits.done()
        assert held.result(20).status == waits.result(20).status == 200
        totals = project.settled()
        assert totals["refused"] == totals["refused_by_reason"]["max_waiting"] == 1


@pytest.mark.parametrize("lazy", [False, True])
def test_the_unavailable_view_of_the_project_answers(project, lazy):
    project.settings |= {
        "DBPOOL_MW_MAX_CONNS": 1,
        "DBPOOL_MW_TIMEOUT": 0.1,
        "DBPOOL_MW_EAGER": () if lazy else ("default",),
        "DBPOOL_MW_UNAVAILABLE_VIEW": "tests.process.project.busy.busy",
    }
    with project.gunicorn("--threads", "4") as server, ThreadPoolExecutor() as clients:
        with project.lock(9):
            held = clients.submit(server.get, "/holds/?key=9")
            project.wait_for_lock(9)
            answer = server.get("/facts/")
            assert answer.status == 503
            assert json.loads(answer.body) == {"busy": "default", "by": "PoolTimeout"}
            assert answer.headers["Retry-After"] == "1"
        assert held.result(20).status == 200


@pytest.mark.parametrize(
    ("asgi", "lazy", "path"),
    [
        *product([False, True], [False, True], ["/facts/"]),
        pytest.param(
            *(True, True, "/async_tasks/"),
            marks=pytest.mark.skipif(
                sys.version_info < (3, 11), reason="TaskGroup came with Python 3.11"
            ),
        ),
    ],
)
def test_nobody_gets_a_mail_or_an_event_for_a_503(project, asgi, lazy, path):
    project.settings |= {
        "DBPOOL_MW_MAX_CONNS": 1,
        "DBPOOL_MW_TIMEOUT": 0.1,
        "DBPOOL_MW_EAGER": () if lazy else ("default",),
    }
    project.extra["DJANGO_SETTINGS_MODULE"] = "tests.process.project.reporting"
    with (
        project.uvicorn() if asgi else project.gunicorn("--threads", "4") as server,
        ThreadPoolExecutor() as clients,
    ):
        # Sentry reports that Django refuses uvicorn's lifespan protocol.
        at_start = len(server.text())
        with project.lock(9):
            held = clients.submit(server.get, "/holds/?key=9")
            project.wait_for_lock(9)
            answers = list(clients.map(server.get, [path] * 10))
            assert [answer.status for answer in answers] == [503] * 10
            assert {answer.headers["Retry-After"] for answer in answers} == {"1"}
        assert held.result(20).status == 200
        log = server.text()[at_start:]
        assert f"503 for GET {path}" in log
        assert "Subject:" not in log
        assert "SENTRY EVENT" not in log
        assert "Service Unavailable" not in log
        # A view that fails shows that both would have come.
        assert server.get("/fails/").status == 500
        for report in ("Subject: ", "SENTRY EVENT"):
            wait_until(lambda it=report: it in server.text()[at_start:], report)


@pytest.mark.parametrize("asgi", [False, True])
def test_preflights_and_static_files_need_no_connection_and_the_503_has_all_headers(
    project, asgi
):
    documented: dict[str, Any] = {}
    exec(code_block("docs/unavailable.rst", "corsheaders"), documented)
    del documented["__builtins__"]
    (project.directory / "static").mkdir()
    (project.directory / "static" / "a.css").write_text("p { color: red }")
    project.settings |= documented
    project.settings |= {
        "INSTALLED_APPS": [
            *settings.INSTALLED_APPS,
            "corsheaders",
            "django.contrib.auth",
            "django.contrib.sessions",
            "django.contrib.messages",
        ],
        "STATIC_URL": "/static/",
        "STATIC_ROOT": str(project.directory / "static"),
        "DBPOOL_MW_MAX_CONNS": 1,
        "DBPOOL_MW_TIMEOUT": 0.1,
    }
    checked = project.manage("check", "--tag", "dbpool_mw", "--fail-level", "INFO")
    assert checked.returncode == 0, checked.stderr
    origin = {"Origin": "https://spa.example"}
    with (
        project.uvicorn() if asgi else project.gunicorn("--threads", "4") as server,
        ThreadPoolExecutor() as clients,
    ):
        with project.lock(9):
            held = clients.submit(server.get, "/holds/?key=9")
            project.wait_for_lock(9)
            preflight = server.request(
                "OPTIONS", "/facts/", Access_Control_Request_Method="GET", **origin
            )
            assert preflight.status == 200
            assert "GET" in preflight.headers["Access-Control-Allow-Methods"]
            assert server.get("/static/a.css").body == b"p { color: red }"
            refused = server.get("/facts/", **origin)
            assert refused.status == 503
            assert refused.headers["Retry-After"] == "1"
            for name, value in {
                "Access-Control-Allow-Origin": "https://spa.example",
                "Access-Control-Expose-Headers": "Retry-After",
                "X-Content-Type-Options": "nosniff",
            }.items():
                assert refused.headers[name] == value
        assert held.result(20).status == 200
        # The one checkout is that of /holds/.
        assert project.settled()["checkouts"] == 1


def test_requests_get_503_without_a_database_and_200_when_it_is_back(own_project):
    project, postgres = own_project, own_project.databases.server
    with project.gunicorn("--threads", "2") as server:
        assert server.get("/facts/").status == 200
        postgres.stop("immediate")
        answer = server.get("/facts/")
        assert answer.status == 503
        assert b"connect" not in answer.body
        assert "can't connect to the database" in server.text()
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
