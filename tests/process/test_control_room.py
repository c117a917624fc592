"""The panel of dj-control-room: what its hub and the admin list, and who gets there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

import pytest

from tests.dashboards import APPS, Visitor, made
from tests.process.projects import Project
from tests.process.servers import Answer, Server

HUB = "/admin/dj-control-room/"
PAGE = "/dbpool/"
#: What the admin lists for the panel; the hub makes its address.
ENTRY = "/admin/dj_control_room/djangodbpoolmwpanelproxy/"
#: The URLs of the hub stand before the admin's, which answer for all below.
URLS = """\
from django.urls import include, path
from tests.process.project import admin_alone, dashboard
hub = path("admin/dj-control-room/", include("dj_control_room.urls"))
urlpatterns = [hub, *{module}.urlpatterns]
"""
_CUSTOMER = """\
from django.contrib.auth.models import Permission, User
user = User.objects.create_user("customer")
user.user_permissions.set(Permission.objects.filter(codename="view_pools"))
"""


@pytest.fixture(scope="module")
def site(postgres) -> Iterator[Project]:
    """Give the project with the hub, and with a user who isn't of the staff."""
    pytest.importorskip(
        "dj_control_room", reason="no dj-control-room: pip install --group test"
    )
    with made(postgres) as project:
        assert project.manage("shell", "--command", _CUSTOMER).returncode == 0
        project.settings["INSTALLED_APPS"] = [
            "dj_control_room_base",
            *APPS,
            "dj_control_room",
        ]
        path = f"{project.directory}:{project.environ['PYTHONPATH']}"
        project.extra["PYTHONPATH"] = path
        for module in ("dashboard", "admin_alone"):
            file = project.directory / f"hub_and_{module}.py"
            file.write_text(URLS.format(module=module))
        yield project


@pytest.fixture
def server(site: Project, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Serve the page on its own too, or as a parameter says."""
    module = getattr(request, "param", "dashboard")
    site.settings["ROOT_URLCONF"] = f"hub_and_{module}"
    with site.gunicorn("--threads", "4") as server:
        yield server
    assert "Failed to load panel" not in server.text()


without_urls = pytest.mark.parametrize("server", ["admin_alone"], indirect=True)


def card(hub: Answer) -> str:
    """Return what the hub shows of the panel."""
    assert hub.status == 200, hub.body
    cards = hub.body.decode().split('<div class="dcr-panel-card">')
    (found,) = [each for each in cards if "Database pools</h3>" in each]
    return found


def link(hub: Answer) -> tuple[str, str]:
    """Return where the panel leads, and how the hub calls that."""
    found = re.search(r'<a href="([^"]+)"[^>]*>([^<]+)</a>', card(hub))
    assert found is not None
    return found[1], found[2]


def test_the_hub_lists_the_page_and_leads_to_it(server):
    visitor = Visitor(server, "watcher")
    hub = visitor.get(HUB)
    assert ">INSTALLED<" in card(hub)
    assert link(hub) == (PAGE, "View panel")
    page = visitor.get(PAGE)
    assert page.status == 200
    assert b"Who holds a connection" in page.body


def test_the_admin_lists_the_page_for_those_who_may_see_it(server):
    for name in ("root", "reader", "stranger"):
        shown = Visitor(server, name).get("/admin/").body.decode()
        assert (ENTRY in shown) == (name != "stranger"), name
    followed = Visitor(server, "reader").get(ENTRY)
    assert followed.status == 302
    assert followed.headers["Location"] == PAGE


def test_staff_without_the_permission_are_refused_by_the_page(server):
    visitor = Visitor(server, "stranger")
    path, _ = link(visitor.get(HUB))
    assert visitor.get(path).status == 403


def test_nobody_else_sees_the_hub(server):
    assert Visitor(server, "customer").get(HUB).status == 403
    for path in (HUB, ENTRY):
        answer = Visitor(server).get(path)
        assert answer.status == 302
        assert answer.headers["Location"].startswith("/admin/login/")
    # The admin sends who isn't of the staff to its login.
    assert Visitor(server, "customer").get(ENTRY).status == 302


@without_urls
def test_without_the_urls_the_hub_says_what_to_write(server):
    visitor = Visitor(server, "root")
    path, called = link(visitor.get(HUB))
    assert called == "Configure"
    guide = visitor.get(path)
    assert guide.status == 200
    assert 'include("dbpool_mw.urls")' in unescape(guide.body.decode())
    # An entry would lead nowhere.
    assert ENTRY not in visitor.get("/admin/").body.decode()
    assert visitor.get("/admin/dbpool_mw/dashboard/").status == 200


def test_agents_are_offered_nothing_and_nothing_has_to_be_corrected(site):
    code = """
import django
django.setup()
from types import SimpleNamespace
from dj_control_room.registry import registry
user = SimpleNamespace(is_staff=True, is_superuser=True)
print([name for name in registry.get_tools_for_user(user) if "dbpool" in name])
"""
    done = site.run("-W", "error", "-c", code)
    assert done.stdout == "[]\n", done.stderr
    assert done.stderr == ""
    done = site.manage("check", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr


def test_the_panel_needs_nothing_of_the_hub_and_is_loaded_by_nobody_else(project):
    code = """
import sys
import django
sys.modules |= dict.fromkeys(["dj_control_room", "dj_control_room_base"])
django.setup()
assert "dbpool_mw.contrib.control_room" not in sys.modules
from dbpool_mw.contrib.control_room import PoolPanel
print(PoolPanel().name)
"""
    done = project.run("-c", code)
    assert done.stdout == "Database pools\n", done.stderr
