"""Answer the commands from inside a worker, on one thread that can't harm it.

The thread owns all sockets and never blocks on one: a client that sends bad bytes, half
a message or nothing, reads slowly or comes in a crowd costs a few buffers for at most
CLIENT_SECONDS. What goes wrong is logged and the thread goes on; where no socket can be
made, the worker serves its requests without one.

Fork policy: a server belongs to the process that started it. A child calls `forget()`
(or `stop()`, which then does the same) and starts one of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbpool_mw.control import paths, peer, protocol

logger = logging.getLogger("dbpool_mw.control")

CLIENT_SECONDS = 5.0
MAX_CLIENTS = 32
THREAD_NAME = "dbpool_mw-control"

_BACKLOG = 128
_CHUNK = 64 * 1024
# How long to leave the listener, or the whole loop, alone after a failure that would
# come again at once (no file descriptors left, for one).
_PAUSE_SECONDS = 1.0

Handle = Callable[[dict[str, Any]], dict[str, Any]]


class _Client:
    """One connection: gathers a request, then sends a reply, until its deadline."""

    __slots__ = ("deadline", "decoder", "output", "sock")

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.decoder = protocol.Decoder(protocol.MAX_REQUEST)
        self.output: memoryview | None = None


class ControlServer:
    """Serve the control socket of this process from a daemon thread.

    `handle` takes a request that `protocol.check_request` let pass and returns the
    reply. It is called on the control thread, one request at a time; what it raises
    becomes an error reply. Start and stop from any thread, but not from two at once.
    """

    def __init__(self, directory: Path, handle: Handle) -> None:
        self.directory = directory
        self.path: Path | None = None
        self._handle = handle
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._identity: tuple[int, int] | None = None
        self._listener: socket.socket | None = None
        self._selector: selectors.BaseSelector | None = None
        self._wakeup: tuple[socket.socket, socket.socket] | None = None
        self._clients: dict[socket.socket, _Client] = {}
        self._stopping = False
        self._listen_again: float | None = None

    def start(self) -> bool:
        """Open the socket and start the thread; return whether commands can now see us.

        Never raises: a failure is one warning, and the worker goes on without.
        """
        if self._thread is not None:
            return True
        self._stopping = False
        try:
            self._open()
            thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
            thread.start()
        except (paths.ControlDirError, OSError, RuntimeError) as error:
            self._close()
            logger.warning(
                "no control socket, so the commands won't see this process: %s", error
            )
            return False
        self._thread = thread
        return True

    def stop(self) -> None:
        """Remove the socket and end the thread; wait for it at most a second."""
        if os.getpid() != self._pid:
            self.forget()
            return
        thread, self._thread = self._thread, None
        # The thread lets go of it when it ends, maybe before it is woken.
        wakeup = self._wakeup
        self._stopping = True
        # First the name: whoever finds the socket must find someone listening.
        self._unlink()
        if thread is None or wakeup is None:
            return
        with contextlib.suppress(OSError):
            wakeup[1].send(b"\0")
        if thread is not threading.current_thread():
            thread.join(1.0)

    def forget(self) -> None:
        """Drop what a forked child inherited; the parent keeps serving.

        Call it in the child only. Closing the child's copies of the descriptors tells
        the parent's selector and clients nothing; the path is the parent's and stays.
        """
        self._thread = self.path = None
        self._close()

    # --- Opening and closing ---------------------------------------------------------

    def _open(self) -> None:
        paths.ensure_directory(self.directory)
        path = paths.socket_path(self.directory)
        # Under a name that nobody looks for until it listens: a client takes a socket
        # that refuses for a dead one.
        unready = path.with_suffix(".bind")
        self._listener = listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        try:
            listener.bind(str(unready))
            unready.chmod(0o600)
            listener.listen(_BACKLOG)
            status = unready.lstat()
            unready.rename(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                unready.unlink()
            raise paths.ControlDirError(f"can't make {path}: {error}") from error
        self.path = path
        self._identity = (status.st_dev, status.st_ino)
        self._selector = selectors.DefaultSelector()
        self._wakeup = socket.socketpair()
        for end in self._wakeup:
            end.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._wakeup[0], selectors.EVENT_READ)

    def _unlink(self) -> None:
        """Remove our socket, unless something else took its place."""
        path, self.path = self.path, None
        if path is None:
            return
        with contextlib.suppress(OSError):
            status = path.lstat()
            # Another kind of file may have got our inode when we had lost it.
            ours = (status.st_dev, status.st_ino) == self._identity
            if ours and stat.S_ISSOCK(status.st_mode):
                path.unlink()

    def _close(self) -> None:
        """Close every descriptor without a word to the other ends."""
        self._unlink()
        # Unregistering would reach into the epoll set that a parent still uses.
        for closable in (
            self._selector,
            self._listener,
            *(self._wakeup or ()),
            *self._clients,
        ):
            if closable is not None:
                with contextlib.suppress(OSError):
                    closable.close()
        self._selector = self._listener = self._wakeup = None
        self._clients = {}

    # --- The thread ------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.suppress(paths.ControlDirError, OSError):
            paths.sweep(self.directory)
        failing = False
        while not self._stopping:
            try:
                self._turn()
                failing = False
            except Exception:
                # Once for a row of them: it may be for good, as when somebody closed
                # every descriptor of the process.
                if not failing:
                    logger.exception("the control thread failed, and goes on")
                failing = True
                time.sleep(_PAUSE_SECONDS)
        self._close()

    def _turn(self) -> None:
        selector, listener = self._registry, self._listener
        for key, _ in selector.select(self._patience()):
            if listener is not None and key.fileobj is listener:
                self._accept(listener)
            elif key.data is not None:
                self._attend(key.data)
        now = time.monotonic()
        for client in [c for c in self._clients.values() if c.deadline <= now]:
            logger.debug("a control client took too long, its connection is closed")
            self._drop(client)
        if listener and self._listen_again is not None and self._listen_again <= now:
            self._listen_again = None
            selector.register(listener, selectors.EVENT_READ)

    def _patience(self) -> float | None:
        """Return the seconds until the next deadline, None when there is none."""
        deadlines = [client.deadline for client in self._clients.values()]
        if self._listen_again is not None:
            deadlines.append(self._listen_again)
        if not deadlines:
            return None
        return max(0.0, min(deadlines) - time.monotonic())

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError as error:
            # Out of descriptors or memory, perhaps: the listener stays readable, and
            # without a pause this would turn in circles.
            logger.warning("can't accept a control client: %s", error)
            self._registry.unregister(listener)
            self._listen_again = time.monotonic() + _PAUSE_SECONDS
            return
        if not self._welcome(sock):
            sock.close()
            return
        sock.setblocking(False)
        client = _Client(sock, time.monotonic() + CLIENT_SECONDS)
        self._clients[sock] = client
        self._registry.register(sock, selectors.EVENT_READ, client)

    def _welcome(self, sock: socket.socket) -> bool:
        if len(self._clients) >= MAX_CLIENTS:
            logger.debug("a control client is one too many, its connection is closed")
            return False
        try:
            uid = peer.uid_of(sock)
        except OSError as error:
            logger.warning("a control client is turned away: %s", error)
            return False
        if uid not in (0, os.geteuid()):
            logger.warning("a control client is turned away: it runs as uid %d", uid)
            return False
        return True

    def _attend(self, client: _Client) -> None:
        """Read or write what the client's socket takes without waiting."""
        try:
            output = client.output or self._read(client)
            if output is None:
                return
            client.output = output[client.sock.send(output) :]
            if not client.output:
                self._drop(client)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, protocol.ProtocolError) as error:
            logger.debug("a control client is gone: %s", error)
            self._drop(client)
        except Exception:
            logger.exception("a control client met a bug, its connection is closed")
            self._drop(client)

    def _read(self, client: _Client) -> memoryview | None:
        """Take what has arrived; return the reply once the request is complete."""
        data = client.sock.recv(_CHUNK)
        if not data:
            raise client.decoder.closed()
        try:
            message = client.decoder.feed(data)
            if message is None:
                return None
            protocol.check_request(message)
        except protocol.ProtocolError as error:
            reply = protocol.error_reply(str(error))
        else:
            reply = self._answer(message)
        client.output = memoryview(self._encoded(reply))
        self._registry.modify(client.sock, selectors.EVENT_WRITE, client)
        return client.output

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._handle(message)
        # Whatever it is: this thread must outlive it, and no signal arrives here.
        except BaseException as error:
            logger.exception("the verb %r failed", message["verb"])
            return protocol.error_reply(f"{type(error).__name__}: {error}")

    def _encoded(self, reply: dict[str, Any]) -> bytes:
        try:
            return protocol.encode(reply, protocol.MAX_REPLY)
        except protocol.ProtocolError as error:
            logger.warning("a reply can't be sent: %s", error)
            answer = protocol.error_reply(f"the reply can't be sent: {error}")
            return protocol.encode(answer, protocol.MAX_REPLY)

    def _drop(self, client: _Client) -> None:
        del self._clients[client.sock]
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._registry.unregister(client.sock)
        client.sock.close()

    @property
    def _registry(self) -> selectors.BaseSelector:
        assert self._selector is not None, "bug: the control thread has no selector"
        return self._selector
