"""Real servers as processes: start, ask, end."""

from __future__ import annotations

import http.client
import json
import os
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """Look again until something that another process does has come about."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.02)


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that leads a group, and the whole group with it."""
    with suppress(ProcessLookupError):
        if "COVERAGE_PROCESS_CONFIG" in os.environ:
            # What is killed tells nothing of what it has run.
            os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class ServerEnded(Exception):
    """The server ended at its start; the text is its log."""


class Server:
    """One server process with its children; stopped by its process id."""

    def __init__(
        self,
        command: list[str],
        environ: dict[str, str],
        log: Path,
        binds_itself: bool = False,
    ) -> None:
        self.log = log
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = listener.getsockname()[1]
        fd = listener.fileno()
        if binds_itself:
            listener.close()
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [word.format(fd=fd, port=self.port) for word in command],
                cwd=ROOT,
                env=environ,
                pass_fds=[] if binds_itself else [fd],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # From here on somebody listens as long as the server lives.
        listener.close()

    def __enter__(self) -> Server:
        try:
            wait_until(self._is_up, "the server answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            raise ServerEnded(self.text())
        try:
            self.get("/exempt/")
            return True
        except OSError:
            return False

    def __exit__(self, *_: object) -> None:
        end(self.process)
        # pytest shows it when the test failed.
        print(self.text()[-8000:])

    def stop(self) -> int:
        """End the server as an operator does; return its exit code."""
        self.process.terminate()
        return self.process.wait(20)

    def text(self) -> str:
        """Return what the server logged."""
        return self.log.read_text(errors="replace")

    def get(self, path: str, **headers: str) -> Answer:
        """Ask for a page on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        return Answer(response.status, dict(response.getheaders()), body)

    def break_off(self, path: str) -> None:
        """Ask for a page and go away after the first bytes of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert client.recv(1000)

    def break_off_together(self, paths: list[str], begun: int) -> None:
        """Ask for pages at once; go away from all when so many answers have begun."""
        with ExitStack() as clients:
            waiting = selectors.DefaultSelector()
            for path in paths:
                client = socket.create_connection(("127.0.0.1", self.port), timeout=30)
                clients.enter_context(client)
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                waiting.register(client, selectors.EVENT_READ)
            wait_until(
                lambda: len(waiting.select(0)) >= begun, f"{begun} answers have begun"
            )
            waiting.close()


class Answer:
    """One answer of a server."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def facts(self) -> dict[str, Any]:
        """Return what a view told as JSON."""
        assert self.headers["Content-Type"] == "application/json", self.body
        found: dict[str, Any] = json.loads(self.body)
        return found

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]


@contextmanager
def traffic(server: Server, path: str = "/facts/", clients: int = 6) -> Iterator[list]:
    """Ask for a page again and again; every answer must be 200."""
    done = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        while not done.is_set():
            statuses.append(server.get(path).status)

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask) for _ in range(clients)]
        try:
            wait_until(lambda: len(statuses) > 20, "the traffic flows")
            yield statuses
            before = len(statuses)
            wait_until(lambda: len(statuses) > before + 20, "the traffic flows still")
        finally:
            done.set()
        for each in asking:
            each.result(30)
    assert Counter(statuses) == {200: len(statuses)}
