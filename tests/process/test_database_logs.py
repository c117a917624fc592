"""A project's log handler that writes to the database, with real servers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.process.projects import Project
from tests.process.servers import Server, wait_until

HANDLER = {"class": "tests.process.project.logs.DatabaseHandler"}


@pytest.fixture(params=["gthread", "uvicorn"])
def server_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def logged(project: Project) -> Iterator[Project]:
    """Give the project with every record of INFO in the table ``log``."""
    project.settings["DBPOOL_MW_TIMEOUT"] = 3
    project.settings["LOGGING"] = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"db": HANDLER, "console": {"class": "logging.StreamHandler"}},
        "root": {"handlers": ["db", "console"], "level": "INFO"},
    }
    with project.session() as cursor:
        cursor.execute("CREATE TABLE log (logger text, message text, thread text)")
    yield project
    project.terminate()
    with project.session() as cursor:
        cursor.execute("DROP TABLE log")


def run(project: Project, kind: str) -> Server:
    if kind == "uvicorn":
        return project.uvicorn()
    return project.gunicorn("--worker-class", "gthread", "--threads", "4")


def records(project: Project, like: str = "%") -> list[tuple[str, str]]:
    with project.session() as cursor:
        cursor.execute("SELECT message, thread FROM log WHERE message LIKE %s", [like])
        found: list[tuple[str, str]] = cursor.fetchall()
        return found


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("lazy", [False, True])
def test_the_first_request_is_served_and_what_the_pool_logged_is_written(
    logged: Project, server_kind: str, most: int, lazy: bool
) -> None:
    logged.settings.update(
        DBPOOL_MW_MAX_CONNS=most, DBPOOL_MW_EAGER=() if lazy else ("default",)
    )
    with run(logged, server_kind) as server:
        for _ in range(3):
            assert server.get("/facts/").status == 200
            # The client has its answer a moment before the checkin.
            logged.rest()
        opened = records(logged, "default: opened a connection%")
        assert [text for text, _ in opened] == [
            f"default: opened a connection (1 of {most})"
        ]
        totals = logged.settled()
        assert (totals["opened"], totals["size"], totals["timeouts"]) == (1, 1, 0)
        logged.terminate()
        assert server.get("/facts/").status == 200
        # The checkout or the maintenance thread finds it dead, and logs that as well.
        assert len(records(logged, "default: opened a connection%")) == 2
        logged.settled()


@pytest.mark.parametrize("most", [1, 3])
def test_what_background_threads_log_is_written_and_they_hold_nothing_then(
    logged: Project, server_kind: str, most: int
) -> None:
    engine = "dbpool_mw.backends.postgresql"
    logged.options["default"] = {"ENGINE": engine}
    logged.settings.update(
        DBPOOL_MW_MAX_CONNS=most, DBPOOL_MW_LEAK_AFTER=0.5, DBPOOL_MW_EAGER=()
    )
    with run(logged, server_kind) as server:
        with logged.lock(7):
            holding = in_background(server, "/holds/?key=7")
            logged.wait_for_lock(7)
            wait_until(lambda: records(logged, "%is held for%"), "the leak is logged")
            (record,) = records(logged, "%is held for%")
            assert record[1] == "dbpool_mw-maintenance"
            assert [h["path"] for h in all_holders(logged)] == ["/holds/"]
        assert holding() == 200
        logged.rest()
        assert server.get("/facts/").status == 200
        drained = logged.manage("dbpool_drain")
        assert drained.returncode == 0
        wait_until(
            lambda: records(logged, "default: closed a connection: drained%"),
            "the close is logged",
        )
        wait_until(lambda: logged.backends() == [], "no connection is left")
        assert server.get("/facts/").status == 200
        logged.rest()


def test_a_refusal_is_a_503_that_is_logged(logged: Project, server_kind: str) -> None:
    logged.settings.update(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=0.3)
    # Django's own record of the response is not the pool's.
    django = {"handlers": ["console"], "propagate": False}
    logged.settings["LOGGING"]["loggers"] = {"django": django}
    with run(logged, server_kind) as server:
        with logged.lock(7):
            holding = in_background(server, "/holds/?key=7")
            logged.wait_for_lock(7)
            assert server.get("/facts/").status == 503
            assert records(logged, "503 for GET%")
        assert holding() == 200
        logged.settled()


def all_holders(project: Project) -> list[dict[str, Any]]:
    return [
        holder
        for report in project.reports(holders=True)
        for holder in (report.reply or {})["holders"]
    ]


def in_background(server: Server, path: str) -> Any:
    """Request a page in a thread; return a function that gives its status."""
    thread = ThreadPoolExecutor(1)
    future = thread.submit(server.get, path)
    thread.shutdown(wait=False)
    return lambda: future.result(30).status
