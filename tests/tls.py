"""A TLS proxy before PostgreSQL that speaks TLS to its clients at any moment.

Python's ``ssl`` can't send a session ticket or a key update when a test wants it, so
OpenSSL is called through ctypes.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import select
import shutil
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.proxy import wait_for_delivery
from tests.listener import Listener

#: What a connection to PostgreSQL that is to be encrypted begins with.
SSL_REQUEST = bytes.fromhex("00000008 04d2162f")

_FOUND = ctypes.util.find_library("ssl")
_KEY_UPDATE_REQUESTED = 1
_PEM = 1
_WANT_READ = 2

needs_openssl = pytest.mark.skipif(
    _FOUND is None or shutil.which("openssl") is None,
    reason="no OpenSSL library, or no program openssl: install both to test",
)


def _openssl() -> ctypes.CDLL:
    library = ctypes.CDLL(_FOUND)
    for name in ("TLS_server_method", "SSL_CTX_new", "SSL_new"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


class TlsProxy:
    """Take TLS connections for a server without TLS."""

    def __init__(self, host: str, port: int, key: Path, certificate: Path) -> None:
        self._server = (host, port)
        self._ssl = ssl = _openssl()
        self._context = ctypes.c_void_p(
            ssl.SSL_CTX_new(ctypes.c_void_p(ssl.TLS_server_method()))
        )
        assert (
            ssl.SSL_CTX_use_certificate_file(self._context, bytes(certificate), _PEM)
            == 1
        )
        assert ssl.SSL_CTX_use_PrivateKey_file(self._context, bytes(key), _PEM) == 1
        #: What each connection began with.
        self.beginnings: list[bytes] = []
        self._clients: list[tuple[socket.socket, ctypes.c_void_p, threading.Lock]] = []
        self._listener = Listener(self._relay)
        self.port = self._listener.port

    def __enter__(self) -> TlsProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._listener.join()

    def say(self, what: str) -> None:
        """Send every client a "ticket" or a "key update"."""
        for client, tls, lock in list(self._clients):
            with lock:
                if what == "ticket":
                    assert self._ssl.SSL_new_session_ticket(tls) == 1
                else:
                    assert self._ssl.SSL_key_update(tls, _KEY_UPDATE_REQUESTED) == 1
                assert self._ssl.SSL_do_handshake(tls) == 1
            wait_for_delivery(client)

    def _relay(self, client: socket.socket) -> None:
        ssl, lock = self._ssl, threading.Lock()
        beginning = client.recv(8)
        self.beginnings.append(beginning)
        if beginning != SSL_REQUEST:
            client.close()
            return
        client.sendall(b"S")
        tls = ctypes.c_void_p(ssl.SSL_new(self._context))
        ssl.SSL_set_fd(tls, client.fileno())
        if ssl.SSL_accept(tls) != 1:
            client.close()
            return
        # An OpenSSL connection is for one thread at a time: nothing waits within.
        client.setblocking(False)
        self._clients.append((client, tls, lock))
        buffer = ctypes.create_string_buffer(65536)
        with (
            client,
            socket.create_connection(self._server) as server,
            suppress(OSError),
        ):
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if server in ready:
                    data = server.recv(65536)
                    if not data:
                        break
                    with lock:
                        ssl.SSL_write(tls, data, len(data))
                if client in ready:
                    with lock:
                        size = ssl.SSL_read(tls, buffer, len(buffer))
                        error = ssl.SSL_get_error(tls, size)
                    if size > 0:
                        server.sendall(buffer.raw[:size])
                    elif error != _WANT_READ:
                        break
            self._clients.remove((client, tls, lock))
