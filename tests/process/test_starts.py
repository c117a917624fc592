"""Servers and wrong settings; servers with the pools switched off, on any system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.process.projects import Project
from tests.process.servers import ServerEnded

#: What Python doesn't have on Windows, taken away from a process at its start.
NOT_POSIX = """
import os, select, signal, socket
socketpair, AF_UNIX = socket.socketpair, socket.AF_UNIX
socket.socketpair = lambda *arguments: socketpair(AF_UNIX)  # asyncio needs it
del os.fork, os.geteuid, os.register_at_fork, select.poll, socket.AF_UNIX
del signal.pthread_sigmask, signal.SIGBUS
"""

ENGINE = {"ENGINE": "dbpool_mw.backends.postgresql"}


def with_the_middleware(project: Project) -> None:
    pass


def with_an_engine(project: Project) -> None:
    project.settings["MIDDLEWARE"] = []
    project.options["default"] = dict(ENGINE)


def with_an_engine_alone(project: Project) -> None:
    with_an_engine(project)
    # A model without a name for its table is enough for Django to load the ENGINE.
    project.settings["INSTALLED_APPS"] = [
        "django.contrib.contenttypes",
        "django.contrib.auth",
    ]


def server_of(project: Project, kind: str) -> Any:
    if kind == "gunicorn":
        return project.gunicorn()
    if kind == "uvicorn":
        return project.uvicorn()
    return project.runserver("--noreload", "--skip-checks")


@pytest.mark.parametrize(
    "way", [with_the_middleware, with_an_engine, with_an_engine_alone]
)
@pytest.mark.parametrize(
    ("kind", "code"), [("gunicorn", 3), ("uvicorn", 1), ("runserver", 1)]
)
def test_a_server_refuses_to_start_on_what_check_calls_an_error(
    project, way, kind, code
):
    way(project)
    project.settings["DBPOOL_MW_MAX_CON"] = 5
    project.settings["DBPOOL_MW_POOLS"] = {"defualt": {}}
    project.options.setdefault("default", {})["CONN_MAX_AGE"] = 60
    with pytest.raises(ServerEnded) as caught, server_of(project, kind):
        pass
    log = str(caught.value)
    assert caught.value.code == code
    assert "ImproperlyConfigured: dbpool_mw can't work with these settings:" in log
    checked = project.manage("check").stderr
    for id, text in [
        ("E001", "DBPOOL_MW_MAX_CON is not a setting."),
        ("E009", "DBPOOL_MW_POOLS names the alias 'defualt'"),
        ("E014", "DATABASES['default'] has CONN_MAX_AGE = 60"),
    ]:
        assert f"(dbpool_mw.{id}) {text}" in log
        assert f"(dbpool_mw.{id}) {text}" in checked
    assert log.count("HINT: Did you mean DBPOOL_MW_MAX_CONNS?") >= 1
    assert project.backends() == []


def test_the_errors_of_check_are_in_the_log_word_for_word(project):
    project.settings["DBPOOL_MW_MAX_CON"] = 5
    project.settings["INSTALLED_APPS"] = [
        "dbpool_mw",
        "django.contrib.contenttypes",
    ]
    project.settings["MIDDLEWARE"] = [
        "dbpool_mw.middleware.ConnectionPoolMiddleware"
    ] * 2
    with pytest.raises(ServerEnded) as caught, project.gunicorn():
        pass
    log = str(caught.value)
    errors = project.manage("check").stderr.partition("ERRORS:\n")[2]
    errors = errors.partition("\n\nSystem check identified")[0]
    errors = errors.partition("\n\nWARNINGS:")[0]
    blocks = [block.removeprefix("?: ") for block in errors.split("?: ")[1:]]
    assert len(blocks) == 2
    for block in blocks:
        assert block.strip() in log


def test_the_middleware_without_the_app_refuses_to_start(project):
    project.settings["INSTALLED_APPS"] = ["django.contrib.contenttypes"]
    with pytest.raises(ServerEnded) as caught, project.gunicorn():
        pass
    log = str(caught.value)
    assert caught.value.code == 3
    assert "(dbpool_mw.E018) MIDDLEWARE has" in log
    assert "HINT: Add 'dbpool_mw' to INSTALLED_APPS" in log


def test_runserver_with_its_checks_stops_before_the_middleware(project):
    project.settings["DBPOOL_MW_MAX_CON"] = 5
    with pytest.raises(ServerEnded) as caught, project.runserver("--noreload"):
        pass
    log = str(caught.value)
    assert caught.value.code == 1
    assert "SystemCheckError" in log
    assert "(dbpool_mw.E001)" in log


def test_a_silenced_error_starts(project):
    project.settings["DBPOOL_MW_MAX_CON"] = 5
    project.settings["SILENCED_SYSTEM_CHECKS"] = ["dbpool_mw.E001"]
    with project.gunicorn() as server:
        assert server.get("/facts/").status == 200


# --- Switched off, and on a system without the means ----------------------------------


#: Requests under ASGI; uvicorn itself needs a Unix socket for the socket of a test.
_ASK = """
import asyncio, django
django.setup()
from django.test import AsyncClient

async def ask():
    client = AsyncClient(raise_request_exception=False)
    paths = ["/facts/", "/fails/", "/nowhere/"]
    print(*[(await client.get(path)).status_code for path in paths])

