"""Ask the workers, all at once, and never wait longer than told.

One selector drives every conversation, so a silent worker costs the others nothing. A
socket that refuses belonged to a process that died without goodbye: it is removed and
not reported. Anything else that goes wrong with one worker is that worker's answer.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dbpool_mw.control import paths, peer, protocol

_CHUNK = 256 * 1024
# How soon to knock again at a worker whose queue of connections is full (Linux).
_KNOCK_SECONDS = 0.02
_DEAD = (errno.ECONNREFUSED, errno.ENOENT)
_FULL = (errno.EAGAIN, errno.EWOULDBLOCK)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one worker said: `reply` (checked, ok), or the `error` why there is none.

    `gone` tells a process that no longer exists from one that exists and is silent.
    """

    pid: int
    path: Path
    reply: dict[str, Any] | None = None
    error: str | None = None
    gone: bool = False

    @property
    def aliases(self) -> list[str]:
        """The aliases of the pools in the reply."""
        return [pool["alias"] for pool in self.reply["pools"]] if self.reply else []

    def only(self, aliases: Container[str] | None) -> Answer:
        """Return the answer without the pools and holders of other aliases."""
        if self.reply is None or aliases is None:
            return self
        chosen: dict[str, Any] = {
            key: [row for row in self.reply[key] if row["alias"] in aliases]
            for key in ("pools", "holders")
            if key in self.reply
        }
        return replace(self, reply={**self.reply, **chosen})


def ask(path: Path, request: Mapping[str, Any], timeout: float) -> Answer:
    """Ask the worker at `path`; wait at most `timeout` seconds.

    Raises ControlDirError when its directory can't be trusted.
    """
    return ask_paths([path], request, timeout)[0]


def ask_all(
    directory: Path,
    request: Mapping[str, Any],
    timeout: float,
    pids: Container[int] | None = None,
) -> list[Answer]:
    """Ask every worker in `directory` (only `pids`, if given); answers come by pid.

    Waits at most `timeout` seconds for all of them. Empty when there is no worker, also
    when the directory doesn't exist. Raises ControlDirError when the directory can't be
    trusted and ProtocolError when `request` can't be sent.
    """
    try:
        paths.check_directory(directory)
    except paths.ControlDirMissing:
        return []
    found = [
        path
        for path in paths.discover(directory)
        if pids is None or paths.pid_of(path) in pids
    ]
    return [a for a in ask_paths(found, request, timeout) if not a.gone]


def ask_paths(
    found: list[Path], request: Mapping[str, Any], timeout: float
) -> list[Answer]:
    """Ask the workers at these paths at once; answer for each, in the same order.

    Raises like `ask_all`, and ControlDirMissing.
    """
    payload = protocol.encode(request, protocol.MAX_REQUEST)
    owners = {
        parent: paths.check_directory(parent) for parent in {p.parent for p in found}
    }
    talks = [_Talk(path, owners[path.parent], payload) for path in found]
    deadline = time.monotonic() + timeout
    try:
        with selectors.DefaultSelector() as selector:
            _converse(talks, selector, deadline)
    finally:
        for talk in talks:
            talk.close()
    return [
        talk.answer or talk.failed(f"no answer within {timeout:g} s") for talk in talks
    ]


def _converse(
    talks: list[_Talk], selector: selectors.BaseSelector, deadline: float
) -> None:
    knocking = list(talks)
    while True:
        knocking = [talk for talk in knocking if not talk.connect(selector)]
        left = deadline - time.monotonic()
        if left <= 0 or all(talk.answer for talk in talks):
            return
        for key, _ in selector.select(min(left, _KNOCK_SECONDS) if knocking else left):
            talk = key.data
            talk.attend()
            if talk.answer is not None:
                selector.unregister(key.fileobj)
            elif not talk.output:
                selector.modify(key.fileobj, selectors.EVENT_READ, talk)


class _Talk:
    """One conversation: connect, check who is there, send, gather the reply."""

    __slots__ = ("answer", "decoder", "output", "owner", "path", "sock")

    def __init__(self, path: Path, owner: int, payload: bytes) -> None:
        self.path = path
        self.owner = owner
        self.output = memoryview(payload)
        self.decoder = protocol.Decoder(protocol.MAX_REPLY)
        self.sock: socket.socket | None = None
        self.answer: Answer | None = None

    def failed(self, text: str, *, gone: bool = False) -> Answer:
        """Settle on an answer that says why there is no reply."""
        self.answer = Answer(paths.pid_of(self.path), self.path, error=text, gone=gone)
        return self.answer

    def close(self) -> None:
        """Close the connection, whatever became of it."""
        if self.sock is not None:
            self.sock.close()

    def connect(self, selector: selectors.BaseSelector) -> bool:
        """Try to connect; return False when it must be tried again a little later."""
        try:
            if self.sock is None:
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self.sock.setblocking(False)
            # A Unix socket connects at once or not at all; only the queue may be full.
            code = self.sock.connect_ex(str(self.path))
            if code in _FULL:
                return False
            if code in _DEAD:
                if code == errno.ECONNREFUSED:
                    paths.remove_stale(self.path, self.owner)
                self.failed("the process is gone", gone=True)
                return True
            if code:
                raise OSError(code, os.strerror(code))
            uid = peer.uid_of(self.sock)
        except OSError as error:
            self.failed(f"can't connect: {error.strerror or error}")
            return True
        if uid != self.owner:
            self.failed(
                f"not asked: its socket belongs to uid {uid}, "
                f"the directory to uid {self.owner}"
            )
            return True
        selector.register(self.sock, selectors.EVENT_WRITE, self)
        return True

    def attend(self) -> None:
        """Send or read what the socket takes without waiting."""
        assert self.sock is not None, "bug: a conversation without a socket"
        try:
            if self.output:
                self.output = self.output[self.sock.send(self.output) :]
                return
            data = self.sock.recv(_CHUNK)
            if not data:
                raise self.decoder.closed()
            message = self.decoder.feed(data)
            if message is None:
                return
            protocol.check_reply(message)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionError:
            self.failed("closed the connection without an answer")
            return
        except (OSError, protocol.ProtocolError) as error:
            self.failed(str(error))
            return
        if message["ok"]:
            self.answer = Answer(paths.pid_of(self.path), self.path, reply=message)
        else:
            self.failed(str(message.get("error", "an error without a text")))
