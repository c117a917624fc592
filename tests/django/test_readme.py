"""README.rst: its addresses, which have to work on a package index, and its figures."""

from __future__ import annotations

import re
import sys

from tests.documents import ROOT, written_table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it

README = (ROOT / "README.rst").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SITE = PYPROJECT["project"]["urls"]["Documentation"]
REPOSITORY = PYPROJECT["project"]["urls"]["Source"]
#: The repository's files, as pages and, for images, as they are.
FILES = (
    f"{REPOSITORY}/blob/main/",
    REPOSITORY.replace("github.com", "raw.githubusercontent.com") + "/main/",
)


def targets() -> list[str]:
    """Return the address of each link and image."""
    found = re.findall(r"<([^<>]+)>`_|^\s*\.\. image:: (\S+)", README, re.MULTILINE)
    return [link or image for link, image in found]


def anchors(document: str) -> set[str]:
    """Return the anchors of a document's sections."""
    titles = re.findall(r"^(.+)\n(?:=+|-+|~+)$", document, re.MULTILINE)
    return {re.sub(r"[^a-z0-9]+", "-", each.lower()).strip("-") for each in titles}


def test_every_address_is_absolute() -> None:
    assert len(targets()) > 20
    assert [each for each in targets() if not each.startswith("https://")] == []


def test_every_page_of_the_site_is_a_document() -> None:
    pages = [each.removeprefix(SITE) for each in targets() if each.startswith(SITE)]
    assert pages
    for page in pages:
        name, _, anchor = page.partition("#")
        document = ROOT / "docs" / name.replace(".html", ".rst")
        assert name.endswith(".html"), page
        assert document.is_file(), page
        assert not anchor or anchor in anchors(document.read_text("utf-8")), page


def test_every_file_of_the_repository_exists() -> None:
    paths = [
        each.removeprefix(base)
        for base in FILES
        for each in targets()
        if each.startswith(base)
    ]
    assert any(path.endswith(".png") for path in paths)
    assert [path for path in paths if not (ROOT / path).is_file()] == []


#: A row of the table: the server, the requests, and those answered with 200.
ROW = r"^%s +(\w+) +(\d+) +(\d+) "


def faults(name: str) -> dict[str, tuple[int, int]]:
    """Return for each server the requests that weren't answered with 200, and all."""
    table = written_table("docs/reliability.rst")
    rows = re.findall(ROW % name, table, re.MULTILINE)
    assert len(rows) > 2, name
    found: dict[str, tuple[int, int]] = {}
    for server, requests, served in rows:
        found[f"{server} {len(found)}"] = int(requests) - int(served), int(requests)
    return found


def test_the_figures_of_faults_are_those_that_were_measured() -> None:
    text = " ".join(README.split())
    terminated = faults("all backends terminated, 5 times")
    (threads, uvicorn, gevent) = (
        f"{failed} of {requests}" for failed, requests in terminated.values()
    )
    assert (
        f"{threads} requests failed under gunicorn's threads, "
        f"{uvicorn} under uvicorn, {gevent} under gevent"
    ) in text
    restarts = faults(r"the server restarts \([a-z0-9 -]+\)").values()
    failed, requests = zip(*restarts, strict=True)
    assert (
        f"{min(failed)} to {max(failed)} of {min(requests)} to {max(requests)} requests"
    ) in text
