"""uWSGI, which loads the application in one process and forks the others in C."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from dbpool_mw.binding import uwsgi
from tests.documents import code_block
from tests.library import IS_PSYCOPG
from tests.process.projects import Project
from tests.process.servers import Server, wait_until

pytestmark = pytest.mark.skipif(
    find_spec("pyuwsgi") is None, reason="no pyuwsgi: pip install --group test"
)

#: A module that sets uWSGI's hook itself, after the application was loaded.
HOOKED = """
from tests.process.project.wsgi import application
import uwsgi
uwsgi.post_fork_hook = lambda: print("their own hook", flush=True)
"""

#: A module that uses uWSGI's own decorator.
DECORATED = """
from tests.process.project.wsgi import application
from dbpool_mw import warm_up
""" + code_block("docs/servers.rst", "postfork")


def ask_for(server: Server, number: int) -> tuple[str, int, int]:
    """Have a query select a value; return what came, the process and the backend."""
    sql = f"SELECT '{number}' FROM pg_sleep(0.01)"
    answer = server.get(f"/run/?sql={quote(sql)}")
    return answer["rows"][0][0], answer["pid"], answer["backend"]


def check_that_nothing_is_shared(project: Project, server: Server) -> set[int]:
    """Send requests to all workers at once; return the pids of those that answered."""
    with ThreadPoolExecutor(9) as clients:
        answers = list(clients.map(lambda n: ask_for(server, n), range(90)))
    assert [value for value, _, _ in answers] == [str(n) for n in range(90)]
    workers: dict[int, set[int]] = {}
    for _, pid, backend in answers:
        workers.setdefault(backend, set()).add(pid)
    assert {len(pids) for pids in workers.values()} == {1}
    return set().union(*workers.values())


@pytest.mark.parametrize(
    ("at_import", "options"),
    [
        ("query", ["--master"]),
        ("request", ["--master", "--threads", "2"]),
        ("request", []),
        ("request", ["--master", "--py-call-uwsgi-fork-hooks"]),
    ],
)
def test_no_connection_of_the_time_of_loading_is_shared(project, at_import, options):
    project.extra["TEST_AT_IMPORT"] = at_import
    with project.uwsgi(*options, workers=3) as server:
        served = check_that_nothing_is_shared(project, server)
        # Those that served nothing yet are seen too, and the master isn't.
        wait_until(lambda: len(project.pids()) == 3, "the commands see every worker")
        assert set(project.pids()) >= served
        assert (server.process.pid in project.pids()) == (not options)
        project.rest()
        assert server.stop() == (0 if options else 30)
    # Without a master, the other workers end after that process.
    wait_until(lambda: project.backends() == [], "no connection is left")


@contextmanager
def uwsgi_with(project: Project, module: str, *options: str) -> Iterator[Server]:
    """Run uWSGI with a module of a test's own, and a request at the import."""
    (project.directory / "module.py").write_text(module)
    project.extra["TEST_AT_IMPORT"] = "request"
    project.extra["PYTHONPATH"] = f"{project.directory}:{project.environ['PYTHONPATH']}"
    application = "module:application"
    with project.uwsgi("--master", *options, application=application) as server:
        yield server


def test_nothing_is_shared_where_the_project_replaces_the_hook(project):
    with uwsgi_with(project, HOOKED) as server:
        assert check_that_nothing_is_shared(project, server) <= set(project.pids())
        assert server.text().count("their own hook") == 2


def test_functions_of_the_project_run_after_the_fork(project):
    with uwsgi_with(project, DECORATED) as server:
        wait_until(lambda: project.totals()["size"] == 2, "each worker is warm")
        assert check_that_nothing_is_shared(project, server) <= set(project.pids())


#: A module that patches Python before Django is imported.
PATCHED = """
from gevent import monkey
monkey.patch_all()
{}
from tests.process.project.wsgi import application
"""

#: What psycopg2 needs beside it.
PSYCOGREEN = "from psycogreen.gevent import patch_psycopg; patch_psycopg()"


def test_greenlets_of_uwsgi_share_nothing(project):
    module = PATCHED.format("" if IS_PSYCOPG else PSYCOGREEN)
    with uwsgi_with(project, module, "--gevent", "20") as server:
        check_that_nothing_is_shared(project, server)
        wait_until(lambda: len(project.pids()) == 2, "the commands see every worker")
        project.rest()


@pytest.mark.parametrize(("worker", "times"), [(0, 1), (1, 1), (2, 0)])
def test_missing_threads_are_told_once(monkeypatch, caplog, worker, times):
    # Newer releases always run threads.
    older = SimpleNamespace(worker_id=lambda: worker, has_threads=0)
    monkeypatch.setitem(sys.modules, "uwsgi", older)
    uwsgi.warn_without_threads()
    assert caplog.text.count("uWSGI runs no threads between requests") == times
    assert caplog.text.count("enable-threads = true") == times
