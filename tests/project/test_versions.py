"""The versions that the documents and the package name are those that are tested."""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Iterator
from itertools import product

import yaml

from tests.documents import ROOT, sections

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
TOX = configparser.ConfigParser()
TOX.read(ROOT / "tox.ini", encoding="utf-8")


def expanded(text: str) -> Iterator[str]:
    """Yield the names of a line such as ``py{310,311}-django52``."""
    parts = [part.split(",") for part in re.split(r"[{}]", text)]
    yield from map("".join, product(*parts))


def pairs() -> set[str]:
    """Return the pairs of Python and Django in tox.ini."""
    return {name for line in TOX["tox"]["env_list"].split() for name in expanded(line)}


def dotted(version: str) -> str:
    """Return ``310`` as ``3.10``, ``52`` as ``5.2``."""
    return f"{version[0]}.{version[1:]}"


def in_order(versions: set[str]) -> list[str]:
    """Return versions in their order: 3.9 before 3.10."""
    return sorted(versions, key=lambda each: [int(part) for part in each.split(".")])


NUMBERS = [re.findall(r"\d+", name) for name in pairs()]
PYTHONS = in_order({dotted(python) for python, _ in NUMBERS})
DJANGOS = in_order({dotted(django) for _, django in NUMBERS})


def postgres() -> list[str]:
    """Return the versions of PostgreSQL in the public workflow."""
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    matrix = yaml.safe_load(text)["jobs"]["server"]["strategy"]["matrix"]
    versions: list[str] = matrix["postgres"]
    return versions


def oldest(requirements: list[str]) -> dict[str, str]:
    """Return the lower bound of each requirement that has one."""
    found = (
        re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", each) for each in requirements
    )
    return {match[1]: match[2] for match in found if match}


def library(extra: str) -> str:
    """Return the oldest release of the database library that an extra installs."""
    (version,) = oldest(PROJECT["optional-dependencies"][extra]).values()
    return version


def test_the_classifiers_are_the_versions_of_tox() -> None:
    classified = "\n".join(PROJECT["classifiers"])
    assert re.findall(r"Python :: (3\.\d+)$", classified, re.MULTILINE) == PYTHONS
    assert re.findall(r"Django :: (\S+)$", classified, re.MULTILINE) == DJANGOS


def test_the_package_asks_for_the_oldest_that_tox_tests() -> None:
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert oldest(PROJECT["dependencies"])["Django"] == DJANGOS[0]
    name = f"django{DJANGOS[0].replace('.', '')}"
    assert f"{name}: Django>={DJANGOS[0]}," in TOX["testenv"]["deps"]
    deps = TOX["testenv"]["deps"]
    pinned = dict(re.findall(r"^oldest: ([\w-]+)(?:\[binary\])?==(.+)$", deps, re.M))
    assert pinned == {
        "psycopg": library("psycopg"),
        "psycopg2-binary": library("psycopg2"),
    }
    assert library("psycopg") == library("psycopg-binary")
    assert library("psycopg2") == library("binary")


def test_what_is_supported_is_what_is_tested() -> None:
    text = sections("docs/versions.rst")["What is supported"]
    said = dict(re.findall(r"^(\w+)  +(\S.*?)  ", text, re.MULTILINE))
    servers = postgres()
    assert said["Python"] == f"{PYTHONS[0]} to {PYTHONS[-1]}"
    assert said["Django"] == ", ".join(DJANGOS)
    assert said["PostgreSQL"] == f"{servers[0]} to {servers[-1]}"
    assert said["psycopg"] == f"{library('psycopg')} and newer"
    assert said["psycopg2"] == f"{library('psycopg2')} and newer"


def test_the_readme_names_the_versions_that_are_tested() -> None:
    text = sections("README.rst")["What it runs on"]
    said = dict(re.findall(r"^(\w+)  +(\S.*)$", text, re.MULTILINE))
    servers = postgres()
    assert said["Python"] == f"{PYTHONS[0]} to {PYTHONS[-1]}"
    assert re.findall(r"\d+\.\d+", said["Django"]) == DJANGOS
    assert said["PostgreSQL"] == f"{servers[0]} to {servers[-1]}"
    assert dict(re.findall(r"(psycopg2?) (?:3 )?from (\S+) on", said["Drivers"])) == {
        "psycopg": library("psycopg"),
        "psycopg2": library("psycopg2"),
    }
