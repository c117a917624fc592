"""What a server or a TLS proxy says to an idle connection doesn't end it."""

from __future__ import annotations

import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connection
from django.test import override_settings

from dbpool_mw import pooled
from dbpool_mw.binding import registry
from sandbox.postgres import machine
from tests.faults.proxy import Proxy
from tests.postgres.conftest import ask, forget_wrappers, stats
from tests.tls import TlsProxy, needs_openssl
from tests.vocabulary import heard

NUMBER = 4


def message(kind, *texts):
    """Return a message of PostgreSQL's protocol that is made of texts."""
    body = b"".join(text.encode() + b"\0" for text in texts)
    return kind + struct.pack(">I", len(body) + 4) + body


def reported(name, value):
    return message(b"S", name, value)


NOTICE = message(b"N", "SNOTICE", "VNOTICE", "C00000", "Mhear, hear", "")
FATAL = message(b"E", "SFATAL", "VFATAL", "C57P01", "Mgoing down", "")
NOTIFICATION = b"A" + struct.pack(">II", 4 + 4 + 6, 1) + b"ch\0xy\0"


@pytest.fixture
def small_pool(databases):
    forget_wrappers()
    with override_settings(DBPOOL_MW_MAX_CONNS=NUMBER):
        yield databases
        forget_wrappers()
        registry.close()
        connection.settings_dict["OPTIONS"] = {}


@pytest.fixture
def proxy(small_pool):
    """Put a proxy between Django and the server; it can speak for the server."""
    server = small_pool.server
    with Proxy(server.host, server.port) as proxy:
        options = {"sslmode": "disable"}
        connection.settings_dict.update(PORT=str(proxy.port), OPTIONS=options)
        yield proxy
        forget_wrappers()
        registry.close()


@pytest.fixture
def tls_proxy(small_pool, tmp_path):
    """Put a proxy that takes TLS between Django and the server."""
    server = small_pool.server
    key, certificate = map(Path, machine.self_signed(tmp_path, {}))
    with TlsProxy(server.host, server.port, key, certificate) as proxy:
        options = {"sslmode": "require"}
        connection.settings_dict.update(PORT=str(proxy.port), OPTIONS=options)
        yield proxy
        forget_wrappers()
        registry.close()


def use_all():
    """Have as many holders at once as the pool has connections; return the backends."""
    together = threading.Barrier(NUMBER)

    def use():
        with pooled():
            connection.ensure_connection()
            assert heard(connection.connection) == []
            backend = ask("SELECT pg_backend_pid()")
            together.wait(10)
            return backend

    with ThreadPoolExecutor(NUMBER) as threads:
        futures = [threads.submit(use) for _ in range(NUMBER)]
        return {future.result(20) for future in futures}


def maintain():
    for pool in registry.pools():
        pool.maintain()


@pytest.mark.parametrize(
    ("said", "looks_first"),
    [
        (reported("application_name", "x"), True),
        (reported("application_name", "x"), False),
        (NOTICE, True),
        (NOTICE * 100, False),
        (NOTIFICATION, False),
    ],
    ids=["setting", "setting, at once", "notice", "notices, at once", "notification"],
)
def test_what_the_server_says_to_idle_connections_costs_none(proxy, said, looks_first):
    backends = use_all()
    proxy.say(said)
    if looks_first:
        maintain()
    assert use_all() == backends
    assert stats()["discarded"] == {}
    # Nothing of it costs a holder its clean session.
    assert stats()["resets"] == 0


@needs_openssl
@pytest.mark.parametrize("said", ["ticket", "key update"])
def test_what_a_tls_proxy_says_to_idle_connections_costs_none(tls_proxy, said):
    backends = use_all()
    for _ in range(2):
        tls_proxy.say(said)
        maintain()
        tls_proxy.say(said)
        assert use_all() == backends
    assert stats()["discarded"] == {}


def test_a_farewell_costs_the_connection_even_before_its_end(proxy):
    backends = use_all()
    proxy.say(FATAL)
    threading.Timer(0.05, proxy.cut).start()
    assert not use_all() & backends
    assert stats()["discarded"] == {"dead": NUMBER}


def test_an_idle_connection_that_hears_of_a_read_only_server_has_all_replaced(
    proxy, caplog
):
    backends = use_all()
    proxy.say(reported("default_transaction_read_only", "on"))
    with pooled():
        assert ask("SELECT pg_backend_pid()") not in backends
    assert not use_all() & backends
    assert "the server has become read-only" in caplog.text
