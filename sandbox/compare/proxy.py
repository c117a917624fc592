"""A TCP proxy that counts round trips between a subject and the server."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading

SIZE = 65536


class CountingProxy:
    """Listen on the loopback interface, pass bytes on, and count.

    ``connects`` are the connections so far. A round trip is an answer to what the
    client has sent since the answer before; ``round_trips`` are those of all
    connections so far, with those of connecting.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self._guard = threading.Lock()
        self.connects = 0
        self.round_trips = 0

    def __enter__(self) -> CountingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with self._guard:
                    self.connects += 1
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        """Pass bytes between a client and the server until one of them ends."""
        with (
            contextlib.suppress(OSError),
            client,
            socket.create_connection(self._server) as server,
            selectors.DefaultSelector() as ready,
        ):
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            asked = False
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(SIZE)  # type: ignore[union-attr]
                    if not data:
                        return
                    if key.fileobj is client:
                        asked = True
                    elif asked:
                        asked = False
                        with self._guard:
                            self.round_trips += 1
                    key.data.sendall(data)