asyncio.run(ask())
"""


@pytest.fixture
def not_posix(project: Project, tmp_path: Path) -> Project:
    """Give the project on a Python that has only what Windows has."""
    (tmp_path / "sitecustomize.py").write_text(NOT_POSIX)
    project.extra["PYTHONPATH"] = f"{tmp_path}:{project.environ['PYTHONPATH']}"
    return project


@pytest.mark.parametrize("engine", [False, True])
def test_switched_off_it_serves_where_python_has_no_posix(not_posix, engine):
    not_posix.settings["DBPOOL_MW_ENABLED"] = False
    if engine:
        not_posix.options["default"] = {**ENGINE, "OPTIONS": {"MAX_CONNS": 2}}
    done = not_posix.manage("check")
    assert done.returncode == 0, done.stderr
    with not_posix.runserver("--noreload") as server:
        # Each request has a connection of its own, as Django has it.
        pids = {server.get("/facts/")["backend"] for _ in range(3)}
        assert len(pids) == 3
    done = not_posix.run("-c", _ASK)
    assert (done.returncode, done.stdout) == (0, "200 500 404\n"), done.stderr
    assert not not_posix.control.exists()


@pytest.mark.parametrize("way", [with_the_middleware, with_an_engine_alone])
def test_switched_on_it_refuses_once_and_clearly_where_python_has_no_posix(
    not_posix, way
):
    way(not_posix)
    done = not_posix.manage("check")
    assert done.returncode == 1
    assert done.stderr.count("(dbpool_mw.E020)") == 1
    assert "Traceback" not in done.stderr
    text = (
        "(dbpool_mw.E020) A pool needs os.geteuid, os.register_at_fork, select.poll, "
        "signal.pthread_sigmask, socket.AF_UNIX, which Python doesn't have here."
    )
    assert text in done.stderr
    with (
        pytest.raises(ServerEnded) as caught,
        not_posix.runserver("--noreload", "--skip-checks"),
    ):
        pass
    log = str(caught.value)
    assert caught.value.code == 1
    assert text in log
    assert "AttributeError" not in log
    done = not_posix.run("-c", _ASK)
    assert done.returncode == 1
    assert text in done.stderr


_LOOK = """
import atexit, json, os, sys, threading
hooks = []
register_at_fork, register = os.register_at_fork, atexit.register
def noting(**functions):
    hooks.extend(f"{kind} {f.__module__}" for kind, f in functions.items())
    register_at_fork(**functions)
def noting_exit(function, *arguments, **names):
    hooks.append(f"atexit {getattr(function, '__module__', None)}")
    return register(function, *arguments, **names)
os.register_at_fork, atexit.register = noting, noting_exit

import django
django.setup()
import asyncio, inspect
from django.core.handlers import asgi, base, exception, wsgi
from django.core.signals import request_started
from django.db import close_old_connections, connections
from django.test import Client, AsyncClient
from django.conf import settings
import django.core.signals, django.db.backends.signals, django.test.signals
from django.dispatch import Signal

def serve():
    for path in ("/facts/", "/nowhere/", "/fails/"):
        Client(raise_request_exception=False).get(path)
    async def ask():
        for path in ("/facts/", "/nowhere/", "/fails/"):
            await AsyncClient(raise_request_exception=False).get(path)
    asyncio.run(ask())

def whence(value):
    return [getattr(value, name, None) for name in ("__module__", "__qualname__")]

def code(value):
    found = getattr(value, "__code__", None)
    return found and f"{found.co_filename}:{found.co_firstlineno}"

serve()
found = {"handlers": {}, "signals": {}}
for module in (asgi, base, exception, wsgi):
    for name, value in vars(module).items():
        found["handlers"][f"{module.__name__}.{name}"] = code(value)
        if inspect.isclass(value):
            for inner, method in vars(value).items():
                found["handlers"][f"{module.__name__}.{name}.{inner}"] = code(method)
signals = [sys.modules[n] for n in list(sys.modules) if n.endswith(".signals")]
for module in signals:
    for name, value in vars(module).items():
        if isinstance(value, Signal):
            found["signals"][f"{module.__name__}.{name}"] = sorted(
                key[0] if isinstance(key[0], str) else str(whence(receiver()))
                for key, receiver, *_ in value.receivers
            )
found["hooks"] = sorted(hooks)
found["threads"] = [thread.name for thread in threading.enumerate()
                    if not thread.name.startswith(("asyncio", "ThreadPool"))]
connection = connections["default"]
kinds = set()
def note(execute, *arguments):
    kinds.add(type(connection.connection).__qualname__)
    return execute(*arguments)
with connection.execute_wrapper(note):
    Client().get("/facts/")
found["connection"] = sorted(kinds)
connection.ensure_connection()
found["on the wrapper"] = sorted(vars(connection))
handler = wsgi.WSGIHandler()
found["chain"] = whence(handler._middleware_chain), code(handler._middleware_chain)
found["drivers"] = [n for n in sys.modules if n.startswith("dbpool_mw.drivers.psy")]
print(json.dumps(found))
"""


def look(project: Project) -> dict[str, Any]:
    """Return what a process of the project finds in Django after a few requests."""
    done = project.run("-c", _LOOK)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("engine", [False, True])
def test_switched_off_django_is_as_it_is_without_the_app(project, engine):
    apps = project.settings["INSTALLED_APPS"] = ["django.contrib.contenttypes"]
    project.settings["MIDDLEWARE"] = []
    without = look(project)
    apps.insert(0, "dbpool_mw")
    project.settings["MIDDLEWARE"] = ["dbpool_mw.middleware.ConnectionPoolMiddleware"]
    if engine:
        project.options["default"] = ENGINE
    switched_on = look(project)
    # The look sees each of the things that the app does.
    assert [name for name in without if without[name] == switched_on[name]] == []
    project.settings["DBPOOL_MW_ENABLED"] = False
    assert look(project) == without
