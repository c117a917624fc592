"""The comparison works: a short round of a part, whatever it measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.compare import report
from sandbox.compare.__main__ import main
from sandbox.compare.report import Figure, Plot, Table
from sandbox.compare.run import Run, in_turn
from sandbox.compare.subjects import SUBJECTS, installed

ROOT = Path(__file__).resolve().parent.parent.parent

DBPOOL = "dbpool_mw (psycopg2)"
KEPT = "CONN_MAX_AGE = None (psycopg2)"


def compare(tmp_path, *words):
    """Run parts of the comparison; return the rows of each table by its title."""
    file = tmp_path / "figures.json"
    words += ("--quick", "--rounds=2", f"--json={file}")
    # What these need is installed wherever the tests run.
    words += ("--subjects=dbpool-psycopg2,persistent-psycopg2",)
    done = subprocess.run(
        [sys.executable, "-m", "sandbox.compare", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    return {each["title"]: each for each in json.loads(file.read_text())["tables"]}


def test_pooled_and_persistent_connections_add_no_round_trip(tmp_path):
    tables = compare(tmp_path, "--only=wire", "--only=cost")
    wire = tables["Round trips for a page"]["rows"]
    assert set(wire) == {DBPOOL, KEPT}
    for title in (DBPOOL, KEPT):
        assert [cell["median"] for cell in wire[title]] == [3, 0, 2, 0]
    cost = tables["Cost of a cycle"]["rows"]
    for title in (DBPOOL, KEPT):
        assert len(cost[title][0]["rounds"]) == 2
        assert min(cost[title][0]["rounds"]) > 0
    # Both are on one library.
    assert cost[KEPT][1]["rounds"] == [1, 1]
    assert min(cost[DBPOOL][1]["rounds"]) > 0


@pytest.mark.parametrize("words", ["--quick", "--only=wire", "--subjects=django"])
def test_a_part_of_a_run_replaces_no_figures(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare", "--write-docs", words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--write-docs is for a whole run" in capsys.readouterr().err


def test_a_subject_that_is_not_installed_says_what_is_missing():
    (found,) = (each for each in SUBJECTS if each.key == "dbpool-psycopg2")
    assert installed(found) is None
    lacking = found._replace(packages=("psycopg2", "no-such-package"))
    assert installed(lacking) == "not installed: no-such-package"


def test_a_subject_that_fails_has_its_error_and_the_run_goes_on():
    def fail(subject):
        raise ValueError(f"first line\n{subject.key} is out of order")

    run = Run(SUBJECTS, server=None, directory=None)
    failed = run.attempt(SUBJECTS[0], fail)
    assert failed == "failed: ValueError: django is out of order"
    assert run.attempt(SUBJECTS[0], lambda subject: subject.key) == "django"


def test_every_subject_is_named_once():
    assert len({each.key for each in SUBJECTS}) == len(SUBJECTS)
    assert len({each.title for each in SUBJECTS}) == len(SUBJECTS)


def test_each_round_has_every_subject_once_in_an_order_of_its_own():
    subjects, rounds = "abcdefgh", 5
    order = "".join(in_turn(subjects, rounds))
    each = [order[at : at + 8] for at in range(0, len(order), 8)]
    assert [sorted(turn) for turn in each] == [sorted(subjects)] * rounds
    assert len(set(each)) == rounds
    before = {turn[turn.index("d") - 1] for turn in each if turn[0] != "d"}
    assert len(before) > 1
    assert list(in_turn(subjects, rounds)) == list(order)
    assert list(in_turn("", 2)) == []


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (Figure([3, 1, 2]), "2 (1 to 3)"),
        (Figure([1.26, 1.24], "ms", 1), "1.2 ms (1.2 to 1.3)"),
        (Figure([1.0], digits=2), "1.00"),
    ],
)
def test_a_figure_is_the_median_with_the_least_and_the_most(figure, text):
    assert str(figure) == text


def test_the_page_gets_the_tables_between_its_two_comments(tmp_path):
    page = tmp_path / "page.rst"
    page.write_text(f"before\n\n{report.BEGIN}\n\nold\n\n{report.END}\n\nafter\n")
    plot = Plot("x", "Pages", "1/s", ("A",))
    table = Table("Pages", "Counted.", ("A", "B"), plot=plot)
    table.add(SUBJECTS[0], [Figure([1.0]), "yes"])
    table.add(SUBJECTS[1], "failed: *_ `a|b` \\ snake_case")
    report.write_into(page, report.restructured_text({"date": "today"}, [table]))
    text = page.read_text()
    assert text.startswith(
        f"before\n\n{report.BEGIN}\n\nMeasured on:\n\n:date: today\n"
    )
    assert text.endswith(f"{report.END}\n\nafter\n")
    assert ".. image:: images/x.svg\n" in text
    assert "   * - Django's default\n     - 1\n     - yes\n" in text
    escaped = r"failed: \*\_ \`a\|b\` \\ snake_case"
    assert f"   * - {SUBJECTS[1].title}\n     - {escaped}\n     -\n" in text


def test_a_page_without_its_comments_is_left_as_it_is(tmp_path):
    page = tmp_path / "page.rst"
    page.write_text(f"{report.BEGIN}\n")
    with pytest.raises(ValueError, match="figures end"):
        report.write_into(page, "text")
    assert page.read_text() == f"{report.BEGIN}\n"
