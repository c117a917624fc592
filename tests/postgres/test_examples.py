"""Every example of the documents runs: in the test that reads it, or here by its kind.

README.rst is followed by ``make readme``, word for word.
"""

from __future__ import annotations

import ast
import configparser
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import metadata
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.asgi import get_asgi_application
from django.core.management import get_commands, load_command_class
from django.db import connection, connections
from django.db.utils import load_backend
from django.http import HttpResponse
from django.test import override_settings
from django.urls import include, path, resolve
from django.utils.module_loading import import_string

from dbpool_mw import checks, pooled, warm_up
from dbpool_mw.conf import PREFIX
from tests.documents import ROOT, code_block
from tests.postgres.conftest import ask, stats

pytest.importorskip("docutils", reason="no docutils: pip install --group docs")

from tests.examples import Example, examples, readers

SETTINGS = "docs/settings.rst"
SERVERS = "docs/servers.rst"
UNAVAILABLE = "docs/unavailable.rst"

#: The documents whose Python another test reads section by section.
READ_BY_SECTION = {"docs/migrating.rst": "tests/process/test_migrating.py"}

#: What is shown, and not run: the first words, and why.
SHOWN = {
    "middleware ─► begin_request": "a drawing",
    "503 for GET /orders/": "a line of the log; test_documents.py knows its text",
    "?: (dbpool_mw.W004)": "what a check says; test_deployment.py compares it",
    "AssertionError: 'default'": "what an assertion says; its numbers are of no test",
    "ALIAS    ROUTE": "a table; test_routes_command.py knows its columns",
}


def reader(example: Example) -> str | None:
    """Return the test that reads an example, None if none does."""
    if example.language == "python":
        return readers().get(example) or READ_BY_SECTION.get(example.document)
    return readers().get(example)


def is_shown(example: Example) -> bool:
    return example.language in ("", "text") and example.text.startswith(tuple(SHOWN))


LEFT = [each for each in examples() if reader(each) is None and not is_shown(each)]


def test_there_are_examples_of_both_kinds() -> None:
    assert len(examples()) - len(LEFT) > 50
    assert len(LEFT) > 30


def test_each_text_that_is_not_run_is_there() -> None:
    texts = [each.text for each in examples() if is_shown(each)]
    for beginning in SHOWN:
        assert any(text.startswith(beginning) for text in texts)


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the module and the variables of the environment that examples name."""
    views = ModuleType("project.views")
    exec(code_block(UNAVAILABLE, "def busy"), vars(views))
    monkeypatch.setitem(sys.modules, "project", ModuleType("project"))
    monkeypatch.setitem(sys.modules, "project.views", views)
    monkeypatch.setenv("METRICS_TOKEN", "that-nobody-guesses")


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("example", LEFT, ids=str)
def test_an_example_that_no_other_test_reads_runs(example: Example) -> None:
    kind = example.language or guess(example.text)
    KINDS[kind](example.text)


def guess(text: str) -> str:
    """Return the language of a block that names none."""
    if text.startswith(("$ ", ".ci/")) or program(text.splitlines()[0]) in PROGRAMS:
        return "console"
    return "python"


# --- Python --------------------------------------------------------------------------


def run_python(text: str) -> None:
    """Run settings as they stand there, and have the checks look at each.

    Other Python needs a test of its own, which calls it.
    """
    names: dict[str, Any] = {"os": os}
    for statement in ast.parse(text).body:
        exec(compile(ast.Module([statement], []), "<example>", "exec"), names)
        own = {name: names[name] for name in names if name.startswith(PREFIX)}
        with override_settings(**own):
            assert checks.check_settings() == []
    assert any(name.isupper() for name in names)
    for database in names.get("DATABASES", {}).values():
        load_backend(database["ENGINE"])
    for name in names.get("MIDDLEWARE", ()):
        import_string(name)


def test_a_setting_of_an_example_is_checked() -> None:
    with pytest.raises(AssertionError):
        run_python("DBPOOL_MW_MAX_CONN = 10")
    with pytest.raises(AssertionError):
        run_python("def view(request): ...")
    with pytest.raises(AssertionError):
        run_python('DBPOOL_MW_EXEMPT = "/health/"\nDBPOOL_MW_EXEMPT = ["/health/"]')


def test_the_view_for_requests_without_a_connection_answers() -> None:
    def render(request: object, template: str, status: int) -> HttpResponse:
        return HttpResponse(template, status=status)

    names: dict[str, Any] = {"render": render}
    exec(code_block(UNAVAILABLE, "def busy"), names)
    assert names["busy"](None, Exception()).status_code == 503


def test_the_page_of_metrics_is_where_the_example_has_it() -> None:
    urls = ModuleType("urls")
    vars(urls).update(path=path, include=include)
    exec(code_block("docs/observability.rst", "urlpatterns"), vars(urls))
    found = resolve("/dbpool/metrics", urls)
    assert found.view_name == "dbpool_mw:metrics"


def test_the_hosts_of_a_cluster_reach_libpq() -> None:
    own = code_block("docs/reliability.rst", "target_session_attrs")
    changes = eval(f"{{{own}}}")
    base = {**connections.settings["default"], **changes}
    wrapper = connections["default"].__class__(base, "default")
    params = wrapper.get_connection_params()
    assert (params["host"], params["port"]) == (changes["HOST"], changes["PORT"])
    assert params["target_session_attrs"] == "read-write"


def test_a_report_runs_as_the_user_of_the_example(databases: Any) -> None:
    user = ask("SELECT 'report_ro_' || pg_backend_pid()")
    ask(f"CREATE ROLE {user} LOGIN PASSWORD 'secret'")
    text = code_block(SETTINGS, "def report").replace("report_ro", user)
    names: dict[str, Any] = {
        "connection": connection,
        "REPORT_PASSWORD": "secret",
        "ask": ask,
        "seen": [],
    }
    exec(text.replace("...", "seen.append(ask('SELECT user'))"), names)
    try:
        names["report"](None)
        assert names["seen"] == [user]
        assert ask("SELECT user") != user
    finally:
        connection.close()
        ask(f"DROP ROLE {user}")


def test_a_role_has_no_limit_for_idle_sessions(databases: Any) -> None:
    if int(ask("SHOW server_version_num")) < 140000:
        pytest.skip("idle_session_timeout is of PostgreSQL 14")
    role = ask("SELECT 'shop_' || pg_backend_pid()")
    ask(f"CREATE ROLE {role}")
    try:
        ask(code_block(SETTINGS, "ALTER ROLE", "sql").replace("shop", role))
        found = ask(f"SELECT rolconfig FROM pg_roles WHERE rolname = '{role}'")
        assert found == ["idle_session_timeout=0"]
    finally:
        ask(f"DROP ROLE {role}")


@pytest.mark.usefixtures("fresh_wrappers")
def test_a_query_of_a_consumer_is_pooled() -> None:
    text = code_block(SERVERS, "database_sync_to_async")
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    names = {
        "pooled": pooled,
        # Channels' own closes old connections around the function.
        "database_sync_to_async": sync_to_async,
        "find_price": lambda: (ask("SELECT 42"), stats()["in_use"]),
    }
    exec(f"async def consume():\n{lines}    return price", names)
    assert async_to_sync(names["consume"])() == (42, 1)
    assert stats()["in_use"] == 0


@pytest.mark.usefixtures("fresh_wrappers")
def test_an_application_that_warms_up_has_a_connection() -> None:
    names = {"get_asgi_application": get_asgi_application, "warm_up": warm_up}
    exec(code_block(SERVERS, "get_asgi_application"), names)
    assert stats()["idle"] == 1


# --- Commands ------------------------------------------------------------------------


def run_console(text: str) -> None:
    """Have each program take its command line, as far as it reads it before it acts."""
    lines = text.replace("\\\n", " ").splitlines()
    if text.startswith("$ "):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    for line in lines:
        subprocess.run(["bash", "-n", "-c", line], check=True)
        for words in commands(line):
            take(words)


def commands(line: str) -> list[list[str]]:
    """Return the commands of a line, without what is redirected."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in ("&&", "||", "|", ";"):
            found.append([])
        else:
            found[-1].append(word)
    return [words[: words.index(">")] if ">" in words else words for words in found]


