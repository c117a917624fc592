"""The public workflows run commands that exist, on the pairs that tox.ini names."""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import yaml

from tests.documents import ROOT, sections

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it

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


def expanded(text: str) -> Iterator[str]:
    """Yield the names of a line such as ``py{310,311}-django52``."""
    parts = [part.split(",") for part in re.split(r"[{}]", text)]
    yield from map("".join, product(*parts))


def pairs() -> set[str]:
    """Return the pairs of Python and Django in tox.ini."""
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    lines = tox["tox"]["env_list"].split()
    return {name for line in lines for name in expanded(line) if name.startswith("py")}


def as_numbers(version: str) -> list[int]:
    """Return what sorts 3.9 before 3.10."""
    return [int(part) for part in version.split(".")]


def dotted(version: str) -> str:
    """Return ``310`` as ``3.10``, ``52`` as ``5.2``."""
    return f"{version[0]}.{version[1:]}"


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


def test_the_classifiers_are_the_versions_of_tox() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    classified = "\n".join(project["project"]["classifiers"])
    versions = [re.findall(r"\d+", name) for name in pairs()]
    assert set(re.findall(r"Python :: (3\.\d+)$", classified, re.MULTILINE)) == {
        dotted(python) for python, _ in versions
    }
    assert set(re.findall(r"Django :: (\S+)$", classified, re.MULTILINE)) == {
        dotted(django) for _, django in versions
    }


def test_what_is_supported_is_what_is_tested() -> None:
    text = sections("docs/versions.rst")["What is supported"]
    rows = re.findall(r"^(\w+)  +(\S.*?)  ", text, re.MULTILINE)
    numbers = [re.findall(r"\d+", name) for name in pairs()]
    pythons = sorted((dotted(python) for python, _ in numbers), key=as_numbers)
    djangos = sorted({dotted(django) for _, django in numbers})
    servers = workflow("ci")["jobs"]["server"]["strategy"]["matrix"]["postgres"]
    said = dict(rows)
    assert said["Python"] == f"{pythons[0]} to {pythons[-1]}"
    assert said["Django"] == ", ".join(djangos)
    assert said["PostgreSQL"] == f"{servers[0]} to {servers[-1]}"
