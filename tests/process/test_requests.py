"""Requests on pooled connections, under the common servers."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.library import CLOSED
from tests.process.projects import Project
from tests.process.servers import Server, wait_until

KINDS = ["sync", "gthread", "uvicorn"]


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, project: Project) -> Iterator[Server]:
    """Run the project on each kind of server, with one worker."""
    if request.param == "uvicorn":
        context = project.uvicorn()
    elif request.param == "gthread":
        context = project.gunicorn("--threads", "4")
    else:
        context = project.gunicorn()
    with context as server:
        yield server


@pytest.fixture
def pools_of_one(project: Project) -> None:
    """Allow each pool one connection. A test must name this before ``server``."""
    project.settings |= {"DBPOOL_MW_MAX_CONNS": 1, "DBPOOL_MW_TIMEOUT": 3}


def test_one_connection_serves_many_requests_in_turn(server, project):
    backends = set()
    for _ in range(10):
        backends.add(server.get("/facts/")["backend"])
        project.rest()
    assert len(backends) == 1
    assert project.settled()["opened"] == 1
    assert backends == set(project.backends())
    project.check_no_place_is_lost()


def test_a_page_without_queries_checks_a_connection_out_too(server, project):
    assert server.get("/nothing/").status == 200
    assert project.settled()["opened"] == 1


def test_close_in_a_view_is_a_checkin_and_the_next_query_checks_out_again(
    server, project
):
    for path in ("/closes/", "/closes_old/"):
        answer = server.get(path)
        assert answer["between"] is True
        assert answer["before"] == answer["backend"]
        project.rest()
    assert project.settled()["opened"] == 1


def test_close_in_atomic_really_closes_and_the_next_query_gets_another(server, project):
    answer = server.get("/closes_in_atomic/")
    assert answer["failed"] in (CLOSED, "TransactionManagementError")
    assert project.settled()["discarded"] == {"closed in atomic()": 1}


def test_a_500_page_that_queries_loses_no_place(server, project):
    for path in ("/fails/", "/fails_async/", "/fails_twice/") * 3:
        answer = server.get(path)
        assert answer.status == 500
        assert answer["page"] == 500
        project.rest()
    stats = project.settled()
    assert stats["size"] == 1
    assert stats["reclaimed"] == 0
    project.check_no_place_is_lost()


@pytest.mark.usefixtures("pools_of_one")
def test_an_error_page_needs_no_second_connection(server, project):
    for path in ("/fails/", "/fails_async/", "/fails_twice/", "/facts/"):
        answer = server.get(path)
        assert answer.status == (200 if path == "/facts/" else 500)
        assert answer["backend"]
        project.rest()
    assert project.settled()["timeouts"] == 0


def test_a_stream_holds_its_connection_until_its_end(server, project):
    for path in ("/stream/?rows=30", "/async_stream/?rows=30", "/async_rows/"):
        answer = server.get(path)
        assert answer.body.count(b"\n") >= 3
        project.rest()
    assert project.settled()["discarded"] == {}
    project.check_no_place_is_lost()


def test_the_connection_of_a_stream_broken_off_is_checked_in(server, project):
    for _ in range(3):
        server.break_off("/stream/?rows=2000")
        server.break_off("/async_stream/?rows=2000")
    # A server notices the disconnect when it writes, or at the next request.
    wait_until(
        lambda: server.get("/facts/").status == 200 and not project.in_use(),
        "every connection was checked in",
    )
    project.check_no_place_is_lost()


def test_the_connection_of_a_stream_that_raises_is_checked_in(server, project):
    for _ in range(3):
        # Servers differ in whether they cut the answer off or end it early.
        with suppress(http.client.HTTPException, OSError):
            assert server.get("/raises_in_stream/").body.count(b"\n") == 3
    wait_until(
        lambda: server.get("/facts/").status == 200 and not project.in_use(),
        "every connection was checked in",
    )
    project.check_no_place_is_lost()


def test_two_aliases_are_pooled_and_sqlite_is_not(server, project):
    first = server.get("/two/")
    project.rest()
    second = server.get("/two/")
    assert first["backend"] == second["backend"]
    assert first["replica"] == second["replica"]
    assert first["replica"] != first["backend"]
    assert first["local"] == "sqlite3" or first["local"].startswith("django")
    done = project.manage("dbpool_stats", "--format", "json", "--alias", "local")
    assert done.returncode == 2
    assert "default, replica" in done.stderr
    assert project.stats("replica")["opened"] == 1


def test_session_changes_of_a_request_are_undone_for_the_next_request(server, project):
    before = server.get("/facts/").facts
    project.rest()
    server.get("/leaves_session/")
    project.rest()
    after = server.get("/facts/").facts
    project.rest()
    assert after["backend"] == before["backend"]
    assert after["zone"] == before["zone"] == "UTC"
    assert after["timeout"] == before["timeout"]
    assert server.get("/lock_held/")["held"] == 0
    project.rest()
    answer = server.get(
        "/run/?sql=SELECT+count(*)+FROM+pg_class+WHERE+relname='left_behind'"
    )
    assert answer["rows"] == [[0]]
    assert project.settled()["resets"] == 1


def test_a_transaction_left_open_is_rolled_back(server, project):
    server.get("/run/?sql=BEGIN")
    project.rest()
    assert server.get("/facts/")["in_atomic"] is False
    assert project.settled()["rollbacks"] == 1
    assert "rolled back a transaction left open" in server.text()


def test_many_requests_at_once_stay_within_max_conns(server, project):
    with ThreadPoolExecutor(20) as clients:
        paths = ["/run/?sql=SELECT+1+FROM+pg_sleep(0.01)"] * 80
        answers = list(clients.map(server.get, paths))
    assert {answer.status for answer in answers} == {200}
    stats = project.settled()
    assert stats["size"] <= 10
    assert stats["checkouts"] == 80
    project.check_no_place_is_lost()


def test_an_async_view_and_the_async_orm_use_the_pool(server, project):
    backends = set()
    for _ in range(5):
        answer = server.get("/async_orm/")
        assert answer["right"] is True
        backends.add(answer["backend"])
        project.rest()
    assert len(backends) == 1
    assert project.settled()["opened"] == 1
    project.check_no_place_is_lost()


# --- Middleware and transactions around the view --------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_atomic_requests_commits_and_rolls_back(project, asynchronous):
    project.options["default"] = {"ATOMIC_REQUESTS": True}
    with project.session() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS notes (text text)")
        cursor.execute("TRUNCATE notes")
    context = project.uvicorn() if asynchronous else project.gunicorn("--threads", "2")
    with context as server:
        assert server.get("/facts/")["in_atomic"] is True
        server.get("/run/?sql=INSERT+INTO+notes+VALUES+('kept')")
        assert server.get("/atomic_fails/").status == 500
        answer = server.get("/run/?sql=SELECT+text+FROM+notes")
        assert answer["rows"] == [["kept"]]
        assert project.settled()["rollbacks"] == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_outer_middleware_may_query_after_the_response(project, asynchronous):
    pooling = "dbpool_mw.middleware.ConnectionPoolMiddleware"
    outer = "tests.process.project.middleware.queries_afterwards"
    for order in ([outer, pooling], [pooling, outer]):
        project.settings["MIDDLEWARE"] = order
        context = project.uvicorn() if asynchronous else project.gunicorn()
        with context as server:
            for path in ("/facts/", "/fails/", "/facts/", "/nothing/"):
                assert server.get(path).headers["X-Afterwards"]
                project.rest()
            assert project.settled()["size"] <= 2
            project.check_no_place_is_lost()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_exception_takes_no_connection_from_an_outer_atomic(project, asynchronous):
    project.settings["MIDDLEWARE"] = [
        "dbpool_mw.middleware.ConnectionPoolMiddleware",
        "tests.process.project.middleware.outer_atomic",
    ]
    with project.uvicorn() if asynchronous else project.gunicorn() as server:
        for path in ("/facts/", "/fails/", "/facts/"):
            assert server.get(path).headers["X-Same"] == "True"
            project.rest()
        assert project.settled()["opened"] == 1
        project.check_no_place_is_lost()


# --- EAGER, EXEMPT, no_pool, ENABLED -------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_lazy_checks_out_at_the_first_query(project, asynchronous):
    project.settings["DBPOOL_MW_EAGER"] = ()
    with project.uvicorn() if asynchronous else project.gunicorn() as server:
        assert server.get("/nothing/")["connected"] is False
        assert project.backends() == []
        backends = set()
        for _ in range(3):
            backends.add(server.get("/facts/")["backend"])
            project.rest()
        assert len(backends) == 1
        assert project.settled()["checkouts"] == 3
        # No query used the replica.
        assert len(project.backends()) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_pages_without_a_checkout_are_served_while_the_pool_is_exhausted(
    project, asynchronous
):
    project.settings |= {
        "DBPOOL_MW_MAX_CONNS": 1,
        "DBPOOL_MW_TIMEOUT": 0.2,
    }
    context = project.uvicorn() if asynchronous else project.gunicorn("--threads", "4")
    with context as server, ThreadPoolExecutor() as clients, project.lock(5):
        held = clients.submit(server.get, "/holds/?key=5")
        project.wait_for_lock(5)
        assert server.get("/nothing/").status == 503
        assert server.get("/exempt/").body == b"well"
        assert server.get("/no_database/").body == b"well"
        pids = [holder["backend_pid"] for holder in project.holders("/holds/")]
        project.terminate(pids)
        assert held.result(20).status == 500


def test_switched_off_it_leaves_django_as_it_is(project):
    project.settings["DBPOOL_MW_ENABLED"] = False
    with project.gunicorn() as server:
        backends = [server.get("/facts/")["backend"] for _ in range(3)]
        assert len(set(backends)) == 3
        assert project.manage("dbpool_stats").returncode == 3
