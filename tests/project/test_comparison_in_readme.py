"""What a comparison writes into the README."""

from __future__ import annotations

import pytest

pytest.importorskip("docutils", reason="no docutils: pip install --group docs")

from docutils import nodes
from docutils.core import publish_doctree

from sandbox.compare import readme
from sandbox.compare.report import Figure, Table

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
