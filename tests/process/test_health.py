"""Probes of real servers, while the pool is exhausted or the database is down."""

from __future__ import annotations

import time

import django
import pytest
from django.conf import settings

from tests.process.projects import Project, served
from tests.process.servers import Server, traffic, wait_until

#: A probe's default ``timeoutSeconds`` in Kubernetes.
PROBE_SECONDS = 1.0
CONTRIB = "django.contrib"


@pytest.fixture
def probed(project: Project) -> Project:
    return with_pages(project)


def with_pages(project: Project) -> Project:
    """Give a project with the pages, and settings that make other views query."""
    (project.directory / "probed_urls.py").write_text(
        "from django.urls import include, path\n"
        "from tests.process.project.urls import urlpatterns as others\n"
        "urlpatterns = [path('dbpool/', include('dbpool_mw.urls')), *others]\n"
    )
    project.extra["PYTHONPATH"] = f"{project.directory}:{project.environ['PYTHONPATH']}"
    project.options = {"default": {"ATOMIC_REQUESTS": True}}
    project.settings |= {
        "ROOT_URLCONF": "probed_urls",
        "DBPOOL_MW_MAX_CONNS": 2,
        "DBPOOL_MW_TIMEOUT": 20,
        "DBPOOL_MW_STUCK_AFTER": 1,
    }
    return project


def ask(server: Server, page: str) -> tuple[int, str]:
    """Return the status of a page, and its reasons or what else it says."""
    answer = server.get(f"/dbpool/{page}")
    assert answer.headers["Cache-Control"] == "no-store"
    assert ("Retry-After" in answer.headers) == (answer.status == 503)
    facts = answer.facts
    return answer.status, " ".join(facts.get("reasons", [facts["status"]]))


READY, LIVE = (200, "ready"), (200, "ok")


@pytest.mark.parametrize("asgi", [False, True])
def test_a_full_pool_is_ready_while_it_moves_and_unready_when_it_is_stuck(probed, asgi):
    with served(probed, asgi) as (server, clients):
        with probed.lock(9):
            held = [clients.submit(server.get, "/holds/?key=9")]
            probed.wait_for_lock(9)
            # Four clients share the one connection that is left.
            with traffic(server, clients=4):
                deadline = time.monotonic() + 3
                while time.monotonic() < deadline:
                    assert ask(server, "readyz") == READY
                    assert ask(server, "livez") == LIVE
            held.append(clients.submit(server.get, "/holds/?key=9"))
            probed.wait_for_lock(9, number=2)
            waiting = [clients.submit(server.get, "/facts/") for _ in range(2)]
            wait_until(
                lambda: ask(server, "readyz") == (503, "stuck"), "the pool is stuck"
            )
            assert ask(server, "livez") == LIVE
            assert server.get("/dbpool/readyz").headers["Retry-After"] == "20"
        for answer in (*held, *waiting):
            assert answer.result(20).status == 200
        assert ask(server, "readyz") == READY
        assert server.text().count("readyz answers 503: default is stuck") == 1


@pytest.mark.parametrize("asgi", [False, True])
def test_a_hundred_probes_of_an_exhausted_pool_take_no_connection(probed, asgi):
    with served(probed, asgi) as (server, clients), probed.session() as cursor:

        def sessions() -> tuple[int, set[int]]:
            """Return how many sessions the database has had, and those it has."""
            cursor.execute(
                "SELECT sessions, array(SELECT pid FROM pg_stat_activity"
                " WHERE datname = current_database()) FROM pg_stat_database"
                " WHERE datname = current_database()"
            )
            number, pids = cursor.fetchone()
            return number, set(pids)

        if cursor.connection.server_version < 140000:
            pytest.skip("pg_stat_database counts sessions since PostgreSQL 14")
        cursor.execute("SELECT pg_advisory_lock(9)")
        held = [clients.submit(server.get, "/holds/?key=9") for _ in range(2)]
        wait_until(lambda: probed.totals()["in_use"] == 2, "the pool is full")
        waiting = [clients.submit(server.get, "/facts/") for _ in range(2)]
        wait_until(lambda: probed.totals()["waiting"] == 2, "the pool is exhausted")
        before, checkouts = sessions(), probed.totals()["checkouts"]
        seconds = []
        for _ in range(100):
            for page in ("livez", "readyz"):
                began = time.monotonic()
                assert ask(server, page)[0] in (200, 503)
                seconds.append(time.monotonic() - began)
        # They were answered at once: no request has gone on meanwhile.
        assert max(seconds) < PROBE_SECONDS
        assert sessions() == before
        assert probed.totals()["checkouts"] == checkouts
        assert probed.totals()["waiting"] == 2
        cursor.execute("SELECT pg_advisory_unlock(9)")
        for answer in (*held, *waiting):
            assert answer.result(20).status == 200


@pytest.mark.parametrize("asgi", [False, True])
@pytest.mark.parametrize(
    ("words", "reason"), [(["--pause"], "paused"), ([], "draining")]
)
def test_an_order_makes_workers_unready_those_that_start_later_too(
    probed, words, reason, asgi
):
    with served(probed, asgi) as (server, _):
        assert server.get("/facts/").status == 200
        done = probed.manage("dbpool_drain", *words, "--for", "300")
        assert done.returncode == 0, done.stderr
        assert ask(server, "readyz") == (503, reason)
        assert ask(server, "livez") == LIVE
    with served(probed, asgi) as (server, _):
        # It reads the order in its first round of maintenance.
        wait_until(lambda: ask(server, "readyz") == (503, reason), reason)
        assert probed.totals()["size"] == 0
        assert probed.manage("dbpool_drain", "--resume").returncode == 0
        assert ask(server, "readyz") == READY


def test_without_a_database_a_process_is_live_and_ready(own_project):
    project = with_pages(own_project)
    with served(project, asgi=False) as (server, _):
        assert server.get("/facts/").status == 200
        project.databases.server.stop("immediate")
        assert server.get("/facts/").status == 503
        for _ in range(20):
            assert ask(server, "livez") == LIVE
            assert ask(server, "readyz") == READY


@pytest.mark.skipif(
    django.VERSION < (5, 1), reason="LoginRequiredMiddleware came with Django 5.1"
)
def test_a_project_whose_pages_need_a_login_answers_probes_without_one(probed):
    probed.settings |= {
        "INSTALLED_APPS": [
            *settings.INSTALLED_APPS,
            f"{CONTRIB}.auth",
            f"{CONTRIB}.sessions",
        ],
        "MIDDLEWARE": [
            *settings.MIDDLEWARE,
            f"{CONTRIB}.sessions.middleware.SessionMiddleware",
            f"{CONTRIB}.auth.middleware.AuthenticationMiddleware",
            f"{CONTRIB}.auth.middleware.LoginRequiredMiddleware",
        ],
    }
    with served(probed, asgi=False) as (server, _):
        assert server.get("/facts/").status == 302
        assert ask(server, "livez") == LIVE
        assert ask(server, "readyz") == READY
        probed.rest()
        assert probed.totals()["checkouts"] == 1
