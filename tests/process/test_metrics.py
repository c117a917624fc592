"""The page of metrics on real servers, in every state that it is there to show."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.process.projects import Project
from tests.process.servers import Answer, Server, wait_until

TOKEN = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PAGE = "/pool/metrics"


@pytest.fixture(autouse=True)
def _token(request: pytest.FixtureRequest) -> None:
    name = "own_project" if "own_project" in request.fixturenames else "project"
    project = request.getfixturevalue(name)
    project.settings["DBPOOL_MW_METRICS_TOKEN"] = TOKEN


def scrape(server: Server) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return the page's samples by their names: the labels and the value."""
    answer = server.get(PAGE, **BEARER)
    assert answer.status == 200, answer.body
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        assert family.type != "unknown", family
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(found: Any, name: str) -> float:
    return sum(value for _, value in found[name])


def up(found: Any) -> dict[int, float]:
    """Return for each worker whether it answered, by its pid."""
    return {int(labels["pid"]): value for labels, value in found["dbpool_mw_worker_up"]}


def states_of(pid: int) -> set[str]:
    """Return the letters of the states of a process's threads."""
    return {
        file.read_text().rpartition(")")[2].split()[0]
        for file in Path(f"/proc/{pid}/task").glob("*/stat")
    }


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process during the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        # Its threads end what they are at first.
        wait_until(lambda: states_of(pid) == {"T"}, "the process stands still")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_one_scrape_has_exactly_the_live_workers(project: Project) -> None:
    with project.gunicorn(workers=4) as server:
        project.serve_by_all(server, 4)
        pids = project.pids()
        assert up(scrape(server)) == dict.fromkeys(pids, 1)
        # Gunicorn can't start another in its place meanwhile.
        with stopped(server.process.pid):
            os.kill(pids[0], signal.SIGKILL)
            wait_until(
                lambda: list(up(scrape(server))) == pids[1:], "it is missing at once"
            )
            found = scrape(server)
            assert up(found) == dict.fromkeys(pids[1:], 1)
            assert {int(labels["pid"]) for labels, _ in found["dbpool_mw_state"]} == {
                *pids[1:]
            }


def test_a_silent_worker_is_down_and_the_others_are_not(project: Project) -> None:
    with project.gunicorn(workers=3) as server:
        project.serve_by_all(server, 3)
        pids = project.pids()
        for silent in pids:
            with stopped(silent):
                began = time.monotonic()
                found = scrape(server)
                # The deadline is 1 s, for all together.
                assert time.monotonic() - began < 10
                assert up(found) == {pid: float(pid != silent) for pid in pids}


def test_it_answers_while_every_connection_is_held_and_takes_none(
    project: Project,
) -> None:
    project.settings["DBPOOL_MW_MAX_CONNS"] = 2
    with (
        project.gunicorn("--threads", "6") as server,
        ThreadPoolExecutor(3) as clients,
        project.lock(7),
    ):
        held = [clients.submit(server.get, "/holds/?key=7") for _ in range(3)]
        project.wait_for_lock(7, 2)
        wait_until(lambda: project.totals()["waiting"] == 1, "the third waits")
        before = project.totals()["checkouts"]
        for _ in range(20):
            found = scrape(server)
        assert total(found, "db_client_connection_pending_requests") == 1
        assert total(found, "dbpool_mw_checkouts_total") == before
        assert project.totals()["checkouts"] == before
        # Were the page to take a connection, it would have waited for this.
        assert [client for client in held if client.done()] == []
        project.terminate()


def test_it_answers_while_postgresql_is_stopped(own_project: Project) -> None:
    with own_project.gunicorn("--threads", "2") as server:
        own_project.serve_by_all(server, 1)
        own_project.databases.server.stop()  # type: ignore[attr-defined]
        found = scrape(server)
        assert total(found, "dbpool_mw_worker_up") == 1
        assert server.get("/facts/").status == 503
        assert total(scrape(server), "dbpool_mw_connect_errors_total") > 0


