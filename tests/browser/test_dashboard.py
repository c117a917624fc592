"""The page of the pools in a real browser: alive, strictly served, for everybody."""

from __future__ import annotations

import json
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import django
import pytest

from tests.browser.conftest import Tab
from tests.dashboards import APPS, POLICIES, made
from tests.documents import ROOT, WRITE, code_block

ALONE, ADMIN = "/dbpool/", "/admin/dbpool_mw/dashboard/"
PLACES = [ALONE, ADMIN]
KEY = 4712
IMAGES = ROOT / "docs" / "images"
STANDS_STILL = (
    "This page doesn't update, as its script hasn't run: it shows what was so when it "
    "was loaded."
)
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright",
    reason="axe-playwright-python, a wheel, isn't installed.",
)


#: The frame of Django 4.2's admin has too little contrast itself.
WHOLE = "html" if django.VERSION >= (5,) else ".dbp"


def serious(page: Any, part: str = WHOLE) -> list[tuple[str, list[Any]]]:
    """Return what axe finds in a part of the page that is serious or critical."""
    return [
        (found["id"], [node["target"] for node in found["nodes"]])
        for found in axe.Axe().run(page, part).response["violations"]
        if found["impact"] in ("serious", "critical")
    ]


def cells(page: Any, table: str) -> list[dict[str, str]]:
    """Return the rows of a table as a reader finds them: each text by its column."""
    rows = page.query_selector_all(f"#dbp-{table} tbody tr")
    return [
        {
            cell.get_attribute("data-label"): cell.inner_text()
            for cell in row.query_selector_all("th, td")
        }
        for row in rows
    ]


@pytest.fixture
def held(site, server):
    """Hold a connection by a request, for as long as the test lasts."""

    def hold() -> None:
        # The client may give up; its request goes on.
        with suppress(OSError):
            server.get(f"/holds/?key={KEY}")

    with site.lock(KEY):
        slow = threading.Thread(target=hold)
        slow.start()
        site.wait_for_lock(KEY)
        yield
    slow.join(20)


@pytest.mark.parametrize("place", PLACES)
def test_the_page_keeps_up_to_date_under_a_strict_policy(
    site, server, tab, held, place
):
    with tab("operator") as window:
        response = window.open(place)
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "unsafe" not in response.headers["content-security-policy"]
        window.polled()
        before = site.totals()["checkouts"]
        for _ in range(3):
            server.get("/facts/")
        window.polled(2)
        told = json.loads(site.manage("dbpool_stats", "--format", "json").stdout)
        (shown,) = cells(window.page, "pools")
        assert int(shown["Checkouts"]) == told["totals"]["checkouts"] == before + 3
        assert int(shown["In use"]) == told["totals"]["in_use"] == 1
        (holder,) = cells(window.page, "holders")
        assert holder["Request"] == "GET /holds/"
        assert window.page.inner_text("#dbp-status") == "Updating every 2 seconds."
        assert window.complaints == []


@pytest.mark.parametrize("place", PLACES)
def test_polls_of_a_browser_take_no_connection(site, tab, place):
    with tab("watcher") as window:
        window.open(place)
        site.rest()
        before = site.totals()
        window.polled(4)
        after = site.totals()
        assert after["checkouts"] == before["checkouts"]
        assert after["opened"] == before["opened"]


def test_a_policy_of_nonces_and_of_trusted_types_is_obeyed(chromium, site):
    with served_with(site, f"{POLICIES}.Nonces", {}) as server:
        check_policy(chromium, server, [ALONE], "trusted-types dbpool_mw")


