"""Count what crosses the wire between Django and PostgreSQL."""

from __future__ import annotations

import selectors
import socket
import struct
from contextlib import suppress

from tests.listener import Listener


class CountingProxy:
    """A proxy before PostgreSQL that counts the messages the client sends."""

    def __init__(self, host, port):
        self.server = (host, port)
        self.messages = []
        self.listener = Listener(self.relay)
        self.port = self.listener.port

    def relay(self, client):
        server = socket.create_connection(self.server)
        unread = b""
        started = False
        with (
            client,
            server,
            selectors.DefaultSelector() as selector,
            # Either side may close at any time.
            suppress(ConnectionError),
        ):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(65536)
                    if not data:
                        return
                    if key.fileobj is client:
                        # Count before the server can answer.
                        unread, started = self.count(unread + data, started)
                    key.data.sendall(data)

    def count(self, data, started):
        while True:
            # The first messages have no type, only a length: SSLRequest, startup.
            skip = 1 if started else 0
            if len(data) < 4 + skip:
                return data, started
            (length,) = struct.unpack_from(">I", data, skip)
            if len(data) < length + skip:
                return data, started
            if started:
                self.messages.append(data[:1])
            else:
                (code,) = struct.unpack_from(">I", data, 4)
                started = code == 196608  # protocol 3.0
            data = data[length + skip :]

    def close(self):
        self.listener.close()
        self.listener.join()
