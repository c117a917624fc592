"""Follow README.rst in new projects, with a built wheel: ``make readme``.

The oldest pair of Python and Django and the newest each get a virtual environment and a
project by ``django-admin startproject``, on a private PostgreSQL. Then every block of
code in the README is applied to it, in order: what goes into the settings, and each
command as it is printed. A block or a command that isn't known here ends the run.
Where the Python of a pair is missing, the one that runs this file stands in for it, and
for the newest a newer one where one is installed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

from docutils.core import publish_doctree
from docutils.nodes import literal_block

from sandbox.database import Observer
from sandbox.postgres import PostgresServer, Server

README = Path(__file__).resolve().parent.parent / "README.rst"

WORKERS = 2
THREADS = 4
REQUESTS = 40
#: Seconds for one command; pip has to fetch what isn't in its cache.
LIMIT = 180.0

#: What the README takes for granted: a project on PostgreSQL, with a page that queries.
DATABASE = """
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.postgresql",
        "NAME": {database!r},
        "USER": {0.user!r},
        "PASSWORD": {0.password!r},
        "HOST": {0.host!r},
        "PORT": {0.port},
        "OPTIONS": {{"application_name": "shop"}},
    }}
}}
"""
PAGE = """
from django.contrib.auth.models import User
from django.http import HttpResponse

urlpatterns += [path("users/", lambda request: HttpResponse(str(User.objects.count())))]
"""


class Pair(NamedTuple):
    """The versions of Python and Django of a project, and the extra it installs."""

    python: str
    django: str
    extra: str


#: The oldest pair of tox.ini, and the newest.
PAIRS = (Pair("3.10", "4.2", "binary"), Pair("3.14", "6.1", "psycopg-binary"))


def available(pair: Pair) -> tuple[str, str]:
    """Return a Python for this pair, and what pip is to install as Django with it.

    Without the pair's own another stands in. The oldest pair keeps its Django there;
    the newest takes what pip finds for that Python.
    """
    django = f"Django=={pair.django}.*"
    if python := interpreter(pair.python):
        return python, django
    if pair is not PAIRS[0]:
        django = "Django"
    version, python = stand_in(pair)
    print(
        f"No Python {pair.python} on PATH starts: {version} stands in, with {django}."
    )
    return python, django


def stand_in(pair: Pair) -> tuple[str, str]:
    """Return the version and the path of this Python, or of a newer for the newest."""
    if pair is not PAIRS[0]:
        newest, this = int(pair.python.partition(".")[2]), sys.version_info[1]
        for version in (f"3.{minor}" for minor in range(newest - 1, this, -1)):
            if python := interpreter(version):
                return version, python
    return ".".join(map(str, sys.version_info[:3])), sys.executable


class ReadmeError(Exception):
    """The README doesn't hold; the text says which line of it, and what happened."""


