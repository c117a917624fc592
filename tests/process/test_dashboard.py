"""The page of the pools in real servers: who sees what, what is done, what it takes."""

from __future__ import annotations

import os
import platform
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from dbpool_mw.control import protocol
from sandbox.postgres import Server as Database
from tests.dashboards import Visitor, made, serving
from tests.process.projects import Project
from tests.process.servers import Answer, Server, wait_until
from tests.process.test_orders import children, frozen

ALONE, ADMIN = "/dbpool/", "/admin/dbpool_mw/dashboard/"
PLACES = [ALONE, ADMIN]
#: A key of advisory locks that no other test uses.
KEY = 4711


@pytest.fixture(scope="module")
def site(postgres) -> Iterator[Project]:
    """Give the project on databases of its own, for all tests of this module."""
    with made(postgres) as project:
        yield project


@pytest.fixture
def server(site: Project) -> Iterator[Server]:
    with serving(site) as server:
        yield server


def token_of(page: Answer) -> str:
    assert page.status == 200, page.body
    found = re.search(r'data-token="([^"]+)"', page.body.decode())
    assert found is not None
    return found[1]


class Poller:
    """Polls as the page's script does: with a token, and no cookie."""

    def __init__(self, server: Server, page: Answer, place: str = ALONE) -> None:
        self.visitor = Visitor(server)
        self.token = token_of(page)
        self.path = f"{place}poll/?charts=1"

    def poll(self) -> str:
        answer = self.visitor.get(self.path, X_Dbpool_Token=self.token)
        assert answer.status == 200, answer.body
        self.token = answer["token"]
        return "".join(answer["parts"].values())


def logged(project: Project) -> list[tuple[str, str, str]]:
    """Return the entries of the admin's log: user, what, and what was said."""
    with project.session() as cursor:
        cursor.execute(
            "SELECT username, object_repr, change_message FROM django_admin_log"
            " JOIN auth_user ON auth_user.id = user_id ORDER BY django_admin_log.id"
        )
        return list(cursor.fetchall())


def processes(database: Database) -> list[int]:
    """Return every process of a PostgreSQL server."""
    file = database.directory / "data" / "postmaster.pid"
    pid = int(file.read_text().splitlines()[0])
    return [pid, *children(pid)]


