from __future__ import annotations

import os
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbpool_mw.control import client, paths, peer, protocol
from dbpool_mw.control.client import Answer
from tests.control.conftest import Plant, Serve, WorkerProcess
from tests.control.fakes import FakeWorker, HastySelector, holder, pool, reply
from tests.control.query import ask_all, ask_one
from tests.core.fakes import until

STATS = protocol.request("stats")
PATIENCE = 10.0


def test_all_workers_are_asked_and_their_answers_sorted_by_pid(
    directory: Path, spawn: Callable[[], WorkerProcess]
) -> None:
    workers = [spawn() for _ in range(3)]
    answers = ask_all(directory, STATS, PATIENCE)
    assert [a.pid for a in answers] == sorted(w.pid for w in workers)
    assert [a.reply["pid"] for a in answers if a.reply] == [a.pid for a in answers]


def test_only_the_workers_chosen_are_asked(
    directory: Path, spawn: Callable[[], WorkerProcess]
) -> None:
    one, _ = spawn(), spawn()
    (answer,) = ask_all(directory, STATS, PATIENCE, pids={one.pid})
    assert answer.pid == one.pid


def test_a_missing_and_an_empty_directory_have_no_workers(directory: Path) -> None:
    assert ask_all(directory, STATS, PATIENCE) == []
    assert ask_all(directory / "missing", STATS, PATIENCE) == []


def test_a_directory_that_cannot_be_trusted_is_not_asked(
    directory: Path, serve: Serve
) -> None:
    worker = FakeWorker()
    serve(worker)
    directory.chmod(0o777)
    with pytest.raises(paths.ControlDirError):
        ask_all(directory, STATS, PATIENCE)
    assert worker.requests == []


def test_a_silent_worker_times_out_and_delays_no_other(
    directory: Path, serve: Serve, plant: Plant
) -> None:
    for pid in range(1, 6):
        plant(pid)
    serve()
    began = time.monotonic()
    answers = ask_all(directory, STATS, 0.2)
    assert time.monotonic() - began < 2
    assert [a.error for a in answers[:5]] == ["no answer within 0.2 s"] * 5
    assert answers[5].reply is not None


def test_connecting_to_a_worker_with_a_full_listen_queue_is_retried(
    directory: Path,
) -> None:
    path = directory / "1-0000000a.sock"
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as first,
    ):
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        assert ask_one(path, STATS, 0.1).error == "no answer within 0.1 s"

        def work() -> None:
            listener.settimeout(PATIENCE)
            for _ in range(2):
                sock, _ = listener.accept()
                with sock:
                    if sock.recv(65536):
                        sock.sendall(protocol.encode(reply(), 10_000))

        thread = threading.Thread(target=work)
        first.close()
        thread.start()
        assert ask_one(path, STATS, PATIENCE).reply == reply()
        thread.join(PATIENCE)


def test_the_socket_of_a_killed_worker_is_removed_and_not_reported(
    directory: Path, spawn: Callable[[], WorkerProcess]
) -> None:
    worker = spawn()
    worker.kill()
    assert worker.path.exists()
    assert ask_all(directory, STATS, PATIENCE) == []
    assert not worker.path.exists()


def test_a_worker_that_is_gone_is_distinguished_from_a_silent_one(
    directory: Path, plant: Plant
) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    removed = directory / f"{process.pid}-0000000a.sock"
    answers = client.ask([plant(1), removed], STATS, 0.05)
    assert [a.gone for a in answers] == [False, True]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_removes_nothing_from_the_directory_of_another_user(
    directory: Path, spawn: Callable[[], WorkerProcess]
) -> None:
    worker = spawn()
    worker.kill()
    os.chown(directory, 4711, -1)
    assert ask_all(directory, STATS, PATIENCE) == []
    assert worker.path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_server_that_does_not_run_as_the_directorys_owner_is_not_asked(
    directory: Path, serve: Serve
) -> None:
    worker = FakeWorker()
    serve(worker)
    os.chown(directory, 4711, -1)
    (answer,) = ask_all(directory, STATS, PATIENCE)
    assert answer.error is not None
    assert answer.error.startswith("not asked: its socket belongs to uid 0")
    assert worker.requests == []


def test_a_server_of_another_user_is_not_asked(
    directory: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "uid_of", lambda sock: 4711)
    answer = ask_one(plant(), STATS, PATIENCE)
    assert "not asked: its socket belongs to uid 4711" in (answer.error or "")


