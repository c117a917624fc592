"""Run the sandbox project: its management commands and its gunicorn, as processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import FrameType, TracebackType

ROOT = Path(__file__).resolve().parent.parent

#: In ``PYTHONPATH`` it hides psycopg, which Django takes wherever it can be imported.
HIDDEN = ROOT / "sandbox" / "hidden"

WORKERS = 2
THREADS = 4

START_TIMEOUT = 20.0
STOP_TIMEOUT = 12.0
COMMAND_TIMEOUT = 45.0


class ServerError(Exception):
    """A process started here failed; the text names it and has the end of its log."""


def stop_in_order() -> None:
    """Make SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, once.

    The ``with`` blocks then stop the processes that they started, and a second Ctrl-C
    doesn't interrupt that. Call this from the main thread.
    """
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, frame: FrameType | None) -> None:
        for end in ends:
            signal.signal(end, signal.SIG_IGN)
        raise KeyboardInterrupt

    for end in ends:
        signal.signal(end, interrupt)


def environment(
    dsn: str,
    pooling: str = "dbpool",
    control_dir: str | None = None,
    library: str | None = None,
) -> dict[str, str]:
    """Return the environment of the project's processes, for the database ``dsn``.

    ``library`` is the database library that Django runs on: psycopg2, or psycopg; by
    default that of this process.
    """
    hiding = {"psycopg": "", "psycopg2": str(HIDDEN)}
    path = os.environ.get("PYTHONPATH", "") if library is None else hiding[library]
    env = {
        key: value
        for key, value in os.environ.items()
        # libpq's variables would change the connections.
        if not key.startswith(("PG", "SANDBOX_", "GUNICORN_", "DBPOOL_MW_"))
    }
    env |= {
        "DJANGO_SETTINGS_MODULE": "sandbox.project.settings",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), path])),
        "PYTHONUNBUFFERED": "1",
        "SANDBOX_DSN": dsn,
        "SANDBOX_POOLING": pooling,
    }
    env.pop("WEB_CONCURRENCY", None)
    if control_dir is not None:
        env["SANDBOX_CONTROL_DIR"] = control_dir
    return env


def manage(
    env: dict[str, str], *words: str, timeout: float = COMMAND_TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """Run a management command and return its exit code and output.

    Raises subprocess.TimeoutExpired after ``timeout`` seconds, and kills the command.
    """
    return subprocess.run(
        [sys.executable, str(ROOT / "sandbox" / "manage.py"), *words],
        cwd=ROOT,
        env=env,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        # Ctrl-C must reach the sandbox only, which then stops its processes in order.
        start_new_session=True,
        timeout=timeout,
    )


def set_up(env: dict[str, str]) -> str:
    """Migrate and load the shop; return the output of load_shop."""
    for words in (("migrate", "--verbosity", "0"), ("load_shop",)):
        done = manage(env, *words)
        if done.returncode:
            raise ServerError(f"manage.py {words[0]} failed:\n{done.stderr.strip()}")
    return done.stdout.strip()


class GunicornServer:
    """gunicorn with the sandbox project on a free port of the loopback interface."""

    host = "127.0.0.1"

    def __init__(
        self,
        env: dict[str, str],
        log: Path,
        *,
        workers: int = WORKERS,
        threads: int = THREADS,
        worker_class: str = "gthread",
    ) -> None:
        self._env = env
        self._log = log
        self._workers = workers
        self._threads = threads
        self._worker_class = worker_class
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> GunicornServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Return the address of the simple page."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """Return the master's process id."""
        if self._process is None:
            raise ServerError("gunicorn was not started.")
        return self._process.pid

    def worker_pids(self) -> list[int]:
        """Return the process id of every worker ever started, from gunicorn's log."""
        return [
            int(pid)
            for pid in re.findall(r"Booting worker with pid: (\d+)", self._log_text())
        ]

    def poll(self) -> int | None:
        """Return gunicorn's exit code, None while gunicorn runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start gunicorn and return when all of its workers have started.

        Raises ServerError when gunicorn ends, or takes more than START_TIMEOUT seconds.
        """
        with socket.socket() as listener, self._log.open("wb") as log:
            # gunicorn gets the open socket: no other process can take the port.
            listener.bind((self.host, 0))
            listener.listen(128)
            self.port = listener.getsockname()[1]
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "gunicorn",
                    "--config=python:sandbox.project.gunicorn_conf",
                    f"--bind=fd://{listener.fileno()}",
                    f"--workers={self._workers}",
                    f"--threads={self._threads}",
                    f"--worker-class={self._worker_class}",
                ],
                cwd=ROOT,
                env=self._env,
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while len(self.worker_pids()) < self._workers or not self._answers():
            if self.poll() is not None:
                raise ServerError(f"gunicorn ended at its start:\n{self.last_words()}")
            if time.monotonic() > deadline:
                raise ServerError(
                    f"gunicorn did not answer in {START_TIMEOUT:.0f} s:\n"
                    f"{self.last_words()}"
                )
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = HTTPConnection(self.host, self.port, timeout=START_TIMEOUT)
        try:
            connection.request("GET", "/health/", headers={"Connection": "close"})
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> int | None:
        """Stop gunicorn, after STOP_TIMEOUT seconds by SIGKILL; return the exit code.

        None when gunicorn was never started. A negative code is the number of a signal.
        """
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                # The process group has gunicorn's master and workers only.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode

    def last_words(self, lines: int = 15) -> str:
        """Return the last lines of gunicorn's log, with the project's log lines."""
        return "\n".join(self._log_text().splitlines()[-lines:])

    def _log_text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""