def link(project: Project, *options: str) -> str:
    done = project.manage("dbpool_dashboard", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def holding(project: Project, server: Server) -> Iterator[None]:
    """Have a request hold a connection for the block."""
    with project.lock(KEY):
        request = threading.Thread(target=server.get, args=[f"/holds/?key={KEY}"])
        request.start()
        project.wait_for_lock(KEY)
        yield
    request.join(20)


# --- Who sees what --------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_the_page_shows_what_the_permissions_say(site, server, place):
    with holding(site, server):
        pages = {
            name: Visitor(server, name).get(place)
            for name in ("root", "reader", "watcher", "operator", "stranger")
        }
    shown = {name: page.body.decode() for name, page in pages.items()}
    assert {name: page.status for name, page in pages.items()} == {
        "root": 200,
        "reader": 200,
        "watcher": 200,
        "operator": 200,
        "stranger": 403,
    }
    assert {name for name, text in shown.items() if "/holds/" in text} == {
        "root",
        "watcher",
        "operator",
    }
    assert {name for name, text in shown.items() if "/act/pause/" in text} == {
        "root",
        "operator",
    }


@pytest.mark.parametrize("place", PLACES)
def test_who_is_not_logged_in_is_sent_to_the_login(server, place):
    answer = Visitor(server).get(place)
    assert answer.status == 302
    assert "login" in answer.headers["Location"]
    assert answer.headers["Location"].endswith(f"next={place}")


# --- Actions --------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["root", "operator", "watcher", "stranger"])
def test_a_get_never_acts_and_nobody_acts_without_the_permission(
    site, server, place, name
):
    visitor = Visitor(server, name)
    may = name in ("root", "operator")
    for verb in ("drain", "recycle", "pause", "resume"):
        answer = visitor.get(f"{place}act/{verb}/?alias=default&seconds=60")
        assert answer.status == (200 if may else 403)
        if not may:
            # With the token of another form: what refuses is the permission.
            visitor.cookies.setdefault("csrftoken", "a" * 32)
            fields = {"alias": "default", "csrfmiddlewaretoken": "a" * 32}
            assert visitor.post(f"{place}act/{verb}/", **fields).status == 403
    assert set(site.states().values() and site.states().popitem()[1]) == {"running"}
    assert not (site.control / "orders.json").exists()


@pytest.mark.parametrize("place", PLACES)
def test_a_post_without_the_token_of_a_form_does_nothing(site, server, place):
    visitor = Visitor(server, "root")
    before = logged(site)
    for fields in ({}, {"csrfmiddlewaretoken": "b" * 32}):
        answer = visitor.post(f"{place}act/drain/", alias="default", **fields)
        assert answer.status == 403
    assert b"CSRF" in answer.body
    assert {s for states in site.states().values() for s in states} == {"running"}
    assert logged(site) == before


@pytest.mark.parametrize("place", PLACES)
def test_each_action_is_done_shown_and_written_to_the_log(site, server, place):
    visitor = Visitor(server, "operator")
    before = len(logged(site))
    states = {
        "drain": "draining",
        "pause": "paused",
        "recycle": "running",
        "resume": "running",
    }
    for verb, state in states.items():
        fields = {"seconds": "60"} if verb == "pause" else {}
        done = visitor.confirm(f"{place}act/{verb}/?alias=default", **fields)
        assert done.status == 302, done.body
        assert {s for found in site.states().values() for s in found} == {state}
        # Also while the pool is paused: the page has a connection of its own.
        page = visitor.get(done.headers["Location"]).body.decode()
        what = f"{verb.title()}, default, all workers on {platform.node()}: "
        assert what in page
        assert "<h2>Done</h2>" in page
        if verb == "pause":
            left = re.search(r'data-seconds="([\d.]+)"', page)
            assert left is not None
            assert 50 < float(left[1]) <= 60
    (pid,) = site.pids()
    where = f"default, all workers on {platform.node()}"
    assert logged(site)[before:] == [
        ("operator", f"Drain: {where}", f"Drain: confirmed by {pid}"),
        ("operator", f"Pause: {where}", f"Pause for 60 s: confirmed by {pid}"),
        ("operator", f"Recycle: {where}", f"Recycle: confirmed by {pid}"),
        ("operator", f"Resume: {where}", f"Resume: confirmed by {pid}"),
    ]


@pytest.mark.parametrize("place", PLACES)
def test_what_another_host_has_shown_is_neither_confirmed_nor_done(site, server, place):
    visitor = Visitor(server, "operator")
    before = logged(site)
    path = f"{place}act/drain/?alias=default"
    shown = visitor.get(path).body.decode()
    assert f"Drain: default, all workers on {platform.node()}" in shown
    for refused in (
        visitor.confirm(path, host="another"),
        visitor.get(f"{path}&host=another"),
    ):
        assert refused.status == 400
        assert b"This was shown by the host another, and " in refused.body
        assert b"got it: nothing was done." in refused.body
        assert b"<form method" not in refused.body
    assert {s for found in site.states().values() for s in found} == {"running"}
    assert logged(site) == before


def test_an_order_for_one_worker_is_for_that_one(site):
    with site.gunicorn("--threads", "4", workers=2) as server:
        site.serve_by_all(server, 2)
        chosen, other = site.pids()
        visitor = Visitor(server, "operator")
        path = f"{ALONE}act/drain/?alias=default&pid={chosen}"
        assert visitor.confirm(path).status == 302
        assert site.states() == {chosen: {"draining"}, other: {"running"}}
        assert not (site.control / "orders.json").exists()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("act/pause/?alias=default&seconds=x", "Write a number of seconds"),
        ("act/drain/?pid=4x", "The worker is named by the number"),
        ("act/drain/?alias=nobodys", "No worker has a pool of nobodys"),
        ("act/drain/?alias=default&pid=1", "There is no such worker"),
        ("act/cancel/", "No hold is named"),
        ("act/cancel/?hold=x", "x names no hold"),
        ("act/cancel/?hold=2147483647-2-3", "This request has ended"),
    ],
)
def test_what_is_asked_wrongly_is_refused_with_a_reason(site, server, path, said):
    visitor = Visitor(server, "operator")
    visitor.get(f"{ALONE}act/drain/")  # gives the token of a form
    form = visitor.get(f"{ALONE}act/drain/").body.decode()
    token = re.search(r'csrfmiddlewaretoken" value="([^"]+)', form)
    assert token is not None
    path, _, query = path.partition("?")
    fields = dict(pair.split("=") for pair in query.split("&") if pair)
    answer = visitor.post(ALONE + path, csrfmiddlewaretoken=token[1], **fields)
    assert answer.status == 400
    assert said in answer.body.decode()
    assert visitor.get(f"{ALONE}act/kill/").status == 404
    assert {s for found in site.states().values() for s in found} == {"running"}


