"""Fixtures: Debian's Chromium, driven by Playwright, and a page in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.dashboards import made, serving
from tests.process.projects import Project
from tests.process.servers import Server

#: A browser that does nothing on its own, in a sandboxed or rootless container too.
_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]


# For these tests alone: meanwhile Playwright runs an event loop in this thread.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Give a running browser, which each test opens a window of its own in."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="Playwright, a wheel, isn't installed."
    )
    path = shutil.which("chromium")
    if path is None:
        pytest.skip(
            "There is no chromium, which no wheel brings. On Debian, root can install "
            "it with .ci/debian."
        )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(postgres) -> Iterator[Project]:
    """Give the project with the page, on databases of its own."""
    with made(postgres, DBPOOL_MW_MAX_CONNS=4) as project:
        yield project


@pytest.fixture
def server(site: Project) -> Iterator[Server]:
    with serving(site) as server:
        yield server


class Tab:
    """A page in a window of its own, and what its console has said."""

    def __init__(self, page: Any, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._note)

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, path: str) -> Any:
        """Load a path of the site; return the response."""
        return self.page.goto(self.origin + path)

    def polled(self, times: int = 1) -> None:
        """Wait until so many more polls have come in."""
        seen = int(self.page.get_attribute("#dbp", "data-polls") or 0)
        for number in range(seen + 1, seen + times + 1):
            self.page.wait_for_selector(f'#dbp[data-polls="{number}"]', timeout=30_000)


Open = Callable[..., Any]


@pytest.fixture
def tab(chromium: Any, server: Server) -> Open:
    """Give a function that opens a window: with a user's session, and options."""

    @contextmanager
    def opened(name: str = "", **options: Any) -> Iterator[Tab]:
        options.setdefault("viewport", {"width": 1280, "height": 900})
        context = chromium.new_context(**options)
        try:
            found = Tab(context.new_page(), f"http://127.0.0.1:{server.port}")
            if name:
                assert found.open(f"/log-in/{name}/").status == 200
            yield found
        finally:
            context.close()

    return opened
