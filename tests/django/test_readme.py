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


def fault(name: str) -> tuple[int, int, int]:
    """Return the requests under gunicorn's threads, those with 200, and with 503."""
    table = written_table("docs/reliability.rst")
    row = re.search(rf"^{re.escape(name)} +gthread +(\d+) +(\d+) +(\d+) ", table, re.M)
    assert row
    return int(row[1]), int(row[2]), int(row[3])


def test_the_figures_of_faults_are_those_that_were_measured() -> None:
    text = " ".join(README.split())
    requests, served, refused = fault("all backends terminated, 5 times")
    assert refused == 0
    assert f"{requests - served} of {requests} requests failed" in text
    requests, served, refused = fault("the server restarts (fast)")
    assert requests == served + refused
    assert f"none of {requests} failed, and {refused} got a 503" in text