def test_the_hold_of_a_stopped_worker_is_not_said_to_have_ended(site):
    with site.gunicorn("--threads", "8", workers=2) as server:
        site.serve_by_all(server, 2)
        visitor = Visitor(server, "operator")
        with holding(site, server):
            (hold,) = site.holders("/holds/")
            pid = protocol.pid_of(hold["id"])
            os.kill(pid, signal.SIGSTOP)
            try:
                shown = served_by_another(visitor, f"act/cancel/?hold={hold['id']}")
            finally:
                os.kill(pid, signal.SIGCONT)
    assert shown.status == 400
    assert f"Worker {pid} doesn&#x27;t answer" in shown.body.decode()
    assert b"has ended" not in shown.body


def served_by_another(visitor: Visitor, path: str) -> Answer:
    """Ask again until the worker that isn't stopped has taken the connection."""
    for _ in range(10):
        with suppress(TimeoutError):
            return visitor.get(ALONE + path, timeout=5)
    raise AssertionError("only the stopped worker takes connections")


def test_a_directory_that_anybody_may_write_to_is_not_said_to_be_at_rest(site, server):
    visitor = Visitor(server, "operator")
    done = visitor.confirm(f"{ALONE}act/drain/?alias=default")
    site.control.chmod(0o777)
    try:
        page = visitor.get(done.headers["Location"]).body.decode()
    finally:
        site.control.chmod(0o700)
    assert "may be written by others" in page
    assert "no worker can be asked" in page
    for wrong in ("Done", "ended", "every pool runs", "No connection", "Nobody waits"):
        assert wrong not in page


@pytest.mark.parametrize("place", PLACES)
def test_a_drain_that_is_not_kept_says_so_on_the_page(site, server, place):
    visitor = Visitor(server, "operator")
    (site.control / "orders.json.new").mkdir()
    try:
        done = visitor.confirm(f"{place}act/drain/?alias=default")
    finally:
        (site.control / "orders.json.new").rmdir()
    page = visitor.get(done.headers["Location"])
    poller = Poller(server, page, place)
    poller.path += "&" + done.headers["Location"].partition("?")[2]
    for shown in (page.body.decode(), poller.poll()):
        assert "not kept for workers that start later: can&#x27;t write" in shown
        assert "<h2>Incomplete</h2>" in shown
        assert "<h2>Done</h2>" not in shown


def test_what_a_read_only_database_cannot_log_is_done_all_the_same(site, server):
    visitor = Visitor(server, "operator")
    before = logged(site)
    with site.session() as cursor:
        name = site.databases.default
        cursor.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            done = visitor.confirm(f"{ALONE}act/recycle/?alias=default")
        finally:
            cursor.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert done.status == 302
    assert logged(site) == before
    assert "done, and not written to the admin's log: " in server.text()


def test_a_drain_shows_who_is_waited_for_and_then_that_it_is_done(site, server):
    visitor = Visitor(server, "operator")

    with holding(site, server):
        done = visitor.confirm(f"{ALONE}act/drain/?alias=default")
        page = visitor.get(done.headers["Location"])
        assert b"waits for 1 connection." in page.body
        assert b"GET /holds/ in thread" in page.body
    site.rest()
    page = visitor.get(done.headers["Location"])
    assert b"done, no old connection is left." in page.body


# --- No connection, no database -------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_polls_take_no_connection(site, place):
    site.settings |= {"SESSION_SAVE_EVERY_REQUEST": True}
    site.options = {"default": {"ATOMIC_REQUESTS": True}}
    try:
        with site.gunicorn("--threads", "8") as server:
            visitor = Visitor(server, "watcher")
            poller = Poller(server, visitor.get(place), place)
            # A proxy may want the cookies: then a session comes with the polls.
            poller.visitor.cookies = visitor.cookies
            site.rest()
            before, sessions = site.totals(), backend_starts(site)
            for _ in range(60):
                poller.poll()
            after = site.totals()
            assert after["checkouts"] == before["checkouts"]
            assert after["opened"] == before["opened"]
            assert backend_starts(site) == sessions
    finally:
        site.options = {}
        del site.settings["SESSION_SAVE_EVERY_REQUEST"]