def test_it_works_where_prometheus_client_keeps_files(
    project: Project, tmp_path: Any
) -> None:
    project.extra["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path)
    with project.gunicorn(workers=2) as server:
        project.serve_by_all(server, 2)
        pids = project.pids()
        for _ in range(100):
            assert list(up(scrape(server))) == pids
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["uvicorn", "gevent", "runserver"])
def test_it_works_on_other_servers(project: Project, name: str) -> None:
    with getattr(project, name)() as server:
        server.get("/facts/")
        wait_until(lambda: project.pids(), "the worker has a socket")
        found = scrape(server)
        assert list(up(found).values()) == [1]
        assert total(found, "dbpool_mw_checkouts_total") >= 1
        before = total(found, "dbpool_mw_checkouts_total")
        assert total(scrape(server), "dbpool_mw_checkouts_total") == before
        with ThreadPoolExecutor(8) as clients:
            several = list(clients.map(lambda _: scrape(server), range(40)))
        assert Counter(len(up(found)) for found in several) == {1: 40}


def test_it_begins_no_transaction_where_every_other_page_does(project: Project) -> None:
    project.options["default"] = {"ATOMIC_REQUESTS": True}
    with project.gunicorn() as server:
        wait_until(lambda: project.pids(), "the worker has a socket")
        server.get("/facts/")
        before = project.settled()["checkouts"]
        scrape(server)
        assert project.settled()["checkouts"] == before
        # A page that asks nothing is in a transaction.
        server.get("/exempt/")
        assert project.settled()["checkouts"] == before + 1


def test_who_may_see_it(project: Project) -> None:
    def status(**headers: str) -> int:
        return server.get(PAGE, **headers).status

    with project.gunicorn() as server:
        wait_until(lambda: project.pids(), "the worker has a socket")
        assert status(**BEARER) == 200
        assert status() == 403
        assert status(Authorization="Bearer wrong") == 403
        assert server.request("POST", PAGE, **BEARER).status == 405
        assert server.request("HEAD", PAGE, **BEARER).body == b""
    project.settings["DBPOOL_MW_METRICS_LOOPBACK"] = True
    with project.gunicorn() as server:
        wait_until(lambda: project.pids(), "the worker has a socket")
        assert status() == 200
        assert status(X_Forwarded_For="127.0.0.1") == 403


def with_users(project: Project) -> None:
    contrib = "django.contrib"
    project.settings |= {
        "INSTALLED_APPS": [
            "dbpool_mw",
            *(f"{contrib}.{app}" for app in ("contenttypes", "auth", "sessions")),
        ],
        "MIDDLEWARE": [
            "dbpool_mw.middleware.ConnectionPoolMiddleware",
            f"{contrib}.sessions.middleware.SessionMiddleware",
            f"{contrib}.auth.middleware.AuthenticationMiddleware",
        ],
    }
    done = project.manage("migrate", "--verbosity", "0")
    assert done.returncode == 0, done.stderr


#: Logs a user in, and prints the key of the session.
LOG_IN = """
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
user = User.objects.create_user("{name}", is_staff={is_staff})
session = SessionStore()
session[SESSION_KEY] = user.pk
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session.save()
print(session.session_key)
"""


def logged_in(project: Project, name: str, is_staff: bool) -> dict[str, str]:
    code = LOG_IN.format(name=name, is_staff=is_staff)
    done = project.manage("shell", "-c", code)
    assert done.returncode == 0, done.stderr
    return {"Cookie": f"sessionid={done.stdout.split()[-1]}"}


def test_staff_see_it_and_only_they_take_a_connection_for_it(project: Project) -> None:
    with_users(project)
    if django.VERSION >= (5, 1):
        project.settings["MIDDLEWARE"].append(
            "django.contrib.auth.middleware.LoginRequiredMiddleware"
        )
    staff = logged_in(project, "ann", is_staff=True)
    other = logged_in(project, "bob", is_staff=False)

    def get(**headers: str) -> Answer:
        return server.get(PAGE, **headers)

    with project.gunicorn() as server:
        wait_until(lambda: project.pids(), "the worker has a socket")
        assert get(**BEARER).status == 200
        assert get().status == 403
        assert project.totals()["checkouts"] == 0
        assert get(**staff).status == 200
        assert get(**other).status == 403
        assert project.settled()["checkouts"] == 2
