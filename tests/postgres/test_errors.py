"""A pool's errors, as code of a project meets them."""

from __future__ import annotations

import pickle
import threading

import pytest
from django.db import OperationalError, connections
from django.db.backends.signals import connection_created
from django.test import override_settings

import dbpool_mw
from dbpool_mw import pooled
from dbpool_mw.binding import errors
from dbpool_mw.core import errors as core_errors
from tests.core.fakes import InThread
from tests.postgres.conftest import ask
from tests.vocabulary import OperationalError as LibrarysError
from tests.vocabulary import connect_strangely

pytestmark = pytest.mark.usefixtures("fresh_wrappers", "databases")

KINDS = ["PoolError", "PoolTimeout", "TooManyRequests", "ConnectFailed", "PoolClosed"]


@pytest.fixture
def down(databases):
    """Make the server of the alias "replica" unreachable."""
    connections.settings["replica"]["PORT"] = "1"


@pytest.mark.parametrize("kind", KINDS)
def test_each_error_is_the_pools_and_djangos(kind):
    raised = errors.for_django(getattr(core_errors, kind)("default", "no", "why"))
    assert type(raised) is getattr(errors, kind)
    assert isinstance(raised, getattr(core_errors, kind))
    assert isinstance(raised, OperationalError)
    assert (raised.alias, raised.summary, str(raised)) == ("default", "no", "no; why")


@pytest.mark.parametrize("module", [errors, core_errors])
@pytest.mark.parametrize("kind", KINDS)
def test_each_error_can_be_rebuilt_elsewhere(module, kind):
    error = getattr(module, kind)("default", "no", "why")
    # Celery's JSON results keep the class and the args.
    for copy in (pickle.loads(pickle.dumps(error)), type(error)(*error.args)):
        assert type(copy) is type(error)
        assert (copy.alias, str(copy)) == ("default", "no; why")


def test_the_public_names_are_the_bases_of_what_is_raised():
    for kind in KINDS[:-1]:
        assert issubclass(getattr(errors, kind), getattr(dbpool_mw, kind))


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=0.01)
@pytest.mark.parametrize("kind", [dbpool_mw.PoolTimeout, OperationalError])
def test_a_query_without_a_connection_is_caught_by_either_name(kind):
    def query():
        with pooled(), pytest.raises(kind) as caught:
            ask("SELECT 1")
        return caught.value

    with pooled():
        ask("SELECT 1")
        error = InThread(query).result()
    assert type(error.__cause__) is dbpool_mw.PoolTimeout
    assert error.alias == "default"


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=0.2)
def test_threads_that_wait_crosswise_read_what_they_hold_and_who_holds_the_other():
    both = threading.Barrier(2)

    def query(first, second):
        with pooled():
            ask("SELECT 1", alias=first)
            both.wait(10)
            with pytest.raises(dbpool_mw.PoolTimeout) as caught:
                ask("SELECT 1", alias=second)
            both.wait(10)  # neither gives back what the other's error has to name
            return str(caught.value)

    threads = [
        InThread(query, "default", "replica"),
        InThread(query, "replica", "default"),
    ]
    texts = [thread.result() for thread in threads]
    for text, wanted, own in zip(
        texts, ("replica", "default"), ("default", "replica"), strict=True
    ):
        assert text.startswith(f"pool '{wanted}': no connection within 0.2 s; ")
        assert "held by thread" in text
        assert text.endswith(
            f"; this thread itself held a connection of '{own}' meanwhile"
        )
    for pool in dbpool_mw.binding.registry.pools():
        figures = pool.stats()
        assert (figures["in_use"], figures["waiting"]) == (0, 0)


def test_the_cause_of_a_failed_connect_is_the_librarys_own_error(down):
    with pooled("replica"), pytest.raises(dbpool_mw.ConnectFailed) as caught:
        ask("SELECT 1", alias="replica")
    assert isinstance(caught.value.__cause__.__cause__, LibrarysError)


@override_settings(DBPOOL_MW_TIMEOUT=20)
def test_another_pools_failure_is_not_taken_for_the_pools_own(down):
    def receiver(connection, **signal):
        if connection.alias == "default":
            with pooled("replica"):
                ask("SELECT 1", alias="replica")

    def query():
        with pooled("default"), pytest.raises(dbpool_mw.ConnectFailed) as caught:
            ask("SELECT 1")
        return caught.value

    with pooled("default"):
        ask("SELECT 1")  # this one could come back in time
        connection_created.connect(receiver)
        try:
            error = InThread(query).result(10)
        finally:
            connection_created.disconnect(receiver)
        assert error.alias == "replica"
        assert "failed connects" not in InThread(why_default_waits).result()


def why_default_waits():
    (pool,) = (p for p in dbpool_mw.binding.registry.pools() if p.name == "default")
    return pool._explain()


def test_a_pools_error_without_djangos_is_not_answered_as_overload(requests):
    def view(request):
        raise core_errors.PoolError("default", "bug: something else")

    assert requests(view).status_code == 500


def test_the_503_for_a_strange_engine_shows_no_connection_string(
    requests, monkeypatch, caplog
):
    def get_new_connection(self, params):
        return connect_strangely(params)

    monkeypatch.setattr(
        type(connections["default"]), "get_new_connection", get_new_connection
    )
    response = requests(lambda request: ask("SELECT 1"))
    assert response.status_code == 503
    assert b"dsn" not in response.content
    assert "can't connect to the database" in caplog.text
    assert "dsn" not in caplog.text
