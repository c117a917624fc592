"""Any bytes on a control socket, on either side, give an answer or a ProtocolError.

hypothesis generates the bytes, the same in every run.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbpool_mw.control import drain, protocol
from dbpool_mw.control.server import ControlServer
from dbpool_mw.control.worker import Worker
from tests.control.commands import run
from tests.control.conftest import Serve
from tests.control.messages import (
    CAP,
    cut,
    cuts,
    framed,
    frames,
    replies,
    requests,
    texts,
    values,
)
from tests.control.query import ask_one
from tests.control.test_prometheus import parse
from tests.core.fakes import Holder, make_pool
from tests.soak import soaked

PATIENCE = 10.0
STATS = protocol.request("stats", **dict.fromkeys(protocol.PARTS, True))


def examples(number: int) -> settings:
    return settings(
        max_examples=soaked(number),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


# --- The frame ------------------------------------------------------------------------


@examples(200)
@given(frames, cuts)
def test_any_bytes_in_any_pieces_are_a_message_a_partial_one_or_an_error(
    data: bytes, cuts: list[int]
) -> None:
    decoder = protocol.Decoder(CAP)
    for piece in cut(data, cuts):
        try:
            message = decoder.feed(piece)
        except protocol.ProtocolError:
            return
        if message is not None:
            assert isinstance(message, dict)
            return
        # No more than the message is buffered.
        assert len(decoder._buffer) < 4 + CAP
    assert isinstance(decoder.closed(), protocol.Truncated)


@examples(100)
@given(st.dictionaries(texts, values, max_size=5), cuts)
def test_a_message_that_can_be_encoded_arrives_unchanged(
    message: dict[str, Any], cuts: list[int]
) -> None:
    try:
        data = protocol.encode(message, protocol.MAX_REPLY)
    except protocol.BadMessage:
        return
    decoder = protocol.Decoder(protocol.MAX_REPLY)
    pieces = [piece for piece in cut(data, cuts) if piece]
    *early, last = [decoder.feed(piece) for piece in pieces]
    assert early == [None] * len(early)
    assert last == message


# --- The worker's side ----------------------------------------------------------------


@pytest.fixture
def worker(directory: Path) -> Iterator[Worker]:
    """Give a worker with a pool of a fake driver and a connection in use."""
    found, _, _ = make_pool(max_conns=2)
    found.checkin(found.checkout(Holder()))
    found.checkout(Holder("\x1b[2J"))
    yield Worker(lambda: directory, lambda: [found])
    found.close()


@examples(300)
@given(message=requests)
def test_any_request_is_refused_or_answered(worker: Worker, message: Any) -> None:
    decoder = protocol.Decoder(protocol.MAX_REQUEST)
    try:
        request: Any = decoder.feed(framed(message))
        protocol.check_request(request)
    except protocol.ProtocolError as error:
        said = protocol.error_reply(str(error))
    else:
        said = worker.handle(request)
        assert said["ok"] is True
    data = protocol.encode(said, protocol.MAX_REPLY)
    answer = protocol.Decoder(protocol.MAX_REPLY).feed(data)
    assert answer is not None
    protocol.check_reply(answer)


# A step of one of several clients: send the next piece, shut down sending, or close.
steps = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["send"] * 4 + ["end", "leave"])),
    max_size=25,
)


@examples(100)
@given(said=st.lists(frames, min_size=4, max_size=4), cuts=cuts, steps=steps)
def test_the_next_client_is_answered_after_any_clients_in_any_order(
    serve: Serve,
    worker: Worker,
    caplog: pytest.LogCaptureFixture,
    said: list[bytes],
    cuts: list[int],
    steps: list[tuple[int, str]],
) -> None:
    descriptors = len(os.listdir("/dev/fd"))
    server = serve(worker.handle)
    assert server.path is not None
    with ExitStack() as stack:
        clients = []
        for data in said:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(server.path))
            clients.append((sock, iter(cut(data, cuts))))
        for number, step in steps:
            sock, pieces = clients[number]
            # Either end may have closed the connection in an earlier step.
            with suppress(OSError):
                if step == "send":
                    sock.send(next(pieces, b""), socket.MSG_DONTWAIT)
                elif step == "end":
                    sock.shutdown(socket.SHUT_WR)
                else:
                    sock.close()
        answered(server.path)
    settle(server)
    server.stop()
    assert len(os.listdir("/dev/fd")) == descriptors
    assert [r.getMessage() for r in caplog.records if r.levelname != "DEBUG"] == []


def answered(path: Path) -> None:
    assert ask_one(path, STATS, PATIENCE).reply is not None


def settle(server: ControlServer) -> None:
    """Wait until the server has dropped the clients that closed their connections."""
    before = time.monotonic() + PATIENCE
    while server._clients:
        assert time.monotonic() < before, (
            "the server keeps a client that has closed its connection"
        )
        time.sleep(0.001)


# --- The command's side ---------------------------------------------------------------


class Liar:
    """A worker that answers every request with the bytes of `says`."""

    def __init__(self, path: Path) -> None:
        self.says = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        # accept() fails once the listener is shut down.
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with sock, suppress(ConnectionError):
                    sock.recv(65536)
                    sock.sendall(self.says)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._listener.close()


@pytest.fixture
def liars(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Liar]]:
    monkeypatch.setattr(drain, "POLL_SECONDS", 0.001)
    found = [Liar(directory / f"{pid}-0000000a.sock") for pid in (7, 8)]
    yield found
    for liar in found:
        liar.close()


def strict_json(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


COMMANDS: list[tuple[list[str], Callable[[str], Any]]] = [
    (["dbpool_stats", "--holders"], str),
    (["dbpool_stats", "--alias", "default", "--alias", "none"], str),
    (["dbpool_stats", "--holders", "--format", "json"], strict_json),
    (["dbpool_stats", "--format", "prometheus"], parse),
    (["dbpool_stats", "--routes"], str),
    (["dbpool_stats", "--routes", "--format", "json"], strict_json),
    (["dbpool_drain", "--timeout", "0.002"], str),
    (["dbpool_drain", "--cancel", "7-1-2", "8-1-2"], str),
    (["dbpool_drain", "--cancel", "7-1-2", "--format", "json"], strict_json),
    (
        ["dbpool_drain", "--pause", "--timeout", "0.001", "--format", "json"],
        strict_json,
    ),
    (["dbpool_drain", "--resume", "--alias", "default"], str),
]


@examples(100)
@given(one=replies, other=replies)
def test_the_commands_print_valid_output_for_any_answers_of_workers(
    directory: Path, liars: list[Liar], one: Any, other: Any
) -> None:
    liars[0].says, liars[1].says = framed(one), framed(other)
    for (name, *arguments), read in COMMANDS:
        ended = run(directory, name, *arguments)
        assert ended.code in (0, 1, 2, 4), ended
        if ended.out:
            read(ended.out)
        for line in (ended.out + "\n" + ended.err).split("\n"):
            assert line.isprintable(), line
