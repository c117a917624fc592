"""A private PostgreSQL that ends with the process that started it.

A watchdog stops the server and removes its directory when that process has ended, also
after kill -9.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
import subprocess
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from sandbox.postgres import machine
from sandbox.postgres.address import Server
from sandbox.postgres.watchdog import Watchdog

START_SECONDS = 30.0
STOP_SECONDS = 30.0
STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

DEFAULT_SETTINGS: dict[str, object] = {
    "listen_addresses": "127.0.0.1",
    "fsync": False,
    "full_page_writes": False,
    # Tests count sessions, and autovacuum's workers are sessions too.
    "autovacuum": False,
    # The other kinds leave files outside the server's directory after kill -9.
    "dynamic_shared_memory_type": "mmap",
}


class PostgresServer(Server):
    """A private PostgreSQL that can be started, stopped, killed, restarted and removed.

    ``extension`` names an extension that the server must offer, such as "postgis". With
    ``tls`` its address asks for TLS, and it has a certificate that it signed itself.
    One thread at a time may call the methods. A forked child may use the address; the
    child's end doesn't end the server.
    """

    _servers: ClassVar[weakref.WeakSet[PostgresServer]] = weakref.WeakSet()

    def __init__(
        self,
        settings: Mapping[str, object] | None = None,
        extension: str = "",
        tls: bool = False,
    ) -> None:
        super().__init__("127.0.0.1", 0, "postgres", secrets.token_hex(16))
        self.settings = {**DEFAULT_SETTINGS, **(settings or {})}
        self.extension = extension
        self.tls = tls
        self.sslmode = "require" if tls else ""
        self.directory: Path | None = None
        self._binaries = Path()
        self._account: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = None
        # The read end of a pipe that the last process of the server closes.
        self._gone = -1

    def __enter__(self) -> PostgresServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Tell whether the postmaster is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Return what the server has logged so far."""
        path = self.directory and self.directory / "log"
        return path.read_text(errors="replace") if path and path.exists() else ""

    def start(self) -> None:
        """Start the server and wait until it takes connections.

        The first start chooses a free port, which later starts use again. Raises
        PostgresMissing, or RuntimeError with the server's log.
        """
        if self._process is not None:
            if self._process.poll() is None:
                raise RuntimeError("the server is running already")
            self._reap()
        if self.directory is None:
            self._prepare()
        for _ in range(10):
            port = self.port or machine.free_port()
            if self._launch(port):
                self.port = port
                return
        raise RuntimeError(f"no port to listen on; the server's log says:\n{self.log}")

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server: sessions end at once, "immediate" also skips the checkpoint.

        Does nothing when the server is not running.
        """
        if self._process is not None:
            self._process.send_signal(STOP_SIGNALS[mode])
            self._reap()

    def kill(self) -> None:
        """Kill the postmaster with SIGKILL and wait for the end of its sessions."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server and start it again on the same port."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server and remove its directory. May be called again."""
        if self._watchdog is None or self.directory is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired, TimeoutError):
            self.stop("immediate")
        self._watchdog.release(STOP_SECONDS)
        shutil.rmtree(self.directory, ignore_errors=True)
        self._watchdog = self.directory = None

    def _prepare(self) -> None:
        source = machine.find_binaries(self.extension, self.tls)
        self._account = machine.unprivileged_account()
        self.directory = machine.new_directory(self._account)
        self._watchdog = Watchdog(self.directory)
        self._servers.add(self)
        self._binaries = source
        if self._account and not self._can_run(source / "postgres"):
            self._binaries = self._copy(source)
        self._initdb()

    def _can_run(self, program: Path) -> bool:
        command = [str(program), "--version"]
        try:
            return self._popen(command, stdout=subprocess.DEVNULL).wait() == 0
        except PermissionError:
            return False

    def _copy(self, source: Path) -> Path:
        assert self.directory is not None
        installed = source.parent
        # The wheel's programs look for their libraries next to the package.
        copy = self.directory / "wheel" / installed.parent.name / installed.name
        for name in ("bin", "lib", "share"):
            shutil.copytree(installed / name, copy / name)
        libraries = installed.parent.with_name(f"{installed.parent.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, self.directory / "wheel" / libraries.name)
        machine.give(self.directory / "wheel", self._account)
        return copy / "bin"

    def _initdb(self) -> None:
        assert self.directory is not None
        data, password = self.directory / "data", self.directory / "password"
        password.write_text(self.password)
        machine.give(password, self._account)
        initdb = [str(self._binaries / "initdb"), "-D", str(data), "-U", self.user]
        initdb += ["-A", "scram-sha-256", "--pwfile", str(password), "-E", "UTF8"]
        initdb += ["--locale=C", "--no-sync"]
        with (self.directory / "log").open("ab") as log:
            process = self._popen(initdb, stdout=log)
        self._tell_watchdog(process.pid)
        failed = process.wait()
        self._tell_watchdog(None)
        if failed:
            raise RuntimeError(f"initdb failed:\n{self.log}")
        password.unlink()
        settings = {"unix_socket_directories": str(self.directory), **self.settings}
        if self.tls:
            key, certificate = machine.self_signed(data, self._account)
            settings |= {"ssl": True, "ssl_key_file": key, "ssl_cert_file": certificate}
        with (data / "postgresql.conf").open("a") as file:
            for name, value in settings.items():
                file.write(f"{name} = {_setting(value)}\n")

    def _launch(self, port: int) -> bool:
        assert self.directory is not None
        data, seen = self.directory / "data", len(self.log)
        self._gone, write_end = os.pipe()
        postgres = [str(self._binaries / "postgres"), "-D", str(data), "-p", str(port)]
        with (self.directory / "log").open("ab") as log:
            self._process = self._popen(postgres, stdout=log, pass_fds=(write_end,))
        os.close(write_end)
        self._tell_watchdog(self._process.pid)
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None:
            with contextlib.suppress(OSError, IndexError):
                state = (data / "postmaster.pid").read_text().splitlines()
                # The pid file of a killed server remains until the next start.
                if int(state[0]) == self._process.pid and state[7].strip() == "ready":
                    return True
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the server did not become ready:\n{self.log}")
            time.sleep(0.01)
        self._reap()
        if "could not bind" in self.log[seen:]:
            return False
        raise RuntimeError(f"the server did not start:\n{self.log}")

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait(STOP_SECONDS)
        self._process = None
        self._tell_watchdog(None)
        # Every process of the server has the write end of this pipe.
        ready, _, _ = select.select([self._gone], [], [], STOP_SECONDS)
        os.close(self._gone)
        if not ready:
            raise TimeoutError("the postmaster has ended and its sessions have not")

    def _tell_watchdog(self, pid: int | None) -> None:
        assert self._watchdog is not None
        self._watchdog.tell(pid)

    def _popen(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        return subprocess.Popen(
            command,
            cwd=self.directory,
            # The log is read for messages, so keep them in English.
            env={**environment, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            # Ctrl-C in the terminal must reach this process only.
            start_new_session=True,
            **self._account,
            **options,
        )

    @classmethod
    def _detach_in_child(cls) -> None:
        for server in cls._servers:
            if server._watchdog is None:
                continue
            server._watchdog.detach()
            # The server is no child of this process, so waiting for it would fail.
            if server._process is not None:
                server._process.returncode = 0
            server._watchdog = server._process = None


os.register_at_fork(after_in_child=PostgresServer._detach_in_child)


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "'" + str(value).replace("'", "''") + "'"
