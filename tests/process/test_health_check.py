"""The check of django-health-check, in the releases that have an API of their own.

The release that is installed is tested as it is; of the others, pip puts one into a
directory, for servers that run on it.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import django
import pytest
from django.conf import settings

from tests.documents import code_block
from tests.process.projects import Project, served
from tests.process.servers import Server, wait_until

HEALTH = "docs/health.rst"
INSTALLED = version("django-health-check")
#: What a release needs besides Django, as far as it is imported.
REQUIRES = {"3": ["psutil"], "4": ["dnspython"]}

#: The releases with an API each: the last with BaseHealthCheckBackend, the last with
#: plugins, and the last but for Python 3.14.
RELEASES = {"3.20.8": "plugins", "3.24.0": "both", "4.8.0": "view"}


def uses(api: str) -> list[str]:
    return [
        release
        for release, has in {**RELEASES, INSTALLED: kind(INSTALLED)}.items()
        if has in (api, "both")
        and (not release.startswith("4") or django.VERSION >= (5, 2))
    ]


def kind(release: str) -> str:
    return RELEASES.get(release, "view")


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory):
    """Give a function that returns the directory of a release, None if installed."""
    made: dict[str, Path] = {}

    def directory(release: str) -> Path | None:
        if release == INSTALLED:
            return None
        if release not in made:
            target = tmp_path_factory.mktemp("release")
            wanted = [f"django-health-check=={release}", *REQUIRES[release[0]]]
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
            done = subprocess.run(
                [*pip, "--target", str(target), *wanted],
                capture_output=True,
                text=True,
                timeout=120,
            )
            if done.returncode:
                pytest.skip(f"PyPI can't be reached: {done.stderr[-200:]}")
            made[release] = target
        return made[release]

    return directory


@pytest.fixture
def checked(project: Project, releases, release: str) -> Project:
    """Give the project with a release of django-health-check, one connection a pool."""
    paths = [project.directory, releases(release), project.environ["PYTHONPATH"]]
    project.extra["PYTHONPATH"] = ":".join(str(path) for path in paths if path)
    project.settings |= {
        "ROOT_URLCONF": "checked_urls",
        "INSTALLED_APPS": [*settings.INSTALLED_APPS, "health_check"],
        "TEMPLATES": [
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
            }
        ],
        "DBPOOL_MW_MAX_CONNS": 1,
        "DBPOOL_MW_TIMEOUT": 20,
        "DBPOOL_MW_STUCK_AFTER": 1,
    }
    return project


def write_urls(project: Project, text: str) -> None:
    others = "from tests.process.project.urls import urlpatterns as others\n"
    (project.directory / "checked_urls.py").write_text(
        f"{text}\n{others}urlpatterns += others\n"
    )


def ask(server: Server) -> tuple[int, list[str]]:
    """Return the status of the page, and what it says of each check."""
    answer = server.get("/health/?format=json", Accept="application/json")
    return answer.status, [str(said).lower() for said in answer.facts.values()]


def check_the_page(project: Project, asgi: bool, well: str) -> None:
    """Ask for the page while the pool is unused, moves, is stuck and is paused."""
    with served(project, asgi) as (server, clients):
        assert ask(server) == (200, [well])
        assert project.totals()["checkouts"] == 0
        with project.lock(9):
            held = clients.submit(server.get, "/holds/?key=9")
            project.wait_for_lock(9)
            waiting = clients.submit(server.get, "/facts/")
            wait_until(lambda: ask(server)[0] == 500, "the check fails")
            assert ask(server) == (500, ["unavailable: default is stuck"])
            assert project.totals()["waiting"] == 1
            assert project.totals()["checkouts"] == 1
        assert (held.result(20).status, waiting.result(20).status) == (200, 200)
        assert ask(server) == (200, [well])
        pause = project.manage("dbpool_drain", "--pause", "--alias", "default")
        assert pause.returncode == 0, pause.stderr
        assert ask(server) == (500, ["unavailable: default is paused"])
        assert project.manage("dbpool_drain", "--resume").returncode == 0
        assert ask(server) == (200, [well])
        project.check_no_place_is_lost()


@pytest.mark.parametrize("release", uses("view"))
@pytest.mark.parametrize("asgi", [False, True])
def test_the_documented_view_says_what_readyz_says(checked, asgi):
    write_urls(checked, code_block(HEALTH, "HealthCheckView"))
    check_the_page(checked, asgi, "ok")


@pytest.mark.parametrize("release", uses("plugins"))
def test_the_plugin_says_what_readyz_says(checked, release):
    documented: dict = {}
    exec(code_block(HEALTH, "INSTALLED_APPS"), documented)
    apps = [*documented["INSTALLED_APPS"], *settings.INSTALLED_APPS[1:]]
    checked.settings["INSTALLED_APPS"] = apps
    exempt = documented["DBPOOL_MW_EXEMPT"]
    checked.settings["DBPOOL_MW_EXEMPT"] = [*exempt, "/exempt/"]
    write_urls(
        checked,
        "from django.urls import include, path\n"
        f"urlpatterns = [path({exempt[0][1:]!r}, include('health_check.urls'))]\n",
    )
    check_the_page(checked, False, "working" if release == "3.20.8" else "ok")


@pytest.mark.skipif(
    INSTALLED.startswith("3"), reason="django-health-check 3 has plugins"
)
@pytest.mark.parametrize("release", [INSTALLED])
def test_the_app_says_what_to_write_where_there_are_no_plugins(checked):
    write_urls(checked, "urlpatterns = []")
    checked.settings["INSTALLED_APPS"] += ["dbpool_mw.contrib.health_check"]
    done = checked.manage("check")
    assert done.returncode == 1
    assert "django-health-check has no plugins since 4.0" in done.stderr


@pytest.mark.parametrize("release", [INSTALLED])
def test_a_check_of_one_alias_leaves_the_others_alone(checked):
    code = """
import asyncio, django
django.setup()
from health_check.exceptions import ServiceUnavailable
from dbpool_mw.binding import registry
from dbpool_mw.control import protocol
from dbpool_mw.contrib.health_check.checks import Pools
request = protocol.request("pause", aliases=["replica"])
registry._state.worker.handle(request)
for alias in (None, "default", "replica"):
    check = Pools() if alias is None else Pools(alias=alias)
    try:
        asyncio.run(check.run())
        print(check, "well")
    except ServiceUnavailable as error:
        print(check, error.message)
"""
    write_urls(checked, "urlpatterns = []")
    done = checked.run("-c", code)
    assert done.stdout.splitlines() == [
        "Pools(alias=None) replica is paused",
        "Pools(alias='default') well",
        "Pools(alias='replica') replica is paused",
    ], done.stderr
