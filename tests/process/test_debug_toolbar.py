"""The panel of django-debug-toolbar, read as a browser does."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from importlib.metadata import version
from importlib.util import find_spec

import pytest
from django.conf import settings

from tests.documents import code_block
from tests.process.projects import Project
from tests.process.servers import Answer, Server, wait_until

if find_spec("debug_toolbar") is None:
    pytest.skip("no debug_toolbar: pip install --group test", allow_module_level=True)

MAJOR = int(version("django-debug-toolbar").partition(".")[0])
DOCUMENT = "docs/debug-toolbar.rst"

#: The stores of the toolbar, by the release that they came with.
STORES = {"MemoryStore": 6, "DatabaseStore": 6, "CacheStore": 8}


@pytest.fixture
def shown(project: Project) -> Project:
    """Give the project with the documented settings, one connection a pool."""
    # A settings module of its own, as it may import the toolbar's only so.
    (project.directory / "with_toolbar.py").write_text(
        "from tests.process.project.settings import *\n"
        + code_block(DOCUMENT, "DEBUG_TOOLBAR_PANELS")
    )
    project.extra["PYTHONPATH"] = f"{project.directory}:{project.environ['PYTHONPATH']}"
    project.extra["DJANGO_SETTINGS_MODULE"] = "with_toolbar"
    project.settings |= {
        "ROOT_URLCONF": "tests.process.project.toolbar",
        "DEBUG": True,
        "INTERNAL_IPS": ["127.0.0.1"],
        "STATIC_URL": "/static/",
        "INSTALLED_APPS": [
            *settings.INSTALLED_APPS,
            "django.contrib.staticfiles",
            "debug_toolbar",
        ],
        "TEMPLATES": [
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
            }
        ],
        "DBPOOL_MW_MAX_CONNS": 1,
        "DBPOOL_MW_TIMEOUT": 20,
    }
    return project


def serve(project: Project, asgi: bool) -> Server:
    return project.uvicorn() if asgi else project.gunicorn("--threads", "4")


def panel(server: Server, page: Answer) -> list[list[str]]:
    """Return the rows of the panel's tables, from the toolbar's store."""
    kind, number = re.findall(r"data-(request|store)-id=\"(\w+)\"", page.body.decode())[
        0
    ]
    answer = server.get(
        f"/__debug__/render_panel/?{kind}_id={number}&panel_id=PoolPanel"
    )
    content = answer.facts["content"]
    assert not re.search(r"<script|<style| style=| on\w+=", content), content
    rows = re.findall(r"<tr>(.*?)</tr>", content, re.DOTALL)
    cells = [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in rows]
    return [
        [unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row]
        for row in cells
        if row
    ]


def milliseconds(text: str) -> float:
    return float(text.partition(" ms")[0])


def timing(page: Answer) -> float:
    """Return what Server-Timing says of the wait, in milliseconds."""
    (found,) = re.findall(
        r"PoolPanel_pool;dur=([\d.e-]+)", page.headers["Server-Timing"]
    )
    return float(found)


@pytest.mark.parametrize("path", ["/two/", "/two_async/"])
@pytest.mark.parametrize("asgi", [False, True])
def test_two_checkouts_are_shown_and_the_statement_that_causes_a_reset(
    shown, asgi, path
):
    with serve(shown, asgi) as server:
        page = server.get(path)
        assert page.status == 200
        assert "2 checkouts, 1 reset" in page.body.decode()
        shown.rest()
        found = shown.totals()
        assert (found["checkouts"], found["resets"], found["opened"]) == (2, 1, 1)
        summary, first, second = panel(server, page)
        assert summary[0] == "2"
        assert summary[3] == "1"
        assert first[:2] == ["default", "at the start"]
        assert first[4:] == ["kept", ""]
        assert second[:2] == ["default", "in the request"]
        assert second[3].endswith(", to the end of the request")
        assert second[4:] == ["reset", "SET statement_timeout = 12345"]


@pytest.mark.parametrize("asgi", [False, True])
def test_the_wait_is_shown_and_is_in_server_timing(shown, asgi):
    with serve(shown, asgi) as server, ThreadPoolExecutor() as clients:
        assert timing(server.get("/none/")) == 0
        with shown.lock(9):
            held = clients.submit(server.get, "/holds/?key=9")
            shown.wait_for_lock(9)
            waiting = clients.submit(server.get, "/clean/")
            wait_until(lambda: shown.totals()["waiting"] == 1, "the page waits")
        assert held.result(20).status == 200
        page = waiting.result(20)
        waited = timing(page)
        summary, only = panel(server, page)
        assert waited > 0
        assert milliseconds(only[2]) == pytest.approx(waited, abs=0.01)
        assert milliseconds(summary[1]) == pytest.approx(waited, abs=0.01)
        assert only[4:] == ["kept", ""]
        assert shown.totals()["resets"] == 0


def test_each_request_has_its_own_figures(shown):
    with serve(shown, asgi=False) as server:
        pages = {name: server.get(f"/{name}/") for name in ("two", "none", "clean")}
        assert len(panel(server, pages["two"])) == 3
        assert panel(server, pages["none"])[0][0] == "0"
        (_, only) = panel(server, pages["clean"])
        assert only[4:] == ["kept", ""]


def test_a_statement_is_no_markup(shown):
    with serve(shown, asgi=False) as server:
        page = server.get("/marks/")
        assert b"<script>'" not in page.body
        (_, only) = panel(server, page)
        assert only[5] == "SET application_name = '<script>'"


@pytest.mark.parametrize(
    "store", [None, *(name for name, since in STORES.items() if since <= MAJOR)]
)
def test_the_figures_come_back_from_every_store(shown, store):
    if store is not None:
        shown.settings["DEBUG_TOOLBAR_CONFIG"] = {
            "TOOLBAR_STORE_CLASS": f"debug_toolbar.store.{store}"
        }
    if store == "DatabaseStore":
        done = shown.manage("migrate", "debug_toolbar")
        assert done.returncode == 0, done.stderr
    with serve(shown, asgi=False) as server:
        _, _, second = panel(server, server.get("/two/"))
        assert second[4:] == ["reset", "SET statement_timeout = 12345"]
    if store == "DatabaseStore":
        assert shown.manage("migrate", "debug_toolbar", "zero").returncode == 0


def test_the_project_has_nothing_to_correct(shown):
    done = shown.manage("check", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr
