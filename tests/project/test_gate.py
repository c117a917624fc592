"""The public workflow runs each step of ``.ci/run``, and loses no failure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import product
from string import Template
from typing import Any, NamedTuple

import pytest

from tests.documents import ROOT
from tests.project.test_versions import dotted
from tests.project.test_workflows import WORKFLOWS, workflow

#: Arguments that change neither which tests run nor what they find.
NEUTRAL = re.compile(r"--|-n|2|--dist|loadfile|--parallel-live|--junitxml=.*")


class Command(NamedTuple):
    """A target on one library, and in one environment of tox's if any."""

    name: str
    library: str
    implementation: str
    environment: str
    others: tuple[str, ...]
    files: frozenset[str]
    ignored: frozenset[str]

    def covers(self, other: Command) -> bool:
        """Tell whether this runs all that the other does; no files stands for all."""
        files = not self.files or (other.files and other.files <= self.files)
        return self[:5] == other[:5] and bool(files) and self.ignored <= other.ignored


def parsed(line: str, variables: Mapping[str, str]) -> Iterator[Command]:
    """Give what a line of a shell runs, once for each environment of tox's."""
    words = shlex.split(Template(line).safe_substitute(variables))
    given = dict(word.split("=", 1) for word in words if re.match(r"[A-Z]+=", word))
    default = variables.get("DBPOOL_MW_TEST_LIBRARY", "psycopg2")
    arguments = shlex.split(given.pop("ARGS", ""))
    environments = [""]
    if "-e" in arguments:
        at = arguments.index("-e")
        environments = arguments[at + 1].split(",")
        del arguments[at : at + 2]
    library = given.pop("LIBRARY", default)
    implementation = variables.get("PSYCOPG_IMPL", "")
    name = " ".join(word for word in words if word != "sudo" and "=" not in word)
    files = {each for each in arguments if each.startswith("tests/")}
    ignored = {each for each in arguments if each.startswith("--ignore=")}
    rest = [each for each in arguments if each not in files | ignored]
    others = tuple(each for each in (*rest, *given) if not NEUTRAL.fullmatch(each))
    for environment in environments:
        yield Command(
            name,
            library,
            implementation,
            environment,
            others,
            frozenset(files),
            frozenset(ignored),
        )


def gate() -> Iterator[Command]:
    """Give what each ``step`` of .ci/run runs."""
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace("\\\n", " ")
    variables: dict[str, str] = {}
    for line in map(str.strip, text.splitlines()):
        if assigned := re.match(r'(?:export )?(\w+)=("[^"]*"|\S*)', line):
            value = Template(assigned[2].strip('"')).safe_substitute(variables)
            variables[assigned[1]] = value
        elif line.startswith("step "):
            yield from parsed(line.removeprefix("step "), variables)


def public() -> Iterator[Command]:
    """Give what the jobs of ci.yml run for each change."""
    for job in workflow("ci")["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        if "if" not in job:
            for values in product(*matrix.values()):
                yield from of_job(job, dict(zip(matrix, values, strict=True)))


def of_job(job: dict[str, Any], chosen: dict[str, Any]) -> Iterator[Command]:
    """Give what a job runs with these values of its matrix.

    tox skips an environment whose Python isn't set up, and ends with success.
    """

    def filled(text: object) -> str:
        def value(match: re.Match[str]) -> str:
            found: Any = chosen
            for key in match[1].split("."):
                found = found[key]
            return str(found)

        return re.sub(r"\$\{\{ matrix\.([\w.]+) \}\}", value, str(text))

    pythons: list[str] = []
    for step in job.get("steps", []):
        pythons += filled(step.get("with", {}).get("python-version", "")).split()
        if "run" in step and "if" not in step:
            variables = {**job.get("env", {}), **step.get("env", {})}
            known = {name: filled(value) for name, value in variables.items()}
            for command in parsed(step["run"], known):
                numbers = re.findall(r"^py(\d+)", command.environment)
                if set(map(dotted, numbers)) <= set(pythons):
                    yield command


GATE = list(gate())


def test_the_steps_of_the_gate_are_read() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    names = {f"make {name}" for name in re.findall(r"\bstep make (\w+)", text)}
    assert {command.name for command in GATE} == names | {".ci/debian"}
    assert {command.library for command in GATE} == {"psycopg", "psycopg2"}
    assert {command.implementation for command in GATE} == {"", "python"}


@pytest.mark.parametrize("step", GATE, ids=lambda step: " ".join(step[:4]).strip())
def test_a_job_runs_the_step_of_the_gate(step: Command) -> None:
    assert any(command.covers(step) for command in public()), step


def test_the_jobs_run_for_each_change() -> None:
    events = workflow("ci")[True]  # what YAML reads for "on"
    assert events["push"] == {"branches": ["main"]}
    assert events["pull_request"] is None


@pytest.mark.parametrize("name", [path.stem for path in WORKFLOWS])
def test_no_failure_of_a_step_is_lost(name: str) -> None:
    for job in workflow(name)["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        assert not {"include", "exclude"} & set(matrix)
        for part in (job, *job.get("steps", [])):
            assert "continue-on-error" not in part
            lost = re.findall(r"\|\||;|set \+e|\bexit\b", part.get("run", ""))
            assert lost == [], part["run"]