@pytest.mark.skipif(django.VERSION < (6,), reason="Django sends policies from 6.0 on.")
@pytest.mark.parametrize("with_nonces", [False, True])
def test_the_policy_of_the_document_is_obeyed(chromium, site, with_nonces):
    names: dict[str, Any] = {"MIDDLEWARE": []}
    exec(code_block("docs/dashboard.rst", "SECURE_CSP"), names)
    policy = {
        key: [str(value) for value in of] for key, of in names["SECURE_CSP"].items()
    }
    (middleware,) = names["MIDDLEWARE"]
    places = PLACES
    if with_nonces:
        policy["script-src"] = policy["style-src"] = ["<CSP_NONCE_SENTINEL>"]
        # The admin has nonces from 6.1 on.
        places = PLACES if django.VERSION >= (6, 1) else [ALONE]
    with served_with(site, middleware, {"SECURE_CSP": policy}) as server:
        sent = "'nonce-" if with_nonces else "script-src 'self'"
        check_policy(chromium, server, places, sent)


@contextmanager
def served_with(site, middleware: str, settings: dict[str, Any]) -> Iterator[Any]:
    """Serve the site with another middleware that sends the policy."""
    before = dict(site.settings)
    replaced = f"{POLICIES}.Policy"
    site.settings["MIDDLEWARE"] = [
        middleware if one == replaced else one for one in before["MIDDLEWARE"]
    ]
    processor = "django.template.context_processors.csp"
    if settings and "csp" in middleware:
        (engine,) = json.loads(json.dumps(before["TEMPLATES"]))
        engine["OPTIONS"]["context_processors"].append(processor)
        site.settings["TEMPLATES"] = [engine]
    site.settings |= settings
    try:
        with site.gunicorn("--threads", "8") as server:
            site.serve_by_all(server, 1)
            yield server
    finally:
        site.settings = before


def check_policy(chromium, server, places: list[str], sent: str) -> None:
    """Open every page under the policy that the site sends; nothing may break it."""
    context = chromium.new_context()
    window = Tab(context.new_page(), f"http://127.0.0.1:{server.port}")
    window.open("/log-in/operator/")
    for place in places:
        response = window.open(place)
        assert sent in response.headers["content-security-policy"]
        window.polled(2)
        window.open(f"{place}act/pause/?alias=default")
        colour = "getComputedStyle(document.querySelector('.dbp-button')).cursor"
        assert window.page.evaluate(colour) == "pointer"
    assert window.complaints == []
    context.close()


def test_the_page_is_alive_and_readable_in_unfolds_admin(chromium, site):
    pytest.importorskip("unfold", reason="no django-unfold: pip install --group test")
    # Unfold evaluates texts as scripts, which a strict policy forbids.
    no_policy = "django.middleware.security.SecurityMiddleware"
    apps = {"INSTALLED_APPS": ["unfold", *APPS]}
    with served_with(site, no_policy, apps) as server:
        # The admin's switch outweighs the scheme of the system.
        for scheme, switch in (("light", "dark"), ("dark", "light")):
            context = chromium.new_context(color_scheme=scheme)
            switched = f"localStorage.adminTheme = JSON.stringify('{switch}')"
            context.add_init_script(switched)
            window = Tab(context.new_page(), f"http://127.0.0.1:{server.port}")
            window.open("/log-in/operator/")
            for path in (ADMIN, f"{ADMIN}act/pause/?alias=default"):
                window.open(path)
                if path == ADMIN:
                    window.polled(2)
                window.page.wait_for_selector(f"html.{switch}")
                assert serious(window.page, ".dbp") == []
                weight = (
                    "getComputedStyle(document.querySelector('.dbp h2')).fontWeight"
                )
                assert window.page.evaluate(weight) == "700"
            assert window.complaints == []
            context.close()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["wide", "phone"])
def test_nothing_serious_keeps_anybody_from_reading_it(tab, held, place, scheme, size):
    options = PHONE if size == "phone" else {}
    with tab("operator", color_scheme=scheme, **options) as window:
        for path in (place, f"{place}act/pause/?alias=default"):
            window.open(path)
            if path == place:
                window.polled()
            assert serious(window.page) == []
            wide, room = window.page.evaluate(
                "[document.documentElement.scrollWidth, window.innerWidth]"
            )
            assert wide <= room
        background = window.page.evaluate(
            "getComputedStyle(document.body).backgroundColor"
        )
        lightness = sum(map(int, background.strip("rgb()").split(",")[:3]))
        assert (lightness < 200) == (scheme == "dark")
        assert window.complaints == []


