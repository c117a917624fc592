"""Send a request to several workers at once and gather their answers.

One selector drives all exchanges, so a worker that doesn't answer delays no other. A
socket that refuses a connection was left by a killed process: it is removed, and its
answer is marked `gone`. A socket that is missing was removed by its worker, which ends,
or by somebody else: then the worker makes another within about a second, and is asked
there. Any other failure becomes the error in that worker's answer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dbpool_mw.control import paths, peer, protocol, sweeping

_CHUNK = 256 * 1024
# How often to retry connecting to a worker whose listen queue is full (Linux), or that
# has no socket at the moment.
_RETRY_SECONDS = 0.02
_GONE = "the process is gone"
_FULL = (errno.EAGAIN, errno.EWOULDBLOCK)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one worker: either a `reply` or an `error`.

    `reply` has passed `protocol.check_reply` and is "ok". `error` says why there is no
    reply. `gone` is True if the process no longer exists, False if it exists and failed
    to answer.
    """

    pid: int
    path: Path
    reply: dict[str, Any] | None = None
    error: str | None = None
    gone: bool = False

    @property
    def aliases(self) -> list[str]:
        """The aliases of the pools in the reply; empty without one."""
        return [pool["alias"] for pool in self.reply["pools"]] if self.reply else []

    def only(self, aliases: Container[str] | None) -> Answer:
        """Return the answer with what is of these aliases (None: all)."""
        if self.reply is None or aliases is None:
            return self
        chosen: dict[str, Any] = {
            key: [row for row in self.reply[key] if row["alias"] in aliases]
            for key in ("pools", *protocol.PARTS)
            if key in self.reply
        }
        return replace(self, reply={**self.reply, **chosen})


def ask(
    sockets: Sequence[Path], request: Mapping[str, Any], timeout: float
) -> list[Answer]:
    """Send the request to the workers at these sockets; return their answers in order.

    Waits at most `timeout` seconds for all of them together. Raises ControlDirMissing
    or ControlDirError for a directory that is missing or can't be trusted, and
    ProtocolError for a request that can't be sent.
    """
    payload = protocol.encode(request, protocol.MAX_REQUEST)
    owners = {
        parent: paths.check_directory(parent) for parent in {p.parent for p in sockets}
    }
    exchanges = [_Exchange(path, owners[path.parent], payload) for path in sockets]
    deadline = time.monotonic() + timeout
    try:
        with selectors.DefaultSelector() as selector:
            _run(exchanges, selector, deadline)
    finally:
        for exchange in exchanges:
            exchange.close()
    return [
        exchange.answer or exchange.failed(f"{exchange.silence} within {timeout:g} s")
        for exchange in exchanges
    ]


def has_ended(pid: int) -> bool:
    """Tell whether there is no process with this pid, or only what is left of one."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # or a number that no process has
        return True
    except OSError:  # another user's
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    # A zombie, which nobody has waited for yet. The name before the state, in
    # parentheses, may have any characters.
    return stat.rpartition(b")")[2].split()[:1] == [b"Z"]


def _run(
    exchanges: Sequence[_Exchange], selector: selectors.BaseSelector, deadline: float
) -> None:
    """Drive the exchanges until all have an answer or the deadline has passed."""
    connecting = list(exchanges)
    while True:
        connecting = [e for e in connecting if not e.connect(selector)]
        remaining = deadline - time.monotonic()
        if remaining <= 0 or all(exchange.answer for exchange in exchanges):
            return
        seconds = min(remaining, _RETRY_SECONDS) if connecting else remaining
        for key, _ in selector.select(seconds):
            exchange = key.data
            exchange.transfer()
            if exchange.answer is not None:
                selector.unregister(key.fileobj)
            elif not exchange.output:
                selector.modify(key.fileobj, selectors.EVENT_READ, exchange)


class _Exchange:
    """One request and reply: connect, check the peer's user, send, read the reply.

    `owner` is the uid of the control directory's owner. `answer` is None until the
    exchange has ended; `silence` says what was missing till then.
    """

    __slots__ = ("answer", "decoder", "output", "owner", "path", "silence", "sock")

    def __init__(self, path: Path, owner: int, payload: bytes) -> None:
        self.path = path
        self.owner = owner
        self.output = memoryview(payload)
        self.decoder = protocol.Decoder(protocol.MAX_REPLY)
        self.sock: socket.socket | None = None
        self.answer: Answer | None = None
        self.silence = "no answer"

    def failed(self, text: str, *, gone: bool = False) -> Answer:
        """End the exchange with an answer that has this error; return the answer."""
        self.answer = Answer(paths.pid_of(self.path), self.path, error=text, gone=gone)
        return self.answer

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.sock is not None:
            self.sock.close()

    def connect(self, selector: selectors.BaseSelector) -> bool:
        """Connect and register the socket; return False to be called again soon.

        A failure ends the exchange, and returns True.
        """
        try:
            if self.sock is None:
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self.sock.setblocking(False)
            # A Unix socket connects at once or fails; EAGAIN means a full listen queue.
            code = self.sock.connect_ex(str(self.path))
            if code in _FULL:
                return False
            if code == errno.ECONNREFUSED and not sweeping.remove_dead(self.path):
                self.sock.close()
                self.sock = None
                return False
            if code == errno.ECONNREFUSED:
                self.failed(_GONE, gone=True)
                return True
            if code == errno.ENOENT:
                return self._look_again()
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

    def _look_again(self) -> bool:
        """Look for the worker's new socket; return True if the worker has ended."""
        pid = paths.pid_of(self.path)
        if has_ended(pid):
            self.failed(_GONE, gone=True)
            return True
        self.silence = "no socket"
        with contextlib.suppress(paths.ControlDirError):
            directory = self.path.parent
            self.owner = paths.check_directory(directory)
            others = (p for p in paths.discover(directory) if paths.pid_of(p) == pid)
            self.path = next(others, self.path)
        return False

    def transfer(self) -> None:
        """Send or read as much as the socket allows without waiting."""
        assert self.sock is not None, "bug: an exchange without a socket"
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
