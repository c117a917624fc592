"""What goes wrong on Django's own pool, and doesn't on dbpool_mw.

Each test runs on both. On Django's own it shows that the test would find the fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec

import django
import pytest

from tests.library import only_psycopg
from tests.process.projects import Project

pytestmark = only_psycopg

DJANGOS = "Django's own"


@pytest.fixture(params=[DJANGOS, "dbpool_mw"])
def pool(request: pytest.FixtureRequest, project: Project) -> str:
    """Give the project the one pool or the other."""
    name: str = request.param
    if name != DJANGOS:
        project.settings |= {"DBPOOL_MW_MAX_CONNS": 2, "DBPOOL_MW_TIMEOUT": 1}
        # Threads outside of requests are pooled too, as they are by Django.
        project.options["default"] = {"ENGINE": "dbpool_mw.backends.postgresql"}
        return name
    if django.VERSION < (5, 1):
        pytest.skip("Django has a pool since 5.1")
    if find_spec("psycopg_pool") is None:
        pytest.skip("no psycopg_pool: pip install --group test")
    project.settings["INSTALLED_APPS"] = ["django.contrib.contenttypes"]
    project.settings["MIDDLEWARE"] = []
    options = {"min_size": 1, "max_size": 2, "timeout": 1.0}
    project.options["default"] = {"OPTIONS": {"pool": options}}
    return name


def test_threads_that_end_with_a_connection_take_no_place_along(project, pool):
    with project.gunicorn("--threads", "1") as server:
        for _ in range(4):
            server.get("/thread_ends/")
        if pool == DJANGOS:
            assert server.get("/facts/").status == 500
        else:
            assert server.get("/facts/").status == 200
            project.check_no_place_is_lost()


@pytest.mark.skipif(django.VERSION >= (6, 2), reason="mended in Django 6.2")
def test_error_pages_that_query_keep_no_connection_under_asgi(project, pool):
    with project.uvicorn() as server, ThreadPoolExecutor(4) as clients:
        for _ in range(3):
            list(clients.map(server.get, ["/fails/"] * 4))
        if pool == DJANGOS:
            assert server.get("/facts/").status == 500
        else:
            assert server.get("/facts/").status == 200
            project.check_no_place_is_lost()


def test_streams_that_break_keep_no_connection(project, pool):
    with project.uvicorn() as server:
        for _ in range(3):
            with suppress(HTTPException):
                server.get("/raises_in_stream/")
        if pool == DJANGOS:
            assert server.get("/facts/").status == 500
        else:
            assert server.get("/facts/").status == 200
            project.check_no_place_is_lost()


def test_streams_that_clients_leave_keep_no_connection(project, pool):
    # The one fault that Django's own pool doesn't have.
    with project.uvicorn() as server, ThreadPoolExecutor(4) as clients:
        for _ in range(3):
            list(clients.map(server.break_off, ["/async_rows/"] * 4))
        assert server.get("/facts/").status == 200


def test_slow_streams_keep_no_connection(project, pool):
    url = f"/slow_stream/?until={project.directory / 'until'}"
    with project.gunicorn("--threads", "4") as server, ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(
                closing(HTTPConnection("127.0.0.1", server.port, timeout=30))
            )
            client.request("GET", url)
            assert client.getresponse().read(2)
        assert server.get("/facts/").status == (500 if pool == DJANGOS else 200)


def test_what_a_request_set_reaches_no_other(project, pool):
    with project.gunicorn("--threads", "1") as server:
        before = server.get("/facts/")["timeout"]
        server.get("/leaves_session/")
        found = {server.get("/facts/")["timeout"] for _ in range(4)}
        assert found == ({before, "12345ms"} if pool == DJANGOS else {before})


FORK = """
import os
import django
django.setup()
from django.db import connection

def backend():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        found = cursor.fetchone()[0]
    connection.close()
    return found

backend()
read, write = os.pipe()
if not os.fork():
    os.write(write, str(backend()).encode())
    os._exit(0)
os.wait()
print(int(os.read(read, 100)) == backend())
"""


def test_a_child_shares_no_connection_that_was_opened_before_the_fork(project, pool):
    done = project.run("-W", "ignore::DeprecationWarning", "-c", FORK)
    assert done.stdout == f"{pool == DJANGOS}\n", done.stderr


#: The module of an ENGINE.
BY_TOKEN = """
from pathlib import Path

from django.db.backends.postgresql import base

class DatabaseWrapper(base.DatabaseWrapper):
    def get_connection_params(self):
        token = Path(__file__).with_name("token").read_text()
        return {**super().get_connection_params(), "password": token}
"""


@pytest.fixture
def role(project: Project) -> Iterator[str]:
    """Give a role that may log in."""
    with project.session() as cursor:
        cursor.execute("CREATE ROLE tokens LOGIN")
    yield "tokens"
    with project.session() as cursor:
        cursor.execute("DROP ROLE tokens")


def test_a_token_is_read_anew_for_each_connection(project, pool, role):
    directory = project.directory / "by_token"
    directory.mkdir()
    (directory / "base.py").write_text(BY_TOKEN)
    project.extra["PYTHONPATH"] = f"{project.directory}:{project.environ['PYTHONPATH']}"
    project.options["default"] |= {"ENGINE": "by_token", "USER": role}

    def renew(token: str) -> None:
        with project.session() as cursor:
            cursor.execute(f"ALTER ROLE {role} PASSWORD '{token}'")
        (directory / "token").write_text(token)

    renew("first")
    with project.gunicorn("--threads", "1") as server:
        assert server.get("/facts/").status == 200
        renew("second")
        project.terminate()
        status = server.get("/facts/").status
        assert status == (500 if pool == DJANGOS else 200)
