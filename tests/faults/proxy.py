"""A network that can go deaf: a TCP proxy before PostgreSQL, in this process."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress


class Proxy:
    """Relay bytes to a server, unless the network is deaf, slow or cut."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        #: Cleared, no byte passes, and connections stay open.
        self.hears = threading.Event()
        self.hears.set()
        #: Seconds until a connection is relayed.
        self.delay = 0.0
        #: Seconds until the next connection is taken up.
        self.pause = 0.0
        self._open: list[socket.socket] = []
        self._deaf: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hears.set()
        self.cut()
        for thread in self._threads:
            thread.join(20)

    def cut(self) -> None:
        """End every connection there is."""
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Make the connections there are deaf for good; new ones work."""
        self._deaf.update(self._open)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.pause:
                time.sleep(self.pause)
            thread = threading.Thread(target=self._relay, args=[client], daemon=True)
            self._threads.append(thread)
            thread.start()

    def _relay(self, client: socket.socket) -> None:
        if self.delay:
            time.sleep(self.delay)
        self.hears.wait()
        try:
            server = socket.create_connection(self._server)
        except OSError:
            client.close()
            return
        self._open += [client, server]
        back = threading.Thread(target=self._pass, args=[server, client], daemon=True)
        back.start()
        self._pass(client, server)
        back.join()
        for each in (client, server):
            self._open.remove(each)
            each.close()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.hears.wait()
                if source in self._deaf:
                    continue
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
