"""The test project with the page of the pools, its users, and their sessions."""

from __future__ import annotations

import http.client
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sandbox.postgres import Server as Database
from tests.conftest import fresh_databases
from tests.process.projects import Project
from tests.process.servers import Answer, Server

URLS = "tests.process.project.dashboard"
POLICIES = "tests.process.project.policies"
APPS = [
    "dbpool_mw",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "dbpool_mw.middleware.ConnectionPoolMiddleware",
    f"{POLICIES}.Policy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
PROCESSORS = [
    "django.template.context_processors.request",
    "django.contrib.auth.context_processors.auth",
    "django.contrib.messages.context_processors.messages",
]
SETTINGS: dict[str, Any] = {
    "INSTALLED_APPS": APPS,
    "MIDDLEWARE": MIDDLEWARE,
    "ROOT_URLCONF": URLS,
    "STATIC_URL": "/static/",
    "TEMPLATES": [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {"context_processors": PROCESSORS},
        }
    ],
}
#: Each user's permissions, None for all of them.
USERS: dict[str, list[str] | None] = {
    "root": None,
    "reader": ["view_pools"],
    "watcher": ["view_pools", "view_holders"],
    "operator": ["view_pools", "view_holders", "drain_pools", "cancel_holder"],
    "canceller": ["view_pools", "cancel_holder"],
    "stranger": [],
}
_MAKE_USERS = """\
from django.contrib.auth.models import Permission, User
for name, permissions in {users}.items():
    user = User.objects.create_user(name, is_staff=True)
    user.is_superuser = permissions is None
    user.save()
    found = Permission.objects.filter(
        content_type__app_label="dbpool_mw", codename__in=permissions or ()
    )
    assert len(found) == len(permissions or ()), name
    user.user_permissions.set(found)
"""


@contextmanager
def made(server: Database, **settings: Any) -> Iterator[Project]:
    """Give a project with the page, and its users, on new databases of a server."""
    with (
        fresh_databases(server) as databases,
        tempfile.TemporaryDirectory(prefix="dbpool-", dir="/tmp") as directory,
    ):
        project = Project(databases, Path(directory))
        prepare(project)
        project.settings |= settings
        yield project


def prepare(project: Project) -> None:
    """Have the project show the page, and make its tables and users."""
    project.settings |= SETTINGS
    for words in (
        ("migrate", "--verbosity", "0"),
        ("shell", "--command", _MAKE_USERS.format(users=USERS)),
    ):
        done = project.manage(*words)
        assert done.returncode == 0, done.stderr


class Visitor:
    """A client with a user's session, as a browser without JavaScript."""

    def __init__(self, server: Server, name: str = "") -> None:
        self.server = server
        self.cookies: dict[str, str] = {}
        if name:
            assert self.get(f"/log-in/{name}/").status == 200

    def get(self, path: str, *, timeout: float = 30, **headers: str) -> Answer:
        return self._request("GET", path, timeout=timeout, **headers)

    def post(self, path: str, **fields: str) -> Answer:
        """Send a form, with the token of the page that it stands on if there is one."""
        return self._request("POST", path, body=urlencode(fields))

    def confirm(self, path: str, **fields: str) -> Answer:
        """Load a confirmation, and confirm it with what its form has."""
        page = self.get(path)
        assert page.status == 200, page.body
        hidden = re.findall(
            r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.body.decode()
        )
        return self.post(path, **{**dict(hidden), **fields})

    def _request(
        self,
        method: str,
        path: str,
        body: str = "",
        *,
        timeout: float = 30,
        **headers: str,
    ) -> Answer:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.server.port, timeout=timeout
        )
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{k}={v}" for k, v in self.cookies.items())
        if method == "POST":
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            connection.request(method, path, body=body or None, headers=sent)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        for value in response.headers.get_all("Set-Cookie") or ():
            name, _, rest = value.partition("=")
            self.cookies[name] = rest.partition(";")[0]
        found = {name.title(): value for name, value in response.getheaders()}
        return Answer(response.status, found, content)


@contextmanager
def serving(site: Project) -> Iterator[Server]:
    """Have one worker with threads serve the page; no order is kept afterwards."""
    with site.gunicorn("--threads", "8") as server:
        site.serve_by_all(server, 1)
        yield server
    (site.control / "orders.json").unlink(missing_ok=True)