@pytest.mark.parametrize("place", PLACES)
def test_without_javascript_everything_can_be_read_and_done(site, tab, held, place):
    with tab("operator", java_script_enabled=False) as window:
        window.open(place)
        assert window.page.inner_text("#dbp-status") == STANDS_STILL
        (holder,) = cells(window.page, "holders")
        assert holder["Request"] == "GET /holds/"
        assert window.page.locator("#dbp-charts svg[role=img]").count() == 4
        window.page.click("#dbp-pools a:has-text('Pause')")
        assert "Requests wait for a connection." in window.page.inner_text(".dbp")
        window.page.fill("#dbp-seconds", "77")
        window.page.click("button[type=submit]:has-text('Pause')")
        progress = window.page.inner_text(".dbp-progress")
        assert f"default, all workers on {platform.node()}: waits for 1" in progress
        (order,) = cells(window.page, "orders")
        assert order["State"] == "paused"
        assert order["Ends in"].startswith("1m1")
        window.page.click("#dbp-orders a:has-text('Resume')")
        window.page.click("button[type=submit]:has-text('Resume')")
        assert "every pool runs" in window.page.inner_text(".dbp-progress")
        assert {s for found in site.states().values() for s in found} == {"running"}


def test_a_keyboard_alone_pauses_and_resumes_with_the_end_counted_down(site, tab):
    with tab("operator") as window:
        page = window.page
        window.open(ALONE)
        window.polled()
        reach(page, "Pause default, all workers")
        page.keyboard.press("Enter")
        page.wait_for_selector("#dbp-seconds")
        reach(page, "Pause: default, all workers")
        page.keyboard.press("Enter")
        page.wait_for_selector(".dbp-progress")
        assert {s for found in site.states().values() for s in found} == {"paused"}
        assert "done, no old connection is left" in page.inner_text(".dbp-progress")
        window.polled()
        left = page.inner_text("#dbp-orders [data-seconds]")
        page.wait_for_selector(
            f"#dbp-orders [data-seconds]:not(:text-is('{left}'))", timeout=10_000
        )
        # What has the focus keeps it, whatever the polls bring.
        reach(page, "Resume default")
        window.polled(2)
        assert focused(page).startswith("Resume default")
        page.keyboard.press("Enter")
        page.wait_for_selector("button[type=submit]")
        reach(page, "Resume: default, all workers")
        page.keyboard.press("Enter")
        page.wait_for_selector(".dbp-progress:has-text('every pool runs')")
        assert window.complaints == []


def focused(page: Any) -> str:
    """Return what a screen reader calls the element that has the focus."""
    return page.evaluate(
        "document.activeElement.getAttribute('aria-label')"
        " || document.activeElement.textContent"
    )


def reach(page: Any, name: str) -> None:
    """Press Tab until the focus is on what has that name."""
    for _ in range(100):
        page.keyboard.press("Tab")
        if focused(page).startswith(name):
            return
    pytest.fail(f"the keyboard doesn't reach {name!r}")


def test_a_drain_is_shown_until_its_last_request_has_ended(site, server, tab):
    with tab("operator") as window:
        page = window.page
        with site.lock(KEY):
            slow = threading.Thread(target=server.get, args=[f"/holds/?key={KEY}"])
            slow.start()
            site.wait_for_lock(KEY)
            window.open(f"{ADMIN}act/drain/?alias=default")
            page.click("button[type=submit]:has-text('Drain')")
            page.wait_for_selector(".dbp-progress:has-text('GET /holds/')")
        slow.join(20)
        page.wait_for_selector(
            ".dbp-progress:has-text('done, no old connection is left.')"
        )
        assert server.get("/facts/").status == 200
        assert window.complaints == []


