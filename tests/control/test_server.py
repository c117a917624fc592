from __future__ import annotations

import logging
import os
import random
import selectors
import shutil
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from dbpool_mw.control import paths, peer, protocol
from dbpool_mw.control import server as server_module
from dbpool_mw.control.server import ControlServer
from tests.control.conftest import Serve, WorkerProcess
from tests.control.fakes import FakeWorker, HastySelector, pool, reply
from tests.control.query import ask_one

PATIENCE = 10.0


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(PATIENCE)
    sock.connect(str(path))
    return sock


def received(sock: socket.socket) -> bytes:
    data = b""
    with suppress(ConnectionError):
        while chunk := sock.recv(65536):
            data += chunk
    return data


def exchange(path: Path, data: bytes) -> dict[str, Any] | None:
    """Send bytes, end the sending, and return the reply if there is one."""
    with connected(path) as sock:
        with suppress(ConnectionError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        return protocol.Decoder(protocol.MAX_REPLY).feed(received(sock))


def path_of(server: ControlServer) -> Path:
    assert server.path is not None
    return server.path


def asked(server: ControlServer) -> dict[str, Any]:
    answer = ask_one(path_of(server), protocol.request("stats"), PATIENCE)
    assert answer.reply is not None, answer.error
    return answer.reply


def framed(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def test_a_request_reaches_the_handler_and_its_reply_comes_back(serve: Serve) -> None:
    worker = FakeWorker(pool(size=3))
    server = serve(worker)
    assert asked(server)["pools"][0]["size"] == 3
    assert worker.requests == [protocol.request("stats")]


def test_the_socket_is_private_and_named_for_this_process(
    serve: Serve, directory: Path
) -> None:
    old = os.umask(0)
    try:
        server = serve()
    finally:
        os.umask(old)
    path = path_of(server)
    assert list(directory.iterdir()) == [path]
    assert paths.pid_of(path) == os.getpid()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_thread_is_a_daemon_with_a_name(serve: Serve) -> None:
    serve()
    (thread,) = (t for t in threading.enumerate() if t.name == "dbpool_mw-control")
    assert thread.daemon


def test_a_request_in_single_bytes_is_answered(serve: Serve) -> None:
    server = serve()
    data = protocol.encode(protocol.request("stats"), protocol.MAX_REQUEST)
    with connected(path_of(server)) as sock:
        for i in range(len(data)):
            sock.send(data[i : i + 1])
        answer = protocol.Decoder(protocol.MAX_REPLY).feed(received(sock))
    assert answer is not None
    assert answer["ok"] is True


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (framed(b"nonsense"), "not a JSON text"),
        (framed(b"\xff\xff\xff"), "not a JSON text"),
        (framed(b"[]"), "not a JSON object"),
        (framed(b"[" * 60_000), "not a JSON text"),
        (framed(b"{}"), "version None isn't supported"),
        (framed(b'{"version":1,"verb":"explode"}'), "unknown verb 'explode'"),
        (framed(b"{}") + b"more", "bytes after the end"),
        (struct.pack(">I", 65537), "65537 bytes, the limit is 65536"),
        (b"GET / HTTP/1.1\r\n\r\n", "the limit is 65536"),
    ],
)
def test_invalid_bytes_get_an_error_reply_and_the_server_goes_on(
    serve: Serve, data: bytes, text: str
) -> None:
    worker = FakeWorker()
    server = serve(worker)
    answer = exchange(path_of(server), data)
    assert answer is not None
    assert answer["ok"] is False
    assert answer["pid"] == os.getpid()
    assert text in answer["error"]
    assert worker.requests == []
    assert asked(server)["ok"] is True


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\x09", b"\0\0\0\x09{"])
def test_an_incomplete_message_gets_no_reply(serve: Serve, data: bytes) -> None:
    server = serve()
    assert exchange(path_of(server), data) is None
    assert asked(server)["ok"] is True


def test_random_bytes_never_stop_the_server(serve: Serve) -> None:
    server = serve()
    dice = random.Random(1)
    for _ in range(200):
        blob = dice.randbytes(dice.randrange(60))
        if dice.random() < 0.5:
            blob = framed(blob)
        exchange(path_of(server), blob)
    assert asked(server)["ok"] is True


def test_a_client_that_sends_nothing_is_closed_at_its_deadline(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "CLIENT_SECONDS", 0.05)
    server = serve()
    with connected(path_of(server)) as silent, connected(path_of(server)) as half:
        half.send(b"\0\0")
        assert received(silent) == b""
        assert received(half) == b""


def test_a_client_that_does_not_read_is_closed_at_its_deadline(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "CLIENT_SECONDS", 0.05)
    closed = threading.Event()
    drop = ControlServer._drop

    def observed(self: ControlServer, gone: Any) -> None:
        drop(self, gone)
        if gone.output is not None:
            closed.set()

    monkeypatch.setattr(ControlServer, "_drop", observed)
    big = {"version": 1, "ok": False, "error": "x" * 3_000_000}
    server = serve(lambda request: big)
    data = protocol.encode(protocol.request("stats"), protocol.MAX_REQUEST)
    with connected(path_of(server)) as sock:
        sock.sendall(data)
        assert closed.wait(PATIENCE)
        assert len(received(sock)) < 3_000_000


def test_a_client_that_closes_before_its_reply_leaves_the_server_running(
    serve: Serve,
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(request: dict[str, Any]) -> dict[str, Any]:
        entered.set()
        assert leave.wait(PATIENCE)
        return reply(pool())

    server = serve(slow)
    with connected(path_of(server)) as sock:
        sock.sendall(protocol.encode(protocol.request("stats"), protocol.MAX_REQUEST))
        assert entered.wait(PATIENCE)
    leave.set()
    assert asked(server)["ok"] is True


def test_silent_clients_make_room_for_one_that_asks(serve: Serve) -> None:
    server = serve()
    with ExitStack() as stack:
        silent = [
            stack.enter_context(connected(path_of(server)))
            for _ in range(server_module.MAX_CLIENTS + 70)
        ]
        answer = ask_one(path_of(server), protocol.request("stats"), PATIENCE)
        assert answer.reply is not None
        reply = protocol.Decoder(protocol.MAX_REPLY).feed(received(silent[0]))
        assert reply is not None
        assert "busy: " in reply["error"]
        assert len(server._clients) <= server_module.MAX_CLIENTS
        silent[-1].sendall(
            protocol.encode(protocol.request("stats"), protocol.MAX_REQUEST)
        )
        assert protocol.Decoder(protocol.MAX_REPLY).feed(received(silent[-1]))


def test_many_clients_at_once_are_all_answered(serve: Serve) -> None:
    server = serve()
    barrier = threading.Barrier(16)
    got: list[dict[str, Any]] = []

    def run() -> None:
        barrier.wait(PATIENCE)
        got.append(asked(server))

    threads = [threading.Thread(target=run) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(got) == 16


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3)])
def test_an_exception_of_the_handler_is_an_error_reply_and_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def fail(request: dict[str, Any]) -> dict[str, Any]:
        raise error

    server = serve(fail)
    for _ in range(2):
        answer = ask_one(path_of(server), protocol.request("stats"), PATIENCE)
        assert answer.error is not None
        assert type(error).__name__ in answer.error
    assert caplog.records[0].name == "dbpool_mw.control"
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize("result", [{"x": object()}, {"x": "y" * 5_000_000}])
def test_a_reply_that_cannot_be_sent_is_an_error_reply(
    serve: Serve, result: dict[str, Any]
) -> None:
    server = serve(lambda request: result)
    answer = ask_one(path_of(server), protocol.request("stats"), PATIENCE)
    assert answer.error is not None
    assert "can't be sent" in answer.error


