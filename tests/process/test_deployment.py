"""The examples of docs/deployment.rst and docs/sizing.rst, run as they stand there."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import settings

from tests.documents import ROOT, code_block, code_blocks, sections
from tests.library import PYTHONPATH
from tests.messages import one_line
from tests.process.projects import MANAGE, Project

DEPLOYMENT = "docs/deployment.rst"
SIZING = "docs/sizing.rst"


def values(block: str) -> dict[str, Any]:
    """Run a block of code; return what it assigns."""
    names: dict[str, Any] = {}
    exec(block, names)
    del names["__builtins__"]
    return names


def manage(project: Project, command: list[str]) -> str:
    """Run ``python manage.py …`` of a document in the project; return its output."""
    assert command[:2] == ["python", "manage.py"]
    done = project.run(MANAGE, *command[2:])
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands_in_yaml() -> list[list[str]]:
    text = code_block(DEPLOYMENT, "terminationGracePeriodSeconds", "yaml")
    return [json.loads(found) for found in re.findall(r"command: (\[.*\])", text)]


@pytest.fixture
def deployed(project: Project) -> Project:
    """Give the project with the documented middleware, probe and gunicorn.conf.py."""
    urls = code_block(DEPLOYMENT, "include(")
    others = "from tests.process.project.urls import urlpatterns as others\n"
    (project.directory / "urls.py").write_text(f"{urls}{others}urlpatterns += others\n")
    conf = (ROOT / "tests/process/project/gunicorn_conf.py").read_text()
    own = code_block(DEPLOYMENT, "worker_class")
    (project.directory / "gunicorn.conf.py").write_text(own + conf)
    project.extra["PYTHONPATH"] = f"{project.directory}:{PYTHONPATH}"
    project.settings |= values(code_block(DEPLOYMENT, "whitenoise"))
    project.settings |= {
        "ROOT_URLCONF": "urls",
        "INSTALLED_APPS": [
            *settings.INSTALLED_APPS,
            "corsheaders",
            "django.contrib.sessions",
        ],
        "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
        "STATIC_URL": "/static/",
        "DBPOOL_MW_MAX_CONNS": 1,
        "DBPOOL_MW_TIMEOUT": 20,
    }
    return project


def probes() -> dict[str, str]:
    """Return the paths of the probes in the document's YAML, by the probe's name."""
    text = code_block(DEPLOYMENT, "terminationGracePeriodSeconds", "yaml")
    return dict(re.findall(r"(\w+)Probe:\n +httpGet: {path: (\S+), port", text))


def test_probes_are_answered_at_an_exhausted_pool_and_a_stop_drains(deployed):
    paths = probes()
    assert sorted(paths) == ["liveness", "readiness"]
    server_command, stop_command = commands_in_yaml()
    assert server_command[:3] == ["gunicorn", "--config", "gunicorn.conf.py"]
    with (
        deployed.gunicorn(
            configuration=(deployed.directory / server_command[2]).read_text()
        ) as server,
        ThreadPoolExecutor() as clients,
    ):
        with deployed.lock(9):
            held = clients.submit(server.get, "/holds/?key=9")
            deployed.wait_for_lock(9)
            for path in paths.values():
                assert server.get(path).status == 200
            (kubectl,) = re.findall(
                r"^ *kubectl exec \S+ -- (.*)$", (ROOT / DEPLOYMENT).read_text(), re.M
            )
            assert "/holds/" in manage(deployed, shlex.split(kubectl))
        assert held.result(20).status == 200
        assert deployed.settled()["checkouts"] == 1
        manage(deployed, stop_command)
        assert deployed.backends() == []
        assert server.get("/facts/").status == 200
        deployed.rest()
        assert deployed.totals()["idle"] == 0
        # No requests are sent to a pod that drains, and it isn't restarted for that.
        assert server.get(paths["readiness"]).status == 503
        assert server.get(paths["liveness"]).status == 200
        assert server.stop() == 0


def test_the_servers_command_lines_are_accepted():
    from uvicorn.main import main

    text = sections(DEPLOYMENT)["Servers"]
    (line,) = re.findall(r"^ +uvicorn (.*)$", text, re.MULTILINE)
    context = main.make_context("uvicorn", shlex.split(line))
    assert context.params["app"] == "project.asgi:application"


def test_the_service_makes_the_directory_of_the_control_sockets():
    unit = configparser.ConfigParser()
    unit.optionxform = str
    unit.read_string(code_block(DEPLOYMENT, "RuntimeDirectory", "ini"))
    own = values(code_block(DEPLOYMENT, "DBPOOL_MW_CONTROL_DIR"))
    directory = f"/run/{unit['Service']['RuntimeDirectory']}"
    assert own == {"DBPOOL_MW_CONTROL_DIR": directory}
    conf = values(code_block(DEPLOYMENT, "worker_class"))
    assert int(unit["Service"]["TimeoutStopSec"]) > conf["graceful_timeout"]


def test_a_busy_pod_is_not_restarted():
    from dbpool_mw.core.config import PoolConfig

    text = code_block(DEPLOYMENT, "terminationGracePeriodSeconds", "yaml")
    probe = text.partition("livenessProbe:")[2].partition("readinessProbe:")[0]
    values = {
        name: int(value) for name, value in re.findall(r"(\w+): (\d+)$", probe, re.M)
    }
    failing = values["periodSeconds"] * values["failureThreshold"]
    assert failing > PoolConfig().timeout


def test_a_pod_has_time_for_the_drain_and_the_requests():
    text = code_block(DEPLOYMENT, "terminationGracePeriodSeconds", "yaml")
    (grace,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", text)
    _, stop = commands_in_yaml()
    conf = values(code_block(DEPLOYMENT, "worker_class"))
    wait = int(stop[stop.index("--timeout") + 1])
    assert int(grace) > wait + conf["graceful_timeout"]


def test_the_worked_example_adds_up():
    example, chosen = code_blocks(SIZING)
    found = values(example)
    assert (found["at_rest"], found["in_a_deploy"], found["accepted"]) == (45, 77, 97)
    all_threads = values(example.replace("max_conns = 4", "max_conns = 8"))
    assert (all_threads["at_rest"], all_threads["in_a_deploy"]) == (77, 141)
    own = values(chosen)
    assert own["DBPOOL_MW_MAX_CONNS"] == found["max_conns"]
    assert own["DBPOOL_MW_WORKERS"] == 2 * found["hosts"] * found["workers"]
    text = one_line((ROOT / SIZING).read_text())
    assert "45 connections at rest and 77 in a deploy, of 97" in text
    assert "they would be 77 and 141" in text


def test_the_checks_accept_the_examples_and_warn_as_the_document_says(deployed):
    with deployed.session() as cursor:
        cursor.execute(
            "SELECT name, boot_val FROM pg_settings"
            " WHERE name IN ('max_connections', 'superuser_reserved_connections')"
        )
        assert dict(cursor.fetchall()) == {
            "max_connections": "100",
            "superuser_reserved_connections": "3",
        }
        cursor.execute("SHOW max_connections")
        if cursor.fetchone() != ("100",):
            pytest.skip("the server has another limit than PostgreSQL's default")
    _, chosen = code_blocks(SIZING)
    deployed.settings |= values(chosen)
    deployed.settings["DBPOOL_MW_POOLS"] = {"replica": None}
    accepted = deployed.manage("check", "--database", "default")
    assert "dbpool_mw" not in accepted.stderr
    deployed.settings["DBPOOL_MW_MAX_CONNS"] = 8
    warned = deployed.manage("check", "--database", "default")
    (said,) = re.findall(r"^\?: .*W004.*\n.*HINT.*$", warned.stderr, re.MULTILINE)
    assert one_line(said) in one_line((ROOT / SIZING).read_text())
