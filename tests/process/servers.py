"""Real web servers as processes: start them, send requests, end them."""

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
    """Call ``condition`` until it is true; fail after ``seconds``. Return its value."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.02)


def end(process: subprocess.Popen[Any]) -> None:
    """Kill the process group of a process that leads it, and wait for the process."""
    with suppress(ProcessLookupError):
        if "COVERAGE_PROCESS_CONFIG" in os.environ:
            # Coverage writes its data when a process ends, unless it was killed.
            os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class ServerEnded(Exception):
    """The server ended before its first answer; the text is its log."""

    def __init__(self, log: str, code: int) -> None:
        super().__init__(log)
        self.code = code


class Server:
    """One server process with its children."""

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
        # From here on the port is open as long as the server lives.
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
            raise ServerEnded(self.text(), self.process.returncode)
        try:
            self.get("/exempt/")
            return True
        except OSError:
            return False

    def __exit__(self, *_: object) -> None:
        end(self.process)
        # pytest shows this output when the test failed.
        print(self.text()[-8000:])

    def stop(self) -> int:
        """End the server by SIGTERM; return its exit code."""
        self.process.terminate()
        return self.process.wait(20)

    def text(self) -> str:
        """Return the server's log."""
        return self.log.read_text(errors="replace")

    def get(self, path: str, **headers: str) -> Answer:
        """Request a page on a new connection."""
        return self.request("GET", path, **headers)

    def request(self, method: str, path: str, **headers: str) -> Answer:
        """Send a request on a new connection; ``_`` in a header's name stands for -."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, headers=named)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        # Some servers write the names of headers in lower case.
        headers = {name.title(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, body)

    def break_off(self, path: str) -> None:
        """Request a page and disconnect after the first bytes of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert client.recv(1000)

    def break_off_together(self, paths: list[str], begun: int) -> None:
        """Request pages together; disconnect all when ``begun`` answers have begun."""
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
    """One HTTP response."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def facts(self) -> dict[str, Any]:
        """Return the JSON object of a view."""
        assert self.headers["Content-Type"] == "application/json", self.body
        found: dict[str, Any] = json.loads(self.body)
        return found

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]


@contextmanager
def traffic(server: Server, path: str = "/facts/", clients: int = 6) -> Iterator[list]:
    """Request a page again and again during the block; every answer must be 200."""
    done = threading.Event()
    statuses: list[int] = []

    def request() -> None:
        while not done.is_set():
            statuses.append(server.get(path).status)

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(request) for _ in range(clients)]
        try:
            wait_until(lambda: len(statuses) > 20, "the traffic flows")
            yield statuses
            before = len(statuses)
            wait_until(lambda: len(statuses) > before + 20, "the traffic flows still")
        finally:
            done.set()
        for client in running:
            client.result(30)
    assert Counter(statuses) == {200: len(statuses)}