def test_successive_failures_of_the_loop_are_logged_once_and_survived(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "_PAUSE_SECONDS", 0.001)
    turn, failures = ControlServer._run_once, iter(range(3))

    def flaky(self: ControlServer) -> None:
        if next(failures, None) is not None:
            raise RuntimeError("flaky")
        turn(self)

    monkeypatch.setattr(ControlServer, "_run_once", flaky)
    server = serve()
    assert asked(server)["ok"] is True
    assert [r.message for r in caplog.records] == ["control thread failed; it goes on"]


def test_a_bug_while_serving_one_client_leaves_the_others_served(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The server would serve the client again after this pause, if it kept it.
    monkeypatch.setattr(server_module, "_PAUSE_SECONDS", PATIENCE)
    server = serve()
    with monkeypatch.context() as patched:
        patched.delattr(protocol, "check_request")
        with connected(path_of(server)) as sock:
            sock.sendall(protocol.encode(protocol.request("stats"), 1000))
            assert received(sock) == b""
    assert asked(server)["ok"] is True
    (record,) = caplog.records
    assert "a bug in the control server" in record.message
    assert record.exc_info is not None


def test_a_socket_wrongly_reported_as_ready_is_tried_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(selectors, "DefaultSelector", HastySelector)
    server = serve()
    monkeypatch.undo()
    with connected(path_of(server)) as slow:
        assert asked(server)["ok"] is True
        slow.sendall(protocol.encode(protocol.request("stats"), 1000))
        assert protocol.Decoder(protocol.MAX_REPLY).feed(received(slow)) is not None
    assert caplog.records == []


def test_a_client_of_another_user_is_rejected(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(peer, "uid_of", lambda sock: 4711)
    worker = FakeWorker()
    server = serve(worker)
    assert exchange(path_of(server), b"") is None
    assert worker.requests == []
    assert "it runs as uid 4711" in caplog.text


def test_a_client_whose_user_is_unknown_is_rejected(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(sock: socket.socket) -> int:
        raise OSError("no credentials")

    monkeypatch.setattr(peer, "uid_of", unknown)
    server = serve()
    assert exchange(path_of(server), b"") is None
    assert "no credentials" in caplog.text


def test_root_may_ask_a_worker_of_any_user(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    data = protocol.encode(protocol.request("stats"), protocol.MAX_REQUEST)
    monkeypatch.setattr(peer, "uid_of", lambda sock: 0)
    answer = exchange(path_of(server), data)
    assert answer is not None
    assert answer["ok"] is True


def test_stop_removes_the_socket_and_ends_the_thread(
    serve: Serve, directory: Path
) -> None:
    server = serve()
    thread = server._thread
    assert thread is not None
    server.stop()
    assert not thread.is_alive()
    assert list(directory.iterdir()) == []
    assert server.path is None
    server.stop()


def test_stop_does_not_remove_a_file_that_replaced_the_socket(
    serve: Serve, directory: Path
) -> None:
    one, other = serve(), serve()
    # A server that answers has removed dead sockets, and won't remove the file below.
    assert asked(one)["ok"] is asked(other)["ok"] is True
    taken = path_of(one)
    # Created while the socket exists, because a later file may get the socket's inode.
    another = directory / "another"
    another.touch()
    another.replace(taken)
    one.stop()
    assert taken.exists()
    assert asked(other)["ok"] is True


def test_stop_from_inside_a_request_does_not_wait_for_itself(
    directory: Path,
) -> None:
    def stopping(request: dict[str, Any]) -> dict[str, Any]:
        server.stop()
        return reply()

    server = ControlServer(directory, stopping)
    server.start()
    ask_one(path_of(server), protocol.request("stats"), PATIENCE)
    assert list(directory.iterdir()) == []
    for thread in threading.enumerate():
        if thread.name == server_module.THREAD_NAME:
            thread.join(PATIENCE)


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers look at their sockets every 20 ms."""
    monkeypatch.setattr(server_module, "LOOK_SECONDS", 0.02)


def eventually(fact: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("cleaner", ["unlink", "rmtree", "rename", "replace"])
def test_a_socket_that_was_removed_is_opened_anew_and_logged_once(
    serve: Serve,
    directory: Path,
    caplog: pytest.LogCaptureFixture,
    cleaner: str,
) -> None:
    home = directory / "home"
    server = serve(where=home)
    old = path_of(server)
    # Answered, the server has removed dead sockets, and removes no other.
    asked(server)
    with connected(old) as client:
        if cleaner == "unlink":
            old.unlink()
        elif cleaner == "rmtree":
            shutil.rmtree(home)
        elif cleaner == "rename":
            home.rename(directory / "away")
        else:
            (directory / "other").touch()
            (directory / "other").replace(old)
        eventually(lambda: server.path != old and caplog.records)
        assert asked(server)["ok"] is True
        assert paths.discover(home) == [server.path]
        assert stat.S_IMODE(path_of(server).stat().st_mode) == 0o600
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        # Who was connected is still served.
        client.sendall(protocol.encode(protocol.request("stats"), 10_000))
        assert received(client)
    (record,) = caplog.records
    assert record.message == (
        f"the control socket {old} was removed; opened {server.path}"
    )
    server.stop()
    assert paths.discover(home) == []


def test_a_server_that_is_being_stopped_opens_no_other_socket(
    serve: Serve, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    asked(server)
    path, is_own = path_of(server), server._is_own

    def stopped_before(path: Path) -> bool:
        if threading.current_thread() is not threading.main_thread():
            return is_own(path)
        server._is_own = is_own  # type: ignore[method-assign]
        server.stop()
        return is_own(path)

    # The look has read the path when another thread stops the server.
    server._is_own = stopped_before  # type: ignore[method-assign]
    server._listen_anew_if_removed()
    assert not path.exists()
    assert list(directory.iterdir()) == []
    assert caplog.records == []


@pytest.mark.usefixtures("looks_often")
def test_a_socket_that_cannot_be_opened_anew_is_logged_once_and_tried_again(
    serve: Serve, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = directory / "home"
    server = serve(where=home)
    old = path_of(server)
    home.chmod(0o770)
    old.unlink()
    eventually(lambda: caplog.records)
    looks = iter(range(10))
    is_own = server._is_own
    enough = threading.Event()

    def counted(path: Path) -> bool:
        if next(looks, None) is None:
            enough.set()
        return is_own(path)

    server._is_own = counted  # type: ignore[method-assign]
    assert enough.wait(PATIENCE)
    (record,) = caplog.records
    assert "was removed, so the commands don't see this process" in record.message
    assert "written by others" in record.message
    home.chmod(0o700)
    eventually(lambda: server.path != old)
    assert asked(server)["ok"] is True


def test_a_stopped_server_can_start_again(serve: Serve) -> None:
    server = serve()
    server.stop()
    assert server.start()
    assert server.start()
    assert asked(server)["ok"] is True


@pytest.mark.parametrize("problem", ["mode", "symlink", "file", "long"])
def test_without_a_usable_directory_there_is_one_warning_and_no_thread(
    directory: Path, caplog: pytest.LogCaptureFixture, problem: str
) -> None:
    chosen = directory / "chosen"
    if problem == "mode":
        chosen.mkdir()
        chosen.chmod(0o777)
    elif problem == "symlink":
        chosen.symlink_to(directory)
    elif problem == "file":
        chosen.touch()
    else:
        chosen = directory / ("x" * 120)
    server = ControlServer(chosen, FakeWorker())
    assert server.start() is False
    assert server.path is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no control socket" in record.message
    assert str(chosen) in record.message
    server.stop()


def test_a_socket_that_cannot_be_bound_leaves_nothing_behind(
    directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Path, "chmod", lambda self, mode: (_ for _ in ()).throw(OSError("no"))
    )
    assert ControlServer(directory, FakeWorker()).start() is False
    assert list(directory.iterdir()) == []
    assert len(caplog.records) == 1


def test_without_a_thread_there_is_one_warning_and_no_socket(
    directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert ControlServer(directory, FakeWorker()).start() is False
    assert list(directory.iterdir()) == []
    assert len(caplog.records) == 1


def test_a_forked_child_does_not_stop_the_parents_server(
    spawn: Callable[[], WorkerProcess],
) -> None:
    worker = spawn()
    worker.tell("fork")
    answer = ask_one(worker.path, protocol.request("stats"), PATIENCE)
    assert answer.reply is not None


def test_a_worker_out_of_descriptors_answers_once_it_has_some_again(
    spawn: Callable[[], WorkerProcess],
) -> None:
    worker = spawn()
    # Read until the worker has closed the connection: it frees no descriptor later.
    request = protocol.encode(protocol.request("stats"), protocol.MAX_REQUEST)
    for _ in range(2):
        assert exchange(worker.path, request)
    worker.tell("no more descriptors")
    answer = ask_one(worker.path, protocol.request("stats"), 0.2)
    assert answer.error == "no answer within 0.2 s"
    worker.tell("more descriptors")
    answer = ask_one(worker.path, protocol.request("stats"), PATIENCE)
    assert answer.reply is not None


def test_a_new_server_removes_the_sockets_of_killed_workers(
    serve: Serve, spawn: Callable[[], WorkerProcess], directory: Path
) -> None:
    killed = spawn()
    killed.kill()
    server = serve()
    assert asked(server)["ok"] is True
    assert list(directory.iterdir()) == [server.path]
