"""The public workflows run commands that exist, on the pairs that tox.ini names."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.documents import ROOT
from tests.project.test_versions import dotted, pairs

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def workflow(name: str) -> dict[str, Any]:
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def commands(name: str) -> list[str]:
    """Return what the steps of a workflow run."""
    jobs = workflow(name)["jobs"].values()
    steps = [step for job in jobs for step in job.get("steps", [])]
    return [step["run"] for step in steps if "run" in step]


def targets() -> set[str]:
    """Return the targets of the Makefile that a user calls."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    return {target for line in phony for target in line.split()}


@pytest.mark.parametrize("name", [path.stem for path in WORKFLOWS])
def test_every_target_that_a_workflow_makes_exists(name: str) -> None:
    made = {
        target
        for command in commands(name)
        for target in re.findall(r"\bmake (\S+)", command)
    }
    assert made - targets() == set()


def test_the_files_that_a_workflow_runs_exist() -> None:
    named = [
        name
        for path in WORKFLOWS
        for command in commands(path.stem)
        for name in re.findall(r"(?:\.ci|tests)/[\w./]+", command)
    ]
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_tests_run_on_every_pair_of_tox() -> None:
    matrix = workflow("ci")["jobs"]["pairs"]["strategy"]["matrix"]
    assert sorted(pair["tox"] for pair in matrix["pair"]) == sorted(pairs())
    assert set(matrix["library"]) == {"psycopg", "psycopg2"}
    for pair in matrix["pair"]:
        python, _ = re.findall(r"\d+", pair["tox"])
        assert pair["python"] == dotted(python)
