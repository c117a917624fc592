"""Answer the commands' requests inside a worker, on one daemon thread.

The thread owns all sockets and never blocks on one. A client that sends invalid bytes,
an incomplete message or nothing, or that reads too slowly, costs the worker a few
buffers for at most CLIENT_SECONDS; at most MAX_CLIENTS are connected at once, and one
more takes the place of the oldest, which is told that the worker is busy. Failures are
logged and the thread goes on. A worker that can't create its socket serves its
requests all the same; the commands don't see it. A socket that somebody removed, alone
or with its directory, is replaced within about a second.

A server belongs to the process that started it. After a fork the child calls `forget()`
(`stop()` does the same there) and starts a server of its own.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbpool_mw.control import paths, peer, protocol, sweeping
from dbpool_mw.core.logs import get_logger
from dbpool_mw.core.text import one_line

logger = get_logger("dbpool_mw.control")

CLIENT_SECONDS = 5.0
MAX_CLIENTS = 32
#: How often the thread looks whether its socket still has its name.
LOOK_SECONDS = 1.0
THREAD_NAME = "dbpool_mw-control"

_BACKLOG = 128
_CHUNK = 64 * 1024
# How long to wait after a failure that would recur at once, such as a process without a
# free file descriptor, before accepting clients or looping again.
_PAUSE_SECONDS = 1.0

Handle = Callable[[dict[str, Any]], dict[str, Any]]


class _Client:
    """A client's connection: one request and its reply, until `deadline`."""

    __slots__ = ("deadline", "decoder", "output", "sock")

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.decoder = protocol.Decoder(protocol.MAX_REQUEST)
        self.output: memoryview | None = None