@pytest.mark.parametrize("place", PLACES)
def test_where_each_request_reads_its_session_a_link_and_polls_take_no_place(
    site, place
):
    before = dict(site.settings)
    site.settings |= {"DBPOOL_MW_MAX_CONNS": 1, "DBPOOL_MW_TIMEOUT": 1.0}
    site.settings["CSRF_USE_SESSIONS"] = True
    try:
        with site.gunicorn("--threads", "8") as server:
            visitor = Visitor(server, "operator")
            poller = Poller(server, visitor.get(place), place)
            with holding(site, server):
                # Django's answer to what middleware raises.
                assert visitor.get(place).status == 500
                assert "/holds/" in poller.poll()
                assert b"/holds/" in Visitor(server).get(link(site)).body
            assert visitor.confirm(f"{place}act/recycle/?alias=default").status == 302
    finally:
        site.settings = before


def backend_starts(project: Project) -> list[tuple[int, str]]:
    """Return every session on the project's databases, by its beginning."""
    with project.session() as cursor:
        cursor.execute(
            "SELECT pid, backend_start::text FROM pg_stat_activity WHERE datname = %s"
            " AND application_name <> 'dbpool_mw tests' ORDER BY 1",
            [project.databases.default],
        )
        return list(cursor.fetchall())