class Project:
    """A project to which the README is applied, in an environment of its own."""

    def __init__(
        self, stack: ExitStack, pair: Pair, wheel: Path, server: Server
    ) -> None:
        self.stack = stack
        self.pair = pair
        self.wheel = wheel
        self.url = ""
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="shop-"))
        self.directory = Path(directory, "project")
        self.directory.mkdir()
        self.environment = Path(directory, "environment")
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PG", "PYTHON", "DJANGO_", "DBPOOL_MW_"))
        }
        self.env["PATH"] = f"{self.environment / 'bin'}{os.pathsep}{self.env['PATH']}"
        database = f"shop{pair.django.replace('.', '')}"
        server.create_database(database)
        self.observer = Observer(server.dsn(database), "shop")
        stack.callback(self.observer.close)

        python, django = available(pair)
        self.run(shlex.join([python, "-m", "venv", str(self.environment)]))
        self.run(shlex.join(["pip", "install", "-q", "gunicorn", django]))
        self.run("python --version && python -m django --version")
        self.run("django-admin startproject shop .")
        self.settings = self.directory / "shop" / "settings.py"
        self.append(self.settings, DATABASE.format(server, database=database))
        self.append(self.directory / "shop" / "urls.py", PAGE)

    def run(self, line: str) -> str:
        """Print and run a line of a shell in the project; return and print its output.

        Raises ReadmeError where it fails, and TimeoutExpired after LIMIT seconds.
        """
        print(f"$ {line}", flush=True)
        done = subprocess.run(
            line,
            shell=True,
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        print(done.stdout, end="", flush=True)
        if done.returncode:
            raise ReadmeError(f"It ended with code {done.returncode}: {line}")
        return done.stdout

    def append(self, file: Path, text: str) -> None:
        """Add text at the end of a file of the project."""
        with file.open("a", encoding="utf-8") as opened:
            opened.write(f"\n{text}\n")

    def apply(self, block: literal_block) -> None:
        """Do what a block of the README says; raise ReadmeError if it isn't known."""
        text = block.astext()
        language = block["classes"][-1] if block["classes"] else ""
        if language == "python" and text.startswith("# settings.py\n"):
            self.append(self.settings, text)
        elif language == "console" and text.startswith("$ "):
            # What doesn't begin with a prompt is what a command printed.
            for line in text.splitlines():
                if line.startswith("$ "):
                    self.follow(line[2:])
        else:
            raise ReadmeError(f"A block that isn't known: {text}")

    def follow(self, line: str) -> None:
        """Run a command of the README, and see that it did what the README says."""
        if line.startswith("pip install "):
            self.install(line)
            return
        words = shlex.split(line, comments=True)
        if words[:2] != ["python", "manage.py"]:
            raise ReadmeError(f"A command that isn't known: {line}")
        if words[2].startswith("dbpool_") and not self.url:
            self.url = self.stack.enter_context(self.served())
            self.request_pages()
        output = self.run(line)
        match words[2:]:
            case ["check", *_]:
                expect("no issues" in output, "the checks find nothing")
            case ["dbpool_stats"]:
                pools = self.pools()
                opened = sum(pool["opened"] for pool in pools)
                checkouts = sum(pool["checkouts"] for pool in pools)
                expect(checkouts >= REQUESTS, f"{checkouts} checkouts were counted")
                expect(
                    1 <= opened == len(self.observer.sessions()) <= WORKERS * THREADS,
                    f"they ran on {opened} connections, which PostgreSQL sees",
                )
            case ["dbpool_drain", "--resume"]:
                self.expect_state("running")
                self.request_pages()
                expect(bool(self.observer.sessions()), "connections are kept again")
            case ["dbpool_drain", *_]:
                self.expect_state("draining")
                self.request_pages()
                left = self.observer.wait_until_none(timeout=5.0)
                expect(not left, "during the drain PostgreSQL sees no connection left")

    def install(self, line: str) -> None:
        """Run pip's line with the wheel for the index's name, if the extra is ours."""
        found = re.search(r'"django-dbpool-mw\[([\w-]+)\]"', line)
        if not found or found[1] not in {pair.extra for pair in PAIRS}:
            raise ReadmeError(f"An installation that isn't known: {line}")
        if found[1] == self.pair.extra:
            wheel = f'"django-dbpool-mw[{found[1]}] @ {self.wheel.as_uri()}"'
            self.run(line.replace(found[0], wheel).replace("install", "install -q", 1))
            where = self.run("python -c 'import dbpool_mw; print(dbpool_mw.__file__)'")
            expect(where.startswith(str(self.environment)), "the wheel is installed")

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve the project by gunicorn for the time of the block; give the address."""
        log = self.directory / "gunicorn.log"
        with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as out:
            port = listener.getsockname()[1]
            line = f"gunicorn --workers {WORKERS} --threads {THREADS} shop.wsgi"
            print(f"$ {line}", flush=True)
            process = subprocess.Popen(
                [*shlex.split(line), f"--bind=fd://{listener.fileno()}"],
                executable=shutil.which("gunicorn", path=self.env["PATH"]),
                cwd=self.directory,
                env=self.env,
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            yield f"http://127.0.0.1:{port}/users/"
        except BaseException:
            print(log.read_text(errors="replace")[-2000:], flush=True)
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)

    def request_pages(self) -> None:
        """Request the page that queries, several at a time; each has to be right."""

        def get(_: int) -> str:
            with urlopen(self.url, timeout=30) as response:
                return str(response.read(), "utf-8")

        with ThreadPoolExecutor(WORKERS * THREADS) as clients:
            pages = list(clients.map(get, range(REQUESTS)))
        expect(pages == ["0"] * REQUESTS, f"{REQUESTS} pages were served")

    def pools(self) -> list[dict[str, Any]]:
        """Return what the workers say of their pools."""
        self.run("python manage.py dbpool_stats --format json --output pools.json")
        report = json.loads((self.directory / "pools.json").read_text())
        return [pool for worker in report["workers"] for pool in worker["pools"]]

    def expect_state(self, state: str) -> None:
        """Wait until every worker's pool is in this state."""
        deadline = time.monotonic() + 10.0
        while {pool["state"] for pool in self.pools()} != {state}:
            expect(time.monotonic() < deadline, f"the pools are {state}")


def expect(holds: bool, sentence: str) -> None:
    """Print what holds; raise ReadmeError with it where it doesn't."""
    if not holds:
        raise ReadmeError(f"It doesn't hold that {sentence}.")
    print(f"[ok] {sentence}", flush=True)


def interpreter(version: str) -> str | None:
    """Return the path of a Python of this version that starts, None without one."""
    for directory in os.get_exec_path():
        python = Path(directory, f"python{version}")
        # A shim of pyenv's ends with an error where its version isn't chosen.
        if python.exists() and not subprocess.call(
            [python, "-c", ""], stderr=subprocess.DEVNULL
        ):
            return str(python)
    return None


def main(wheel: Path) -> None:
    """Follow the README on each pair, on this Python where the pair's is missing."""
    document = publish_doctree(README.read_text(encoding="utf-8"))
    blocks = list(document.findall(literal_block))
    with PostgresServer() as server:
        for pair in PAIRS:
            print(f"\n== Python {pair.python}, Django {pair.django}, {pair.extra} ==")
            with ExitStack() as stack:
                project = Project(stack, pair, wheel, server)
                for block in blocks:
                    project.apply(block)
                expect(bool(project.url), "the README says how to look at the pools")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]).resolve())
    except ReadmeError as error:
        sys.exit(f"make readme: {error}")
