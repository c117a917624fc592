"""CONTRIBUTING.rst names files, folders, targets and tests that exist."""

from __future__ import annotations

import re

from tests.documents import ROOT
from tests.project.test_workflows import targets

TEXT = (ROOT / "CONTRIBUTING.rst").read_text(encoding="utf-8")


def test_every_path_exists() -> None:
    named = re.findall(
        r"``((?:\.ci|\.github|dbpool_mw|docs|sandbox|tests)/[\w./]+)``", TEXT
    )
    links = re.findall(r"<(\w[\w./-]*)>`_", TEXT)
    assert len(named) > 30
    wanted = {name for name in [*named, *links] if "NAME" not in name}
    assert sorted(name for name in wanted if not (ROOT / name).exists()) == []


def test_every_test_exists() -> None:
    for name in re.findall(r"``(test_\w+)``", TEXT):
        assert f"def {name}(" in (ROOT / "tests" / "test_layers.py").read_text("utf-8")
    for name in re.findall(r"``(test_\w+\.py)``", TEXT):
        assert (ROOT / "tests" / "postgres" / name).is_file(), name


def test_every_folder_of_tests_is_in_the_table() -> None:
    folders = {
        f"tests/{path.parent.name}" for path in (ROOT / "tests").glob("*/__init__.py")
    }
    table = re.findall(r"^``(tests/\w+)`` ", TEXT, re.MULTILINE)
    assert sorted(table) == sorted(folders)


def test_the_targets_are_those_of_the_makefile() -> None:
    named = re.findall(r"(?:``|^    )make (\w+)", TEXT, re.MULTILINE)
    assert set(named) == targets() - {"clean", "help", "quick"}
