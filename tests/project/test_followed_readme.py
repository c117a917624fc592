"""Which Python and Django ``make readme`` follows the README with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("docutils", reason="no docutils: pip install --group docs")

from sandbox.readme import PAIRS, available
from tests.project.test_versions import DJANGOS, PYTHONS
from tests.project.test_workflows import workflow

OLDEST, NEWEST = PAIRS


def test_the_pairs_are_the_oldest_and_the_newest_of_tox() -> None:
    assert OLDEST[:2] == (PYTHONS[0], DJANGOS[0])
    assert NEWEST[:2] == (PYTHONS[-1], DJANGOS[-1])


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the one folder that is on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_pair_whose_python_is_installed_is_followed_as_it_is(on_path: Path) -> None:
    for pair in PAIRS:
        python = on_path / f"python{pair.python}"
        python.symlink_to(sys.executable)
        assert available(pair) == (str(python), f"Django=={pair.django}.*")


def test_this_python_stands_in_for_one_that_is_missing_and_says_so(
    on_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert available(OLDEST) == (sys.executable, f"Django=={OLDEST.django}.*")
    assert available(NEWEST) == (sys.executable, "Django")
    oldest, newest = capsys.readouterr().out.splitlines()
    assert oldest.startswith(f"No Python {OLDEST.python} on PATH starts: 3.")
    assert newest.startswith(f"No Python {NEWEST.python} on PATH starts: 3.")


def test_the_newest_python_there_is_stands_in_for_the_newest(
    on_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    for version in PYTHONS[1:-1]:
        (on_path / f"python{version}").symlink_to(sys.executable)
    newest = PYTHONS[-2]
    assert available(NEWEST) == (str(on_path / f"python{newest}"), "Django")
    assert f": {newest} stands in, with Django." in capsys.readouterr().out
    assert available(OLDEST)[0] == sys.executable


def test_a_shim_that_does_not_start_counts_as_missing(on_path: Path) -> None:
    shim = on_path / f"python{OLDEST.python}"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert available(OLDEST)[0] == sys.executable


def test_the_public_workflow_has_the_python_of_each_pair() -> None:
    steps = workflow("ci")["jobs"]["package"]["steps"]
    (versions,) = [
        step["with"]["python-version"]
        for step in steps
        if "python-version" in step.get("with", {})
    ]
    assert versions.split() == [pair.python for pair in PAIRS]
