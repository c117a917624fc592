"""In the steady state nothing crosses the wire but the view's own queries."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from contextlib import suppress

import pytest
from django.db import connection, connections
from django.http import HttpResponse
from django.test import override_settings

from tests.documents import code_block
from tests.postgres.conftest import ask, on_engine, stats

TENANTS = "django_tenants.postgresql_backend"


class CountingProxy:
    """A proxy before PostgreSQL that counts the messages the client sends."""

    def __init__(self, host, port):
        self.server = (host, port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.messages = []
        self.threads = []
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self.relay, args=[client], daemon=True)
            thread.start()
            self.threads.append(thread)

    def relay(self, client):
        server = socket.create_connection(self.server)
        unread = b""
        started = False
        with (
            client,
            server,
            selectors.DefaultSelector() as selector,
            # Either side may go away in the middle.
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
        # An accept() that waits is not ended by close() alone.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.accepting.join(5)
        for thread in self.threads:
            thread.join(5)


@pytest.fixture
def wire(requests, databases):
    """Put the proxy between Django and the server."""
    if databases.server.host.startswith("/"):
        pytest.skip("the server named by the environment has no TCP address")
    proxy = CountingProxy(databases.server.host, int(databases.server.port))
    connections.settings["default"].update(
        HOST="127.0.0.1", PORT=str(proxy.port), OPTIONS={"sslmode": "disable"}
    )
    yield proxy
    from dbpool_mw import process

    connections["default"].close()
    process.close()
    connections.settings["default"]["OPTIONS"] = {}
    proxy.close()


def queries(number):
    def view(request):
        for _ in range(number):
            ask("SELECT 1")
        return HttpResponse()

    return view


@pytest.mark.parametrize("lazy", [False, True])
def test_a_request_sends_its_queries_and_nothing_else(lazy, requests, wire):
    with override_settings(DBPOOL_MW_LAZY=lazy):
        requests(queries(1))
        assert wire.messages
        for number in (0, 1, 3, 0):
            wire.messages.clear()
            assert requests(queries(number)).status_code == 200
            assert wire.messages == [b"Q"] * number
        assert stats()["opened"] == 1


def test_closing_in_mid_request_sends_nothing_either(requests, wire):
    def view(request):
        ask("SELECT 1")
        connection.close()
        ask("SELECT 1")
        return HttpResponse()

    requests(view)
    wire.messages.clear()
    requests(view)
    assert wire.messages == [b"Q"] * 2


def test_a_touched_session_costs_its_reset(requests, wire):
    def view(request):
        ask("SET a.b = 'c'")
        return HttpResponse()

    requests(view)
    wire.messages.clear()
    requests(view)
    # The view's own, DISCARD ALL, and the time zone that Django sets.
    assert wire.messages == [b"Q"] * 3


@pytest.mark.parametrize("limit", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_a_tenants_search_path_costs_its_reset(lazy, limit, own, requests, wire):
    def view(request):
        connection.set_schema("public")
        return queries(3)(request)

    settings = {"DBPOOL_MW_LAZY": lazy, "TENANT_LIMIT_SET_CALLS": limit}
    if own:
        exec(code_block("docs/engines.rst", "def forget_tenant"), settings)
    with on_engine(TENANTS), override_settings(**settings):
        requests(view)
        requests(view)
        wire.messages.clear()
        assert requests(view).status_code == 200
        # The view's three, and before them, or before each, django-tenants' SET. Then
        # DISCARD ALL and the time zone that Django sets, or the one RESET.
        sets, reset = (1 if limit else 3), (1 if own else 2)
        assert wire.messages == [b"Q"] * (3 + sets + reset)
        assert stats()["opened"] == 1