def test_an_open_page_goes_on_when_the_database_is_stopped(own_postgres, chromium):
    with made(own_postgres) as project, project.gunicorn("--threads", "8") as server:
        project.serve_by_all(server, 1)
        context = chromium.new_context()
        window = Tab(context.new_page(), f"http://127.0.0.1:{server.port}")
        window.open("/log-in/watcher/")
        window.open(ALONE)
        window.polled()
        own_postgres.stop()
        try:
            window.polled(2)
            opened = project.manage("dbpool_dashboard", window.origin).stdout.strip()
            link = Tab(context.new_page(), window.origin)
            assert link.page.goto(opened).status == 200
            link.polled(2)
            assert cells(link.page, "pools")[0]["Alias"] == "default"
            assert [*window.complaints, *link.complaints] == []
        finally:
            own_postgres.start()
            context.close()


def test_a_page_that_is_refused_says_so_and_stops(tab):
    with tab("watcher") as window:
        window.open(ALONE)
        window.polled()
        refusal = {"status": 403, "json": {"error": "Too old."}}
        window.page.route("**/poll/**", lambda route: route.fulfill(**refusal))
        window.page.wait_for_selector("#dbp-status:text-is('Too old.')")
        assert window.page.inner_text("#dbp-stop") == "Update again"
        window.page.unroute("**/poll/**")
        window.page.click("#dbp-stop")
        window.polled()


def test_however_often_updating_is_stopped_one_poll_at_a_time_is_asked(tab):
    with tab("watcher") as window:
        page, under_way, most = window.page, set(), [0]

        def begin(request: Any) -> None:
            if "/poll/" in request.url:
                under_way.add(request)
                most.append(len(under_way))

        def answer(route: Any) -> None:
            # The first three get no answer.
            if len(most) > 4:
                route.continue_()

        page.on("request", begin)
        for event in ("requestfinished", "requestfailed"):
            page.on(event, lambda request: under_way.discard(request))
        page.route("**/poll/**", answer)
        with page.expect_request("**/poll/**"):
            window.open(ALONE)
        for _ in range(3):
            with page.expect_event("requestfailed"):
                page.click("#dbp-stop:text-is('Stop updating')")
            assert page.inner_text("#dbp-status") == "Not updating."
            with page.expect_request("**/poll/**"):
                page.click("#dbp-stop:text-is('Update again')")
        window.polled(3)
        assert max(most) == 1
        assert window.complaints == []


def test_a_page_whose_script_cannot_be_loaded_says_that_it_stands_still(tab):
    with tab("watcher") as window:
        window.page.route("**/dashboard.js", lambda route: route.abort())
        window.open(ALONE)
        assert window.page.inner_text("#dbp-status") == STANDS_STILL
        assert window.page.is_hidden("#dbp-stop")


def test_a_proxy_that_wants_the_cookies_gets_them(tab):
    with tab("watcher") as window:

        def demand(route: Any) -> None:
            if "cookie" in route.request.all_headers():
                route.continue_()
            else:
                route.fulfill(status=401, content_type="text/html", body="log in")

        window.page.route("**/poll/**", demand)
        window.open(ALONE)
        window.polled(2)


@pytest.mark.skipif(
    not WRITE, reason="Writes the images of the documents: DBPOOL_MW_TEST_WRITE_DOCS=1."
)
def test_the_images_of_the_documents_are_written(site, server, tab, held):
    IMAGES.mkdir(exist_ok=True)
    done = threading.Event()

    def requests() -> None:
        number = 0
        while not done.is_set():
            number += 1
            slow = 0.4 if number % 9 == 0 else 0.02
            server.get(f"/run/?sql=select+pg_sleep({slow})")

    clients = [threading.Thread(target=requests) for _ in range(5)]
    for client in clients:
        client.start()
    try:
        for name, place, options in (
            ("dashboard", ALONE, {"color_scheme": "light"}),
            ("dashboard-dark", ALONE, {"color_scheme": "dark"}),
            ("dashboard-admin", ADMIN, {"color_scheme": "light"}),
            ("dashboard-phone", ALONE, PHONE),
        ):
            options.setdefault("viewport", {"width": 1280, "height": 1400})
            with tab("operator", **options) as window:
                window.open(place)
                window.polled(7)
                window.page.screenshot(path=str(IMAGES / f"{name}.png"))
    finally:
        done.set()
        for client in clients:
            client.join(20)
