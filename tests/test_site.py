"""The site of the documents: what it has, what messages name of it, and dead links."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.metadata import metadata
from itertools import product
from pathlib import Path

import pytest

import dbpool_mw
import dbpool_mw.test
from dbpool_mw.checks import IDS
from dbpool_mw.checks.other_pools import PACKAGES
from dbpool_mw.conf import KEYS, PREFIX
from dbpool_mw.core.docs import SITE
from tests.documents import ROOT
from tests.grafana.generated import ALERTS

sphinx_inventory = pytest.importorskip("sphinx.util.inventory")

PACKAGE = ROOT / "dbpool_mw"
#: What an argument that isn't written out may be.
VALUES = {
    "package.name": {each.name for each in PACKAGES.values()},
    "number.lower()": {each.partition(".")[2].lower() for each in IDS.values()},
}


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Build a site as ``make docs`` does."""
    options = ["-q", "-n", "-W", "--keep-going"]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *options, source, target],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", target)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def inventory(site: Path) -> dict[str, set[str]]:
    """Return the names that other projects find in objects.inv, by their types."""
    content = (site / "objects.inv").read_bytes()
    found = sphinx_inventory.InventoryFile.loads(content, uri="").data
    return {kind: set(names) for kind, names in found.items()}


def test_other_projects_find_each_public_name(inventory: dict[str, set[str]]) -> None:
    names = {
        f"{module.__name__}.{name}"
        for module in (dbpool_mw, dbpool_mw.test)
        for name in module.__all__
    }
    found = set().union(*(inventory[kind] for kind in inventory if kind[:3] == "py:"))
    assert names - found == set()


def test_each_setting_has_an_anchor(inventory: dict[str, set[str]]) -> None:
    assert inventory["std:setting"] == {PREFIX + key for key in KEYS}


def test_each_check_has_an_anchor(inventory: dict[str, set[str]]) -> None:
    assert inventory["std:check"] == set(IDS.values())


class Ids(HTMLParser):
    """Collects the ids in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the id of a tag."""
        self.ids |= {value or "" for name, value in attrs if name == "id"}


def has(site: Path, page: str, anchor: str) -> bool:
    parser = Ids()
    parser.feed((site / f"{page}.html").read_text(encoding="utf-8"))
    return anchor in parser.ids


def named() -> Iterator[tuple[str, str]]:
    """Give the page and the anchor of each call of ``docs.see`` in the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "docs.see":
                yield from product(*map(values, node.args))


def values(argument: ast.expr) -> set[str]:
    if isinstance(argument, ast.Constant):
        return {argument.value}
    return VALUES[ast.unparse(argument)]


def test_hints_name_the_site_that_the_metadata_names() -> None:
    urls = metadata("django-dbpool-mw").get_all("Project-URL")
    assert urls is not None
    assert f"Documentation, {SITE}" in urls


NAMED = sorted(set(named()))


@pytest.mark.parametrize(("page", "anchor"), NAMED)
def test_what_a_hint_names_is_on_the_site(site: Path, page: str, anchor: str) -> None:
    assert has(site, page, anchor)


def test_what_hints_name_is_in_the_package() -> None:
    pages = {page for page, _ in NAMED}
    # Links in a checkout, plain files in an sdist.
    files = {path.stem: path.read_bytes() for path in (PACKAGE / "docs").iterdir()}
    assert files == {page: (ROOT / f"docs/{page}.rst").read_bytes() for page in pages}


def test_what_each_alert_names_is_on_the_site(site: Path) -> None:
    addresses = re.findall(r"runbook_url: (.*)", ALERTS)
    assert len(addresses) == ALERTS.count("- alert: ")
    for address in addresses:
        page, _, anchor = address.removeprefix(SITE).partition(".html#")
        assert has(site, page, anchor)


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("`there <other.rst#a-section>`_", ""),
        ("`there <file.json>`_", ""),
        ("`there <gone.rst>`_", "no such document: gone.rst"),
        ("`there <gone.json>`_", "no such document: gone.json"),
        ("`there <other.rst#gone>`_", "no such anchor: other.rst#gone"),
    ],
)
def test_a_link_that_leads_nowhere_fails_the_build(
    tmp_path: Path, link: str, message: str
) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    (source / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'docs' / '_ext')!r})\n"
        "extensions = ['relative_links']\n"
    )
    (source / "file.json").write_text("{}")
    (source / "other.rst").write_text(
        ":orphan:\n\nOther\n=====\n\nA section\n---------\n"
    )
    (source / "index.rst").write_text(f"Index\n=====\n\n{link}\n")
    done = build(source, tmp_path / "site")
    assert (done.returncode != 0) == bool(message), done.stderr
    assert message in done.stderr
