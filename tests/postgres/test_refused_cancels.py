"""How MAX_HOLD cancels, and ends the holder where a cancel has no effect."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import OperationalError, connection
from django.test import override_settings

from dbpool_mw import HoldTooLong, pooled
from dbpool_mw.binding import registry
from dbpool_mw.core import watch
from dbpool_mw.drivers.postgresql import unanswered as waiting
from sandbox.postgres import machine
from tests.core.fakes import InThread
from tests.faults.proxy import Proxy
from tests.library import IS_PSYCOPG
from tests.listener import Listener
from tests.postgres.conftest import ask, forget_wrappers, stats
from tests.process.servers import wait_until
from tests.tls import SSL_REQUEST, TlsProxy, needs_openssl
from tests.vocabulary import cancel, library

#: Whether psycopg cancels by libpq's way since 17; before, it does as psycopg2.
IS_SAFE = IS_PSYCOPG and cancel._is_safe()
only_safe = pytest.mark.skipif(
    not IS_SAFE,
    reason="psycopg2, psycopg before 3.2, or libpq before 17: a cancel is neither "
    "encrypted nor limited",
)


@pytest.fixture
def proxy(databases, monkeypatch):
    """Put a proxy between Django and the server; holds are short."""
    monkeypatch.setattr(watch, "CANCEL_SECONDS", 0.2)
    forget_wrappers()
    with (
        Proxy(databases.server.host, databases.server.port) as proxy,
        override_settings(DBPOOL_MW_MAX_HOLD=0.2, DBPOOL_MW_MAX_CONNS=1),
    ):
        connection.settings_dict["PORT"] = str(proxy.port)
        yield proxy
        forget_wrappers()
        registry.close()


def is_refused(proxy):
    """Have no new connection reach the proxy."""
    proxy.listener.close()


def is_dropped(proxy):
    """Have the proxy close what doesn't begin as it wants, without a word."""
    proxy.refuses = True


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (is_refused, "connection to server" if IS_SAFE else "connect() failed"),
        # psycopg waits for the server to close the connection of the request.
        (is_dropped, "closed the" if IS_SAFE else "the request was sent"),
    ],
)
def test_a_cancel_without_effect_is_logged_and_the_holder_ends(
    proxy, caplog, happens, said
):
    held = threading.Event()

    def hold():
        with pooled():
            ask("SELECT 1")
            held.set()
            ask("SELECT pg_sleep(60)")

    holder = InThread(hold)
    assert held.wait(10)
    happens(proxy)
    (pool,) = registry.pools()

    def ended():
        pool.maintain()
        return not holder.is_alive()

    wait_until(ended, "the holder ended")
    with pytest.raises(OperationalError) as caught:
        holder.result()
    assert isinstance(caught.value.__cause__, HoldTooLong)
    wait_until(lambda: stats()["size"] == 0, "its place is free")
    (line,) = [text for text in caplog.messages if "no effect" in text]
    assert said in line
    assert line.startswith("pool 'default': held longer than MAX_HOLD, 0.2 s; ")


@contextmanager
def never_answering(proxy):
    """Have cancels taken and never answered; give what counts them, and ends that."""
    taken, answered = threading.Semaphore(0), threading.Event()

    def take(client):
        with client:
            client.recv(16)
            taken.release()
            assert answered.wait(30)

    listener = Listener(take)
    with pooled():
        ask("SELECT 1")
        proxy.server = ("127.0.0.1", listener.port)
        yield connection.connection.canceller, taken, answered
    listener.close()
    listener.join()


@pytest.mark.skipif(
    IS_PSYCOPG and (IS_SAFE or library.pq.__impl__ != "python"),
    reason="psycopg's cancel_safe() has a limit; its older way in C stops all threads",
)
def test_cancels_that_are_taken_and_never_answered_keep_few_threads(proxy, monkeypatch):
    monkeypatch.setattr(waiting, "_MOST", 3)
    with never_answering(proxy) as (canceller, taken, answered):
        for _ in range(3):
            canceller.start()
            assert taken.acquire(timeout=20)
        for _ in range(5):
            canceller.refused = ""
            canceller.start()
            wait_until(lambda: canceller.refused, "the cancel was not sent")
        assert canceller.refused == "3 cancels before have got no answer"
        assert len(waiting._unanswered) == 3
        answered.set()
        wait_until(lambda: not waiting._unanswered, "the threads ended")
        canceller.start()
        assert taken.acquire(timeout=20)


@only_safe
def test_a_cancel_that_is_taken_and_never_answered_ends(proxy, monkeypatch):
    monkeypatch.setattr(cancel, "_TIMEOUT", 0.1)
    with never_answering(proxy) as (canceller, taken, answered):
        canceller.start()
        assert taken.acquire(timeout=20)
        wait_until(lambda: canceller.refused, "it was given up")
        assert "within 0.1 s" in canceller.refused
        answered.set()
        # The connection is as good as before.
        assert ask("SELECT 1") == 1


@only_safe
@needs_openssl
@pytest.mark.parametrize("times", [1, 3])
def test_a_cancel_is_encrypted_as_its_connection_is(databases, tmp_path, times):
    server = databases.server
    key, certificate = map(Path, machine.self_signed(tmp_path, {}))
    forget_wrappers()
    with (
        TlsProxy(server.host, server.port, key, certificate) as proxy,
        override_settings(DBPOOL_MW_MAX_HOLD=0.2),
    ):
        connection.settings_dict.update(
            PORT=str(proxy.port), OPTIONS={"sslmode": "require"}
        )
        for _ in range(times):
            begun = threading.Event()

            def hold(begun=begun):
                with pooled():
                    connection.ensure_connection()
                    begun.set()
                    ask("SELECT pg_sleep(60)")

            holder = InThread(hold)
            assert begun.wait(10)
            (pool,) = registry.pools()
            wait_until(
                lambda pool=pool, holder=holder: (
                    pool.maintain() or not holder.is_alive()
                ),
                "the holder was cancelled",
            )
            with pytest.raises(OperationalError) as caught:
                holder.result()
            # The server said so: nothing was shut down.
            assert caught.value.__cause__.__cause__.sqlstate == "57014"
        # Each connection, and each cancel, of which there may be two.
        assert set(proxy.beginnings) == {SSL_REQUEST}
        assert 2 * times <= len(proxy.beginnings) <= 3 * times
        forget_wrappers()
        registry.close()
    connection.settings_dict["OPTIONS"] = {}
