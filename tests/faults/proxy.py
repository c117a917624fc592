"""A TCP proxy before PostgreSQL, in this process: a network that a test can break."""

from __future__ import annotations

import fcntl
import socket
import termios
import threading
import time
from contextlib import suppress

from tests.listener import Listener


def wait_for_delivery(end: socket.socket) -> None:
    """Wait until what was sent has reached the other side."""
    deadline = time.monotonic() + 10
    while any(fcntl.ioctl(end, termios.TIOCOUTQ, bytes(4))):
        assert time.monotonic() < deadline, "not delivered within 10 s"
        time.sleep(0.001)


class Proxy:
    """Relay bytes to a server; a test can stop, slow down or cut that network."""

    def __init__(self, host: str, port: int) -> None:
        #: Where new connections lead to.
        self.server = (host, port)
        #: While this event is cleared, no byte passes, and connections stay open.
        self.responsive = threading.Event()
        self.responsive.set()
        #: Seconds from the accept of a connection until its bytes are relayed.
        self.delay = 0.0
        #: Seconds that each connection delays the next one.
        self.pause = 0.0
        self._pausing = threading.Lock()
        #: Whether new connections are closed as soon as they are accepted.
        self.refuses = False
        self._open: list[socket.socket] = []
        self._clients: list[socket.socket] = []
        self._silenced: set[socket.socket] = set()
        self.listener = Listener(self._relay)
        self.port = self.listener.port

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()
        self.responsive.set()
        self.cut()
        self.listener.join()

    def cut(self) -> None:
        """Shut down every open connection."""
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def say(self, data: bytes) -> None:
        """Send bytes to all clients, as if the server had; while they are idle."""
        for client in list(self._clients):
            client.sendall(data)
            wait_for_delivery(client)

    def silence(self) -> None:
        """Make all open connections unresponsive for good; new connections work."""
        self._silenced.update(self._open)

    def _relay(self, client: socket.socket) -> None:
        if self.refuses:
            client.close()
            return
        if self.pause:
            with self._pausing:
                time.sleep(self.pause)
        if self.delay:
            time.sleep(self.delay)
        self.responsive.wait()
        try:
            server = socket.create_connection(self.server)
        except OSError:
            client.close()
            return
        self._open += [client, server]
        self._clients.append(client)
        back = threading.Thread(target=self._pass, args=[server, client], daemon=True)
        back.start()
        self._pass(client, server)
        back.join()
        self._clients.remove(client)
        for end in (client, server):
            self._open.remove(end)
            end.close()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.responsive.wait()
                if source in self._silenced:
                    continue
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