@pytest.mark.parametrize("saves", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_with_every_place_held_the_page_opens_polls_and_acts(site, place, saves):
    before = dict(site.settings)
    site.settings |= {"DBPOOL_MW_MAX_CONNS": 1, "DBPOOL_MW_TIMEOUT": 1.0}
    site.settings["SESSION_SAVE_EVERY_REQUEST"] = saves
    try:
        with site.gunicorn("--threads", "8") as server:
            visitor = Visitor(server, "operator")
            with holding(site, server):
                assert server.get("/facts/").status == 503
                page = visitor.get(place)
                poller = Poller(server, page, place)
                assert "/holds/" in page.body.decode()
                assert "/holds/" in poller.poll()
                assert b"/holds/" in Visitor(server).get(link(site)).body
                done = visitor.confirm(f"{place}act/recycle/?alias=default")
                assert done.status == 302
    finally:
        site.settings = before


def test_with_the_database_stopped_an_open_page_and_a_link_go_on(own_postgres):
    with made(own_postgres) as project, project.gunicorn("--threads", "8") as server:
        project.serve_by_all(server, 1)
        visitor = Visitor(server, "watcher")
        pollers = [Poller(server, visitor.get(place), place) for place in PLACES]
        own_postgres.stop()
        try:
            for poller in pollers:
                assert "Pools" in poller.poll()
            for place in PLACES:
                refused = visitor.get(place)
                assert refused.status == 503
                assert b"manage.py dbpool_dashboard" in refused.body
            path = link(project)
            began = time.monotonic()
            page = Visitor(server).get(path)
            assert time.monotonic() - began < 1
            # A session's cookie does no harm.
            assert visitor.get(path).status == 200
            poller = Poller(server, page)
            for _ in range(3):
                assert "default" in poller.poll()
            assert b"/act/" not in page.body
        finally:
            own_postgres.start()


@pytest.mark.parametrize("place", PLACES)
def test_an_unresponsive_server_keeps_nobody_waiting_for_the_page(own_postgres, place):
    with made(own_postgres) as project, project.gunicorn("--threads", "8") as server:
        project.serve_by_all(server, 1)
        visitor = Visitor(server, "operator")
        paths = [place] * 3 + [f"{place}act/drain/?alias=default"] * 3
        with frozen(processes(own_postgres)), ThreadPoolExecutor(6) as clients:
            refused = list(clients.map(visitor.get, paths))
        assert {answer.status for answer in refused} == {503}
        assert all(b"manage.py dbpool_dashboard" in a.body for a in refused)
        assert visitor.get(place).status == 200


@pytest.mark.parametrize("place", PLACES)
def test_a_query_without_an_answer_keeps_nobody_waiting_for_the_page(
    site, server, place
):
    visitor = Visitor(server, "operator")
    with site.session() as cursor, ThreadPoolExecutor(3) as clients:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE auth_user")
        refused = list(clients.map(visitor.get, [place] * 3))
    assert {answer.status for answer in refused} == {503}
    assert all(b"manage.py dbpool_dashboard" in a.body for a in refused)
    assert visitor.get(place).status == 200


def test_an_action_is_done_though_its_log_gets_no_answer(site, server):
    visitor = Visitor(server, "operator")
    path = f"{ALONE}act/recycle/?alias=default"
    before = logged(site)
    with site.session() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE django_admin_log")
        assert visitor.confirm(path).status == 302
        # What it had asked the server for would be done at the end of the lock.
        site.terminate()
    assert logged(site) == before
    assert "done, and not written to the admin's log: " in server.text()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", ["", "act/drain/?alias=default"])
def test_who_waits_for_a_silent_worker_keeps_nobody_else_from_the_page(
    site, place, path
):
    with site.gunicorn("--threads", "16", workers=2) as server:
        site.serve_by_all(server, 2)
        visitor = Visitor(server, "operator")
        with frozen(site.pids()[:1]), ThreadPoolExecutor(12) as clients:
            pages = list(clients.map(visitor.get, [place + path] * 12))
    assert {page.status for page in pages} == {200}


# --- Links and tokens -----------------------------------------------------------------


def test_a_link_shows_and_does_nothing(site, server):
    path = link(site)
    assert path.startswith("/dbpool/link/")
    page = Visitor(server).get(path)
    assert page.status == 200
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert "no-store" in page.headers["Cache-Control"]
    assert b"/act/" not in page.body
    assert b"Who holds a connection" in page.body
    without = Visitor(server).get(link(site, "--without-holders"))
    assert b"Who holds a connection" not in without.body
    full = link(site, "https://shop.example")
    assert full.startswith("https://shop.example/dbpool/link/")


def test_a_link_that_is_old_or_forged_is_refused(site, server):
    old = link(site, "--valid", "0.01")
    wait_until(lambda: Visitor(server).get(old).status == 403, "the link is too old", 5)
    forged = link(site)[:-3] + "abc/"
    for path in (old, forged):
        answer = Visitor(server).get(path)
        assert answer.status == 403
        assert b"manage.py dbpool_dashboard prints another one" in answer.body


def test_a_poll_without_its_token_gets_nothing(site, server):
    token = token_of(Visitor(server, "reader").get(ALONE))
    signed = link(site).split("/")[-2]
    for wrong in ("", "x", token[:-1], signed):
        answer = Visitor(server).get(f"{ALONE}poll/", X_Dbpool_Token=wrong)
        assert answer.status == 403
        assert "Load it again" in answer["error"]


def test_in_a_project_with_the_admin_alone_the_link_is_the_admins(site):
    site.settings["ROOT_URLCONF"] = "tests.process.project.admin_alone"
    try:
        path = link(site)
        assert path.startswith(f"{ADMIN}link/")
        with site.gunicorn() as server:
            page = Visitor(server).get(path)
            assert "Pools" in Poller(server, page, ADMIN).poll()
    finally:
        site.settings["ROOT_URLCONF"] = "tests.process.project.dashboard"


def test_without_a_url_the_command_says_what_to_do(site):
    site.settings["ROOT_URLCONF"] = "tests.process.project.plain"
    try:
        done = site.manage("dbpool_dashboard")
    finally:
        site.settings["ROOT_URLCONF"] = "tests.process.project.dashboard"
    assert done.returncode == 2
    assert 'include("dbpool_mw.urls")' in done.stderr


# --- Other projects -------------------------------------------------------------------


def test_the_page_works_under_asgi(site):
    with site.uvicorn() as server:
        for place in PLACES:
            visitor = Visitor(server, "operator")
            poller = Poller(server, visitor.get(place), place)
            assert "default" in poller.poll()
            assert visitor.confirm(f"{place}act/recycle/?alias=default").status == 302


def test_another_admin_site_takes_the_page_as_the_document_says(site):
    site.settings["ROOT_URLCONF"] = "tests.process.project.another_site"
    try:
        with site.gunicorn() as server:
            place = "/staff/dbpool_mw/dashboard/"
            visitor = Visitor(server, "operator")
            page = visitor.get(place)
            assert f'href="{place}act/drain/' in page.body.decode()
            assert "Pools" in Poller(server, page, place).poll()
            assert visitor.confirm(f"{place}act/recycle/?alias=default").status == 302
    finally:
        site.settings["ROOT_URLCONF"] = "tests.process.project.dashboard"


def test_without_the_admin_the_page_shows_and_acts(site):
    before = dict(site.settings)
    site.settings["ROOT_URLCONF"] = "tests.process.project.page_alone"
    site.settings["INSTALLED_APPS"] = [
        app for app in before["INSTALLED_APPS"] if app != "django.contrib.admin"
    ]
    try:
        with site.gunicorn() as server:
            visitor = Visitor(server, "operator")
            entries = logged(site)
            assert "Pools" in Poller(server, visitor.get(ALONE)).poll()
            assert visitor.confirm(f"{ALONE}act/recycle/?alias=default").status == 302
            assert logged(site) == entries
            assert ": confirmed by " in server.text()
    finally:
        site.settings = before


def test_in_a_project_that_knows_no_users_a_link_opens_the_page(site):
    before = dict(site.settings)
    site.settings["MIDDLEWARE"] = [
        one for one in before["MIDDLEWARE"] if "Authentication" not in one
    ]
    try:
        with site.gunicorn() as server:
            refused = Visitor(server).get(ALONE)
            assert refused.status == 403
            assert b"manage.py dbpool_dashboard" in refused.body
            assert Visitor(server).get(link(site)).status == 200
    finally:
        site.settings = before


def test_switched_off_the_admin_shows_nothing_and_the_page_says_so(site):
    site.settings["DBPOOL_MW_ENABLED"] = False
    (site.control / "orders.json").unlink(missing_ok=True)
    try:
        with site.gunicorn() as server:
            visitor = Visitor(server, "root")
            assert b"dbpool_mw" not in visitor.get("/admin/").body
            assert visitor.get(ADMIN).status == 404
            page = visitor.get(ALONE)
            assert b"DBPOOL_MW_ENABLED is False, so there are no pools." in page.body
            assert b"No worker was found" not in page.body
            done = visitor.confirm(f"{ALONE}act/drain/")
            assert done.status == 400
            assert b"DBPOOL_MW_ENABLED is False" in done.body
        assert not (site.control / "orders.json").exists()
    finally:
        del site.settings["DBPOOL_MW_ENABLED"]


def test_without_control_sockets_the_page_says_so(site):
    before = site.settings["DBPOOL_MW_CONTROL_DIR"]
    site.settings["DBPOOL_MW_CONTROL_DIR"] = False
    try:
        with site.gunicorn() as server:
            page = Visitor(server, "root").get(ALONE)
            assert b"DBPOOL_MW_CONTROL_DIR is False" in page.body
            assert b"No worker was found" not in page.body
            done = Visitor(server, "root").confirm(f"{ALONE}act/drain/")
            assert done.status == 400
    finally:
        site.settings["DBPOOL_MW_CONTROL_DIR"] = before


@pytest.mark.parametrize("field", ["AutoField", "BigAutoField", "SmallAutoField"])
def test_no_migration_is_missing_whatever_the_projects_primary_keys(site, field):
    before = dict(site.settings)
    site.settings |= {"DEFAULT_AUTO_FIELD": f"django.db.models.{field}"}
    try:
        done = site.manage("makemigrations", "--check", "--dry-run", "dbpool_mw")
    finally:
        site.settings = before
    assert done.returncode == 0, done.stdout


def test_the_migration_makes_no_table(site):
    done = site.manage("sqlmigrate", "dbpool_mw", "0001")
    assert done.returncode == 0, done.stderr
    statements = [
        line for line in done.stdout.splitlines() if not line.startswith("--")
    ]
    assert [s for s in statements if s not in ("BEGIN;", "COMMIT;", "")] == []
    with site.session() as cursor:
        cursor.execute("SELECT to_regclass('dbpool_mw_dashboard')")
        assert cursor.fetchone() == (None,)


@pytest.mark.parametrize("option", ["--all", "--indent=1"])
def test_a_dump_of_all_models_does_not_ask_for_the_table(site, option):
    done = site.manage("dumpdata", option)
    assert done.returncode == 0, done.stderr
    assert '"codename": "view_pools"' in done.stdout
