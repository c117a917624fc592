"""The examples of docs/commands.rst, of the README and of the commands' help."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dbpool_mw.management.commands import dbpool_drain, dbpool_stats
from tests import schema
from tests.conftest import Databases
from tests.documents import ROOT, code_block
from tests.process.projects import MANAGE, Project
from tests.process.servers import Server

DOCUMENT = "docs/commands.rst"
_HOLD = re.compile(r"\d+-\d+-[0-9a-f]+")
_MANAGE = re.compile(r"^ *(?:\$ python )?(manage\.py (?:.*\\\n)*.*)$", re.MULTILINE)


def examples() -> list[str]:
    """Return every command line that is shown, with the words behind manage.py."""
    texts = [
        (ROOT / name).read_text(encoding="utf-8") for name in (DOCUMENT, "README.rst")
    ]
    lines = [
        line for text in texts for line in _MANAGE.findall(text) if "dbpool_" in line
    ]
    for command in (dbpool_stats.Command, dbpool_drain.Command):
        shown = command.examples.partition("examples:\n")[2].partition("\n\n")[0]
        # What it does stands behind two spaces.
        lines += [
            re.sub(r"(?<=\S)  +(?=\w).*", "", line) for line in _MANAGE.findall(shown)
        ]
    lines = [line.replace("\\\n", " ") for line in lines]
    return list(dict.fromkeys(lines))


@pytest.fixture(scope="module")
def served(_databases: Databases) -> Iterator[tuple[Project, Server]]:
    """Give the project and a server of two workers, which each served a request."""
    with tempfile.TemporaryDirectory(prefix="dbpool-", dir="/tmp") as directory:
        project = Project(_databases, Path(directory))
        project.settings["DBPOOL_MW_EAGER"] = ("default", "replica")
        project.settings["DBPOOL_MW_ROUTES"] = 50
        with project.gunicorn("--threads", "2", workers=2) as server:
            project.serve_by_all(server, 2)
            yield project, server


def test_there_are_examples_of_every_kind():
    found = examples()
    assert len(found) > 20
    options = ["--watch", "--columns", "--output", "--holders", "--routes", "--advise"]
    for option in [*options, "--pause", "--cancel"]:
        assert any(option in line for line in found)


@pytest.mark.parametrize("line", examples())
def test_every_example_runs(served, tmp_path, line):
    project, server = served
    words = shlex.split(line, comments=True)[1:]
    if ">" in words or ">>" in words:
        words = words[: next(i for i, word in enumerate(words) if ">" in word)]
    words = [str(project.pids()[0]) if word == "4711" else word for word in words]
    file = None
    if "--output" in words:
        at = words.index("--output") + 1
        words[at] = str(file := tmp_path / Path(words[at]).name)
    if "--watch" in words:
        watched(project, words, file)
    elif "--cancel" in words:
        cancelled(project, server, words)
    else:
        done = project.manage(*words)
        assert done.returncode == 0, done.stderr
    if file is not None:
        assert file.read_text()


def cancelled(project: Project, server: Server, words: list[str]) -> None:
    """Run an example with the ids of real holds, which it ends."""
    at = [number for number, word in enumerate(words) if _HOLD.fullmatch(word)]
    assert at
    assert project.manage("dbpool_drain", "--resume").returncode == 0
    with ThreadPoolExecutor() as clients, project.lock(5):
        held = [clients.submit(server.get, "/holds/?key=5") for _ in at]
        project.wait_for_lock(5, len(at))
        found = [h for h in project.holders("/holds/") if h["alias"] == "default"]
        for number, holder in zip(at, found, strict=True):
            words[number] = holder["id"]
        done = project.manage(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert [request.result(20).status for request in held] == [500] * len(at)
    if "json" in words:
        document = json.loads(done.stdout)
        schema.check(document, "dbpool_drain")
        shown = json.loads(code_block(DOCUMENT, '"unconfirmed"', "json"))
        assert shape(document) == {**shape(shown), "unknown": []}


def watched(project: Project, words: list[str], file: Path | None) -> None:
    """Run an example until its first look, and end it with Ctrl-C."""
    with subprocess.Popen(
        [sys.executable, MANAGE, *words],
        cwd=ROOT,
        env=project.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        if file is None:
            assert process.stdout.readline()
        else:
            while not file.exists():
                assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, ""), words


def shape(value: Any) -> Any:
    """Return the keys of JSON, whatever its numbers and texts are."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return None


def test_the_document_of_a_drain_is_the_one_that_is_shown(served):
    project, server = served
    assert project.manage("dbpool_drain", "--resume").returncode == 0
    shown = json.loads(code_block(DOCUMENT, '"lasts_seconds"', "json"))
    command = code_block(DOCUMENT, "--format json", "console")
    words = shlex.split(command.partition("manage.py ")[2])
    with ThreadPoolExecutor() as clients:
        with project.lock(5):
            held = clients.submit(server.get, "/holds/?key=5")
            project.wait_for_lock(5)
            done = project.manage(*words)
            assert project.manage("dbpool_drain", "--resume").returncode == 0
        assert held.result(20).status == 200
    document = json.loads(done.stdout)
    (holder,) = [h for w in document["workers"] for h in w["holders"]]
    assert done.returncode == 1
    assert document["result"] == shown["result"] == "timeout"
    (one,) = [worker for worker in document["workers"] if worker["left"]]
    assert holder["path"] == "/holds/"
    assert 0 < document["lasts_seconds"] < 60
    # Newer keys of a holder are named elsewhere.
    holder = {key: holder[key] for key in shown["workers"][0]["holders"][0]}
    document["workers"] = [{**one, "holders": [holder]}]
    assert shape(document) == shape(shown)


def test_the_tables_of_results_name_all_of_them():
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    source = (ROOT / "dbpool_mw/management/commands/dbpool_drain.py").read_text()
    for result in re.findall(r'return "(\w+)" if|else "(\w+)"|return "(\w+)"$', source):
        assert f"``{''.join(result)}``" in text
