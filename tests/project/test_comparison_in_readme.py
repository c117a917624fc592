"""What a comparison writes into the README, and figures of its page in prose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("docutils", reason="no docutils: pip install --group docs")

from docutils import nodes
from docutils.core import publish_doctree

from sandbox.compare import readme
from sandbox.compare.report import Figure, Table
from tests.documents import ROOT, written_table

ABOUT = {"processor": "A processor, 2 of them usable", "date": "2026-01-31"}


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[Table]:
    """Give two tables with five subjects, of which two have no figures, one no row."""
    monkeypatch.setattr(readme, "SHOWN", ("one", "other", "missing", "broken"))
    pages = Table(
        "Three selects: pages a second",
        "",
        ("Pages/s, 8 clients", "p99, 8 clients"),
        [
            ("one", [Figure([90, 100, 400]), Figure([7.25], "ms", 1)]),
            ("other", [Figure([99]), Figure([8], "ms", 1)]),
            ("not shown", [Figure([70]), Figure([9], "ms", 1)]),
            ("missing", ["not installed: gevent", ""]),
            ("broken", ["failed: ValueError: no", ""]),
        ],
    )
    trips = Table(
        "Round trips for a page",
        "",
        ("Three selects",),
        [
            ("one", [Figure([3])]),
            ("missing", ["not installed: gevent"]),
            ("broken", [Figure([4])]),
        ],
    )
    return [pages, trips]


def test_the_table_has_the_medians_of_what_was_measured(tables: list[Table]) -> None:
    tree = publish_doctree(
        readme.summary(ABOUT, tables), settings_overrides={"halt_level": 2}
    )
    rows = [
        [cell.astext() for cell in row.findall(nodes.entry)]
        for row in tree.findall(nodes.row)
    ]
    assert rows == [
        ["", "Pages/s", "p99", "Round trips"],
        ["one", "100", "7.2 ms", "3"],
        ["other", "99", "8.0 ms", ""],
        ["missing", "not installed", "not installed", "not installed"],
        ["broken", "failed", "failed", "4"],
    ]
    assert [each["uri"] for each in tree.findall(nodes.image)] == [readme.PLOT]
    text = tree.astext().replace("\n", " ")
    for condition in ABOUT.values():
        assert condition in text
    assert "with 8 clients, the median of 3 rounds; p99" in text
    assert text.count("the median of") == 1


def test_only_what_is_between_the_comments_is_replaced(
    tables: list[Table], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = readme.README.read_text(encoding="utf-8")
    before, _, rest = text.partition(readme.BEGIN)
    after = rest.partition(readme.END)[2]
    copy = tmp_path / "README.rst"
    copy.write_text(text, encoding="utf-8")
    monkeypatch.setattr(readme, "README", copy)
    readme.write(ABOUT, tables)
    written = copy.read_text(encoding="utf-8")
    assert written.startswith(before)
    assert written.endswith(after)
    assert readme.summary(ABOUT, tables) in written


def test_a_readme_without_the_comments_stays_as_it_is(
    tables: list[Table], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "README.rst"
    copy.write_text(readme.BEGIN, encoding="utf-8")
    monkeypatch.setattr(readme, "README", copy)
    with pytest.raises(ValueError, match="lacks the line"):
        readme.write(ABOUT, tables)
    assert copy.read_text(encoding="utf-8") == readme.BEGIN


def test_the_address_of_the_page_is_on_one_line(tables: list[Table]) -> None:
    for width in range(100):
        assert f"<{readme.PAGE}>" in readme.summary(
            ABOUT | {"processor": "x" * width}, tables
        )


def rows(tree: nodes.Element) -> Iterator[tuple[str, dict[str, str]]]:
    """Give the rows of a table: the title, and the cells by their columns' titles."""
    head, *body = (
        [cell.astext() for cell in row.findall(nodes.entry)]
        for row in tree.findall(nodes.row)
    )
    for title, *cells in body:
        # The first cell of a row without figures says why it has none.
        yield (
            title,
            {
                column: cell or cells[0]
                for column, cell in zip(head[1:], cells, strict=True)
            },
        )


def sections() -> dict[str, nodes.section]:
    """Return the sections of the comparison's page by their titles."""
    text = Path(ROOT, "docs/comparison.rst").read_text(encoding="utf-8")
    tree = publish_doctree(text, settings_overrides={"halt_level": 2})
    return {each[0].astext(): each for each in tree.findall(nodes.section)}


PAGE = sections()
TABLES = {
    title: dict(rows(table))
    for title, section in PAGE.items()
    for table in section.children
    if isinstance(table, nodes.table)
}


def test_the_readme_has_the_figures_of_the_page() -> None:
    shown = dict(rows(publish_doctree(written_table("README.rst", "comparison"))))
    assert shown
    for subject, cells in shown.items():
        assert list(cells) == list(readme.COLUMNS)
        assert cells == {
            title: re.split(r" \(|:", TABLES[table][subject][column])[0]
            for title, (table, column) in readme.COLUMNS.items()
        }


def numbers(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?", text))


def figures_of(subject: str) -> set[str]:
    """Return the figures of a subject, with the numbers in their columns' titles."""
    found = [table[subject] for table in TABLES.values() if subject in table]
    return numbers(
        " ".join(text for cells in found for each in cells.items() for text in each)
    )


ITEMS = [
    item.astext() for item in PAGE["What others do better"].findall(nodes.list_item)
]
SUBJECTS = list(TABLES["What is compared"])


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.split(" ")[0])
def test_a_figure_in_what_others_do_better_is_one_of_who_is_named(item: str) -> None:
    named = [each for each in SUBJECTS if re.split(r" \(|,", each)[0] in item]
    assert named, item
    known = set[str]().union(*map(figures_of, named))
    assert numbers(item) - known == set()


def failed(subjects: str) -> str:
    """Return of subjects, by a pattern, how many requests failed at least and most."""
    found = [
        int(cells["Backends killed: failed"])
        for subject, cells in TABLES["Failed requests"].items()
        if re.search(subjects, subject)
    ]
    return f"{min(found)} to {max(found)}"


def test_what_is_said_of_failed_requests_is_what_was_measured() -> None:
    text = PAGE["What others do better"].astext().replace("\n", " ")
    asking = failed("^django-db-|^django-postgrespool2|health checks$")
    own = failed("^dbpool_mw")
    assert (
        f"{asking} requests failed of those that ask, and {own} of dbpool_mw's" in text
    )