def program(line: str) -> str:
    """Return the name of the program of a command line, "" if there is none."""
    words = [word for word in line.split() if not re.match(r"[A-Z_]+=", word)]
    return os.path.basename(words[0]) if words else ""


def take(words: list[str]) -> None:
    """Have a program take its arguments."""
    while "=" in words[0]:
        words = words[1:]
    if words[0].startswith(".ci/"):
        assert os.access(ROOT / words[0], os.X_OK)
    else:
        PROGRAMS[os.path.basename(words[0])](words[1:])


def python(words: list[str]) -> None:
    if words[:2] == ["-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words[2:] if word[0] != "-")
        return
    assert os.path.basename(words[0]) == "manage.py"
    command = load_command_class(get_commands()[words[1]], words[1])
    # Raises CommandError.
    command.create_parser("manage.py", words[1]).parse_args(words[2:])


def pip(words: list[str]) -> None:
    assert words[0] == "install"
    extras = re.findall(r"django-dbpool-mw\[(.*)\]", " ".join(words))
    known = metadata("django-dbpool-mw").get_all("Provides-Extra")
    assert known is not None
    assert {name for found in extras for name in found.split(",")} <= set(known)


def make(words: list[str]) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    assert {word for word in words if "=" not in word} <= targets


def uvicorn(words: list[str]) -> None:
    from uvicorn.main import main

    main.make_context("uvicorn", words)


def kubectl(words: list[str]) -> None:
    assert words[0] == "exec"
    take(words[words.index("--") + 1 :])


def sudo(words: list[str]) -> None:
    assert words[0] == "-u"
    take(words[2:])


def git(words: list[str]) -> None:
    """Take the options that git's help has for the subcommand."""
    said = subprocess.run(["git", words[0], "-h"], capture_output=True, text=True)
    known = re.findall(r"--(?:\[no-\])?([a-z-]+)", said.stdout)
    assert {word[2:] for word in words if word.startswith("--")} <= set(known)


def takes_a_word(words: list[str]) -> None:
    """Take one word that isn't an option, such as the name of a database."""
    (word,) = words
    assert not word.startswith("-")


PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "python": python,
    "pip": pip,
    "make": make,
    "uvicorn": uvicorn,
    "kubectl": kubectl,
    "sudo": sudo,
    "git": git,
    "cd": takes_a_word,
    "echo": takes_a_word,
    "export": takes_a_word,
    "sha256sum": takes_a_word,
    "dropdb": takes_a_word,
    "createdb": takes_a_word,
}


# --- Configuration -------------------------------------------------------------------


def run_ini(text: str) -> None:
    """Have uWSGI know each option."""
    if find_spec("pyuwsgi") is None:
        pytest.skip("no pyuwsgi: pip install --group test")
    parser = configparser.ConfigParser()
    parser.read_string(text)
    (section,) = parser.sections()
    assert section == "uwsgi"
    code = "import pyuwsgi; pyuwsgi.run(['--help'])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    known = set(re.findall(r"--([\w-]+)", said.stdout))
    assert set(parser[section]) <= known


KINDS: dict[str, Callable[[str], None]] = {
    "python": run_python,
    "console": run_console,
    "ini": run_ini,
}
