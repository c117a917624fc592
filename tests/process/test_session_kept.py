"""A session that its request has changed stays with the request to its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import pytest

from tests.process.projects import Project
from tests.process.servers import Server


@pytest.fixture(params=["gthread", "uvicorn"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(project: Project, kind: str) -> Server:
    if kind == "uvicorn":
        return project.uvicorn()
    return project.gunicorn("--threads", "6")


@pytest.fixture
def server(project: Project, kind: str) -> Iterator[Server]:
    """Run the project on one connection."""
    project.settings |= {
        "DBPOOL_MW_POOLS": {"replica": None},
        "DBPOOL_MW_MAX_CONNS": 1,
        "DBPOOL_MW_TIMEOUT": 5,
    }
    with run(project, kind) as server:
        yield server


PAGES = {
    "/facts/": 200,
    "/missing/": 404,
    "/nowhere/": 404,
    "/fails/": 500,
    "/fails_async/": 500,
}


@pytest.mark.parametrize("pooled", [True, False])
def test_middleware_finds_its_session_after_every_error_as_without_a_pool(
    project, kind, pooled
):
    project.settings |= {
        "DBPOOL_MW_ENABLED": pooled,
        "DBPOOL_MW_MAX_CONNS": 1,
        "DBPOOL_MW_TIMEOUT": 5,
        "MIDDLEWARE": [
            "dbpool_mw.middleware.ConnectionPoolMiddleware",
            "tests.process.project.middleware.changes_session",
        ],
    }
    with run(project, kind) as server, ThreadPoolExecutor(5) as clients:
        for path, answer in zip(PAGES, clients.map(server.get, PAGES), strict=True):
            assert answer.status == PAGES[path]
            assert json.loads(answer.headers["X-Session"]) == ["42", True, True], path
            if pooled and answer.status != 200:
                assert answer["tenant"] == "42"
        if pooled:
            stats = project.settled()
            assert (stats["opened"], stats["timeouts"], stats["reclaimed"]) == (1, 0, 0)
            assert server.get("/facts/").status == 200


# --- A request inside of another -----------------------------------------------------


def nested(by: str, path: str, **parameters: str) -> str:
    page = "nests_async" if by.startswith("async") else "nests"
    query = {"by": by.removeprefix("async "), "path": path, **parameters}
    return f"/{page}/?{urlencode(query)}"


WAYS = ["handler", "client", "quiet", "async client", "async quiet"]


def check_that_holders_name_the_nested_request_and_then_the_outer(server, project):
    with ThreadPoolExecutor() as clients:
        for by in WAYS:
            with project.lock(6):
                with project.lock(5):
                    path = nested(by, "/holds/?key=5", key="6")
                    answer = clients.submit(server.get, path)
                    project.wait_for_lock(5)
                    assert len(project.holders("/holds/")) == 1
                project.wait_for_lock(6)
                outer = path.partition("?")[0]
                assert len(project.holders(outer)) == 1
                assert project.in_use() == 1
            assert answer.result(20)["changed"] == {}
            project.rest()


def test_a_nested_request_leaves_session_rows_and_backend_alone(server, project):
    check_that_holders_name_the_nested_request_and_then_the_outer(server, project)
    for by in WAYS:
        for path, status in {**PAGES, "/leaves_session/": 200}.items():
            answer = server.get(nested(by, path))
            raises = path.startswith("/fails") and by.endswith("client")
            assert answer["status"] == ("on purpose" if raises else status)
            # The nested page may change the session: that is so without a pool too.
            assert answer["changed"] == {}, (by, path)
            project.rest()
    stats = project.settled()
    assert (stats["opened"], stats["timeouts"], stats["reclaimed"]) == (1, 0, 0)
    project.check_no_place_is_lost()