def test_a_regular_file_is_skipped_and_not_removed(directory: Path) -> None:
    planted = directory / "1-0000000a.sock"
    planted.write_text("not a socket")
    assert ask_all(directory, STATS, PATIENCE) == []
    assert planted.exists()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "closed the connection without"),
        (b"\0\0\0\x09{", "closed the connection after 5 bytes"),
        (b"\xff\xff\xff\xff", "the limit is 4194304"),
        (b"\0\0\0\x02[]", "not a JSON object"),
        (protocol.encode({"version": 9, "ok": True}, 100), "version 9 isn't supported"),
        (protocol.encode({"version": 1, "ok": True}, 100), "missing or wrong values"),
        # With one pid the id of the test is the same in all processes.
        (
            protocol.encode({**protocol.error_reply("no such thing"), "pid": 1}, 200),
            "no such thing",
        ),
        (protocol.encode({"version": 1, "ok": False}, 200), "without a text"),
    ],
)
def test_a_bad_reply_is_an_answer_with_an_error(
    directory: Path, data: bytes, text: str
) -> None:
    path = directory / "1-0000000a.sock"

    def work() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(65536)
            sock.sendall(data)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(PATIENCE)
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=work)
        thread.start()
        answer = ask_one(path, STATS, PATIENCE)
        thread.join(PATIENCE)
    assert answer.reply is None
    assert not answer.gone
    assert text in (answer.error or "")


def test_a_worker_that_closes_at_once_gives_an_answer_with_an_error(
    directory: Path,
) -> None:
    path = directory / "1-0000000a.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(PATIENCE)
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        answer = ask_one(path, STATS, PATIENCE)
        thread.join(PATIENCE)
    assert "closed the connection without" in (answer.error or "")


def test_a_large_reply_arrives_whole(serve: Serve) -> None:
    held = [holder(path="/" + "x" * 1000) for _ in range(3000)]
    server = serve(lambda request: reply(pool(), holders=held))
    assert server.path is not None
    answer = ask_one(server.path, STATS, PATIENCE)
    assert answer.reply is not None
    assert answer.reply["holders"] == held


def test_a_request_sent_in_parts_arrives_whole(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(socket.socket):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

    worker = FakeWorker()
    server = serve(worker)
    assert server.path is not None
    monkeypatch.setattr(socket, "socket", Small)
    request = protocol.request("stats", ["x" * 60_000])
    assert ask_one(server.path, request, PATIENCE).reply is not None
    assert worker.requests == [request]


def test_a_socket_wrongly_reported_as_ready_is_tried_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hasty(HastySelector):
        """A class of its own, so that its count is the client's only."""

    def work(request: dict[str, Any]) -> dict[str, Any]:
        until(lambda: Hasty.looks > 10)
        return reply()

    server = serve(work)
    assert server.path is not None
    monkeypatch.setattr(selectors, "DefaultSelector", Hasty)
    assert ask_one(server.path, STATS, PATIENCE).reply == reply()


def test_a_datagram_socket_gives_an_answer_with_an_error(directory: Path) -> None:
    path = directory / "1-0000000a.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        (answer,) = ask_all(directory, STATS, PATIENCE)
    assert (answer.error or "").startswith("can't connect: ")


def test_a_failed_connect_gives_an_answer_with_an_error(
    directory: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> socket.socket:
        raise OSError(24, "Too many open files")

    path = plant()
    monkeypatch.setattr(socket, "socket", refuse)
    assert ask_one(path, STATS, PATIENCE).error == (
        "can't connect: Too many open files"
    )


def test_a_request_above_the_limit_is_not_sent(plant: Plant) -> None:
    with pytest.raises(protocol.TooLarge):
        ask_one(plant(), protocol.request("stats", ["x" * 70_000]), PATIENCE)


def test_an_answer_can_be_cut_down_to_some_aliases() -> None:
    whole = Answer(
        1,
        Path("/x"),
        reply(pool("a"), pool("b"), holders=[holder("a"), holder("b")]),
    )
    cut = whole.only(["b"])
    assert cut.aliases == ["b"]
    assert cut.reply is not None
    assert cut.reply["holders"] == [holder("b")]
    assert whole.only(None) is whole
    assert whole.aliases == ["a", "b"]
    silent = Answer(1, Path("/x"), error="no answer")
    assert silent.only(["b"]) is silent
    assert silent.aliases == []