class ControlServer:
    """Serve this process' control socket from a daemon thread.

    `handle` takes a request that has passed `protocol.check_request` and returns the
    reply. The control thread calls it, one request at a time; an exception from it
    becomes an error reply. `start` and `stop` may be called from any thread, but not
    from two threads at once.
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
        self._look_at = 0.0
        self._is_removed = False

    def start(self) -> bool:
        """Open the socket and start the thread; return False if that failed.

        A failure is logged as one warning and not raised: the worker serves requests
        without a control socket.
        """
        if self._thread is not None and self._thread.is_alive():
            return True
        self._stopping = False
        try:
            self._open()
            thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
            # Before the start, because an exception may come right after it.
            self._thread = thread
            thread.start()
        except (paths.ControlDirError, OSError, RuntimeError) as error:
            self._thread = None
            self._close()
            logger.warning(
                "no control socket, so the commands won't see this process: %s", error
            )
            return False
        return True

    def stop(self) -> None:
        """Remove the socket, end the thread and wait for it, at most one second."""
        if os.getpid() != self._pid:
            self.forget()
            return
        thread, self._thread = self._thread, None
        # Read once: the thread sets the attribute to None when it ends.
        wakeup = self._wakeup
        self._stopping = True
        # Before the thread ends: a socket that can be found must accept connections.
        self._unlink()
        if thread is None or wakeup is None:
            return
        with contextlib.suppress(OSError):
            wakeup[1].send(b"\0")
        if thread is not threading.current_thread() and thread.is_alive():
            thread.join(1.0)

    def forget(self) -> None:
        """Close the descriptors that a forked child inherited; for the child only.

        The parent keeps serving: closing the child's copies of its descriptors changes
        nothing in the parent's selector or connections. The socket's path is the
        parent's and stays.
        """
        self._thread = self.path = None
        self._close()

    # --- Opening and closing ---------------------------------------------------------

    def _open(self) -> None:
        listener = self._listen()
        self._selector = selectors.DefaultSelector()
        self._wakeup = socket.socketpair()
        for end in self._wakeup:
            end.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._wakeup[0], selectors.EVENT_READ)

    def _listen(self) -> socket.socket:
        """Open a listening socket with a new name, which becomes this server's.

        The socket is bound to the name that it keeps: cleaners of /tmp, which remove
        what is old and not in use, find the sockets in use by the names in
        /proc/net/unix.
        """
        with sweeping.kept(self.directory), contextlib.ExitStack() as undo:
            path = paths.socket_path(self.directory)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.callback(listener.close)
            listener.setblocking(False)
            try:
                listener.bind(str(path))
                undo.callback(path.unlink, missing_ok=True)
                path.chmod(0o600)
                listener.listen(_BACKLOG)
                status = path.lstat()
            except OSError as error:
                raise paths.ControlDirError(f"can't make {path}: {error}") from error
            self._listener, self.path = listener, path
            self._identity = (status.st_dev, status.st_ino)
            undo.pop_all()
        return listener

    def _listen_anew_if_removed(self) -> None:
        """Open another socket if this server's was removed or replaced."""
        path, old = self.path, self._listener
        # In this order: stop() removes the socket after it has set the flag.
        if path is None or self._is_own(path) or self._stopping:
            return
        try:
            listener = self._listen()
        except (paths.ControlDirError, OSError) as error:
            if not self._is_removed:
                logger.warning(
                    "the control socket %s was removed, so the commands don't see this "
                    "process; trying every second to open another: %s",
                    path,
                    error,
                )
            self._is_removed = True
            return
        self._is_removed = False
        logger.warning("the control socket %s was removed; opened %s", path, self.path)
        if old is not None:
            with contextlib.suppress(KeyError):
                self._registry.unregister(old)
            old.close()
        self._listen_again = None
        self._registry.register(listener, selectors.EVENT_READ)

    def _is_own(self, path: Path) -> bool:
        """Tell whether a path still is this server's socket."""
        try:
            status = path.lstat()
        except OSError:
            return False
        # Once the socket is removed, a file of another kind may get its inode.
        same = (status.st_dev, status.st_ino) == self._identity
        return same and stat.S_ISSOCK(status.st_mode)

    def _unlink(self) -> None:
        """Remove this server's socket, unless another file has replaced it."""
        path, self.path = self.path, None
        if path is not None and self._is_own(path):
            with contextlib.suppress(OSError):
                path.unlink()

    def _close(self) -> None:
        """Remove the socket's name and close every descriptor."""
        self._unlink()
        # Not unregistered first: a forked child shares its parent's epoll set and would
        # remove the descriptors from it.
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
        sweeping.sweep(self.directory)
        failing = False
        while not self._stopping:
            try:
                self._run_once()
                failing = False
            except Exception:
                # Log the first of successive failures only: the cause may be permanent,
                # as when other code has closed all descriptors of the process.
                if not failing:
                    logger.exception("control thread failed; it goes on")
                failing = True
                time.sleep(_PAUSE_SECONDS)
        self._close()

    def _run_once(self) -> None:
        """Wait for ready sockets, serve them, and drop clients past their deadline."""
        selector, listener = self._registry, self._listener
        accepts = False
        for key, _ in selector.select(self._timeout()):
            if key.data is not None:
                self._transfer(key.data)
            elif key.fileobj is listener:
                accepts = True
        # Last: a client whose request has come is answered, and isn't dropped.
        if listener is not None and accepts:
            self._accept(listener)
        now = time.monotonic()
        for client in [c for c in self._clients.values() if c.deadline <= now]:
            logger.debug("control client closed: not done within %g s", CLIENT_SECONDS)
            self._drop(client)
        if listener and self._listen_again is not None and self._listen_again <= now:
            self._listen_again = None
            selector.register(listener, selectors.EVENT_READ)
        if self._look_at <= now:
            self._look_at = now + LOOK_SECONDS
            self._listen_anew_if_removed()

    def _timeout(self) -> float:
        """Return the seconds until the next deadline or look at the socket."""
        deadlines = [client.deadline for client in self._clients.values()]
        if self._listen_again is not None:
            deadlines.append(self._listen_again)
        deadlines.append(self._look_at)
        return max(0.0, min(deadlines) - time.monotonic())

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError as error:
            # Without a free descriptor or memory the listener stays readable: without a
            # pause the loop would spin.
            logger.warning("can't accept a control client: %s", error)
            self._registry.unregister(listener)
            self._listen_again = time.monotonic() + _PAUSE_SECONDS
            return
        if not self._is_allowed(sock):
            sock.close()
            return
        sock.setblocking(False)
        if len(self._clients) >= MAX_CLIENTS:
            self._drop_oldest()
        client = _Client(sock, time.monotonic() + CLIENT_SECONDS)
        self._clients[sock] = client
        self._registry.register(sock, selectors.EVENT_READ, client)

    def _is_allowed(self, sock: socket.socket) -> bool:
        """Tell whether the client's user may ask this worker."""
        try:
            uid = peer.uid_of(sock)
        except OSError as error:
            logger.warning("control client rejected: %s", error)
            return False
        if uid not in (0, os.geteuid()):
            logger.warning("control client rejected: it runs as uid %d", uid)
            return False
        return True

    def _transfer(self, client: _Client) -> None:
        """Read or send as much as the client's socket allows without waiting."""
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
            logger.debug("control client closed: %s", error)
            self._drop(client)
        except Exception:
            logger.exception("control client closed: a bug in the control server")
            self._drop(client)

    def _read(self, client: _Client) -> memoryview | None:
        """Read what has arrived; return the reply if the request is complete now."""
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
        # BaseException too: SystemExit from a handler must not end this thread, and
        # KeyboardInterrupt is raised in the main thread only.
        except BaseException as error:
            logger.exception("control request %r failed", message["verb"])
            return protocol.error_reply(one_line(f"{type(error).__name__}: {error}"))

    def _encoded(self, reply: dict[str, Any]) -> bytes:
        try:
            return protocol.encode(reply, protocol.MAX_REPLY)
        except protocol.ProtocolError as error:
            logger.warning("control reply can't be sent: %s", error)
            answer = protocol.error_reply(f"the reply can't be sent: {error}")
            return protocol.encode(answer, protocol.MAX_REPLY)

    def _drop_oldest(self) -> None:
        """Drop the client that has been connected the longest, and say why."""
        client = next(iter(self._clients.values()))
        text = f"busy: {MAX_CLIENTS} other clients are connected"
        logger.debug("control client closed: %s", text)
        if client.output is None:
            with contextlib.suppress(OSError):
                client.sock.send(self._encoded(protocol.error_reply(text)))
        self._drop(client)

    def _drop(self, client: _Client) -> None:
        del self._clients[client.sock]
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._registry.unregister(client.sock)
        client.sock.close()

    @property
    def _registry(self) -> selectors.BaseSelector:
        assert self._selector is not None, "bug: the control thread has no selector"
        return self._selector
