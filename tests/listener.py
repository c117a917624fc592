"""Accept connections on a free port, for the proxies of the tests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class Listener:
    """Serve each connection in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], object]) -> None:
        self._serve = serve
        #: How many connections were accepted so far.
        self.accepted = 0
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._serve, args=[client], daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Have no new connection accepted; those that are served go on."""
        # close() alone does not end an accept() that waits.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def join(self) -> None:
        """Wait until every connection has been served."""
        for thread in self._threads:
            thread.join(20)
