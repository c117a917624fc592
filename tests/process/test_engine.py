"""The ENGINE without the middleware, under the common servers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.process.projects import Project
from tests.process.servers import Server, traffic, wait_until


@pytest.fixture
def engine(project: Project) -> Project:
    """Give the project with the ENGINE instead of the middleware, and a pool of two."""
    project.settings["MIDDLEWARE"] = []
    project.options["default"] = {
        "ENGINE": "dbpool_mw.backends.postgresql",
        "OPTIONS": {"MAX_CONNS": 2, "TIMEOUT": 15},
    }
    return project


@pytest.fixture(params=["sync", "gthread", "uvicorn"])
def server(request: pytest.FixtureRequest, engine: Project) -> Iterator[Server]:
    """Run the project on each kind of server, with one worker."""
    if request.param == "uvicorn":
        context = engine.uvicorn()
    elif request.param == "gthread":
        context = engine.gunicorn("--threads", "8")
    else:
        context = engine.gunicorn()
    with context as server:
        yield server


def test_requests_share_the_pool_and_lose_no_place(server, engine):
    with traffic(server, clients=8), ThreadPoolExecutor(4) as threads:
        paths = ["/fails/", "/missing/", "/closes/", "/leaves_session/", "/stream/"]
        for answer in threads.map(server.get, paths * 6):
            assert answer.status in (200, 404, 500)
            assert len(engine.backends()) <= 2
    totals = engine.settled()
    assert totals["max"] == 2
    assert totals["timeouts"] == totals["reclaimed"] == 0
    assert totals["checkouts"] > 60
    engine.check_no_place_is_lost()


def test_session_changes_of_a_request_reach_no_other_request(server, engine):
    fresh = server.get("/facts/")
    engine.rest()
    server.get("/leaves_session/")
    engine.rest()
    after = server.get("/facts/")
    assert after["backend"] == fresh["backend"]
    assert (after["zone"], after["timeout"]) == (fresh["zone"], fresh["timeout"])


def test_a_page_without_queries_checks_no_connection_out(server, engine):
    assert server.get("/nothing/")["connected"] is False
    assert engine.backends() == []


def test_a_drain_empties_the_pool(server, engine):
    assert server.get("/facts/").status == 200
    done = engine.manage("dbpool_drain")
    assert done.returncode == 0, done.stderr
    assert engine.totals()["size"] == 0
    wait_until(lambda: engine.backends() == [], "no connection is left")
    assert server.get("/facts/").status == 200


def test_a_command_on_the_engine_opens_no_socket(engine):
    assert engine.manage("migrate", "--verbosity", "0").returncode == 0
    assert engine.manage("dbpool_stats").returncode == 3
    assert not engine.control.exists()


@pytest.mark.parametrize("engine_too", [False, True])
def test_error_pages_of_every_kind_are_pooled_under_asgi(project, engine_too):
    if engine_too:
        project.options["default"] = {"ENGINE": "dbpool_mw.backends.postgresql"}
    with project.uvicorn() as server, ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            for path, status in [
                ("/missing/", 404),
                ("/nowhere/", 404),
                ("/fails/", 500),
            ]:
                answers = threads.map(server.get, [path] * 8)
                assert {answer.status for answer in answers} == {status}
                project.check_no_place_is_lost()
        assert project.settled()["reclaimed"] == 0


@pytest.fixture
def engine_alone(engine: Project) -> Project:
    """Give the project with the ENGINE, without the app in INSTALLED_APPS."""
    engine.settings["INSTALLED_APPS"] = [
        "django.contrib.contenttypes",
        "django.contrib.auth",
    ]
    return engine


def test_without_the_app_requests_share_the_pool_and_lose_no_place(engine_alone):
    with engine_alone.gunicorn("--threads", "8", "--preload", workers=2) as server:
        fresh = server.get("/facts/")
        with traffic(server, clients=8), ThreadPoolExecutor(4) as threads:
            paths = ["/fails/", "/missing/", "/closes/", "/leaves_session/", "/stream/"]
            for answer in threads.map(server.get, paths * 6):
                assert answer.status in (200, 404, 500)
        after = server.get("/facts/")
        assert (after["zone"], after["timeout"]) == (fresh["zone"], fresh["timeout"])
        assert len(engine_alone.pids()) == 2
        engine_alone.check_no_place_is_lost()
        assert engine_alone.totals()["reclaimed"] == 0
        assert server.stop() == 0
    wait_until(lambda: engine_alone.backends() == [], "no connection is left")
    assert not list(engine_alone.control.glob("*.sock"))


def test_without_the_app_error_pages_are_pooled_under_asgi(engine_alone):
    with engine_alone.uvicorn() as server, ThreadPoolExecutor(8) as threads:
        for path, status in [("/missing/", 404), ("/nowhere/", 404), ("/fails/", 500)]:
            answers = threads.map(server.get, [path] * 8)
            assert {answer.status for answer in answers} == {status}
        engine_alone.check_no_place_is_lost()
        assert engine_alone.totals()["reclaimed"] == 0
