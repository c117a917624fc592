"""Liveness, closing and cancelling on TLS connections.

Most are tests of other files, on a server that is reached by TLS.
"""

from __future__ import annotations

import threading

import pytest
from django.db import OperationalError
from django.db import connection as default
from django.test import override_settings

from dbpool_mw import HoldTooLong, pooled
from dbpool_mw.binding import registry
from tests.conftest import aliases_at, fresh_databases
from tests.core.fakes import InThread
from tests.postgres.conftest import ask, forget_wrappers, stats
from tests.postgres.conftest import connection as connection
from tests.postgres.test_driver import (
    test_a_connection_ended_by_the_server_is_dead_without_a_round_trip as test_dead,
)
from tests.postgres.test_driver import (
    test_after_a_close_the_backend_has_ended as after_a_close,
)
from tests.postgres.test_driver import (
    test_shutting_a_socket_down_ends_the_wait_for_an_answer as test_shut_down,
)
from tests.process.servers import wait_until
from tests.vocabulary import connect

__all__ = ["test_dead", "test_shut_down"]


@pytest.fixture
def postgres(tls_postgres):
    return tls_postgres


@pytest.fixture
def databases(tls_postgres):
    """Point Django at two databases of the server with TLS."""
    forget_wrappers()
    with fresh_databases(tls_postgres) as databases, aliases_at(databases):
        yield databases
        forget_wrappers()
        registry.close()


def test_after_a_close_the_backend_has_ended(postgres, database, connection):
    after_a_close(postgres, database, connection, "running")


@pytest.mark.usefixtures("databases")
def test_a_connection_ended_while_it_was_idle_fails_nothing(tls_postgres):
    with pooled():
        backend = ask("SELECT pg_backend_pid()")
    session = connect(tls_postgres.dsn())
    with session, session.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [backend])
    session.close()
    with pooled():
        assert ask("SELECT pg_backend_pid()") != backend
    assert stats()["discarded"] == {"dead": 1}


@pytest.mark.usefixtures("databases")
def test_idle_connections_stay_while_the_server_reads_its_configuration():
    with pooled():
        assert ask("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    for style in ("German", "SQL", "ISO"):
        with pooled():
            ask(f"ALTER SYSTEM SET datestyle = '{style}'")
            ask("SELECT pg_reload_conf()")
        (pool,) = registry.pools()
        pool.maintain()
    assert stats()["opened"] == 1
    assert stats()["discarded"] == {}


@pytest.mark.usefixtures("databases")
@override_settings(DBPOOL_MW_MAX_HOLD=0.2)
def test_a_holder_is_cancelled_after_max_hold():
    begun = threading.Event()

    def hold():
        with pooled():
            default.ensure_connection()
            begun.set()
            ask("SELECT pg_sleep(60)")

    holder = InThread(hold)
    assert begun.wait(10)
    (pool,) = registry.pools()
    wait_until(lambda: pool.maintain() or not holder.is_alive(), "it was cancelled")
    with pytest.raises(OperationalError) as caught:
        holder.result()
    assert isinstance(caught.value.__cause__, HoldTooLong)
    wait_until(lambda: stats()["size"] == 0, "its connection is closed")
    assert stats()["discarded"] == {"held too long": 1}
