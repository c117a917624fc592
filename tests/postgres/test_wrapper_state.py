"""After a checkout, a wrapper is as Django's connect() leaves it."""

from __future__ import annotations

import gc
from contextlib import contextmanager

import pytest
from django.db import OperationalError, connections
from django.db.backends.signals import connection_created
from django.http import HttpResponse
from django.test import override_settings
from django.utils.functional import cached_property

import dbpool_mw
from dbpool_mw import pooled
from dbpool_mw.binding import registry
from dbpool_mw.binding.binding import KEY
from tests.postgres.conftest import ask, stats
from tests.vocabulary import READ_ONLY, connect, connect_strangely
from tests.vocabulary import OperationalError as LibrarysError

BACKEND = "SELECT pg_backend_pid()"

#: Attributes that differ between two wrappers: those of a bound one, and objects that
#: every wrapper has for itself.
OF_BINDING = {KEY, "connect", "_close"}
OF_WRAPPER = {
    "client",
    "creation",
    "features",
    "introspection",
    "ops",
    "validation",
    "queries_log",
    "_thread_sharing_lock",
    "wrap_database_errors",
    "pg_version",
    "connection",
    "close_at",
}

VARIANTS = {
    "plain": {},
    "no autocommit": {"AUTOCOMMIT": False},
    "time zone": {"TIME_ZONE": "Asia/Tokyo"},
    "isolation": {"OPTIONS": {"isolation_level": 3}},  # serializable
    "role": {"OPTIONS": {"assume_role": "pg_monitor"}},
    "health checks": {"CONN_HEALTH_CHECKS": True},
}


@pytest.fixture(params=VARIANTS)
def variant(request, databases):
    """Change the settings of the default alias, in place."""
    settings = connections.settings["default"]
    before = settings.copy()
    settings.update(VARIANTS[request.param])
    yield request.param
    connections["default"].close()
    settings.clear()
    settings.update(before)


def of_wrapper(chosen):
    state = {
        name: value
        for name, value in vars(chosen).items()
        if name not in OF_BINDING | OF_WRAPPER
        # A cached_property is only there once somebody read it.
        and not isinstance(getattr(type(chosen), name, None), cached_property)
    }
    return {**state, "age": chosen.close_at is None}


def of_session(chosen):
    names = [
        "TimeZone",
        "role",
        "transaction_isolation",
        "default_transaction_isolation",
        "statement_timeout",
    ]
    found = {}
    for name in names:
        with chosen.cursor() as cursor:
            cursor.execute("SELECT current_setting(%s)", [name])
            found[name] = cursor.fetchone()[0]
    with chosen.cursor() as cursor:
        cursor.execute("SELECT session_user, current_user")
        found["users"] = cursor.fetchone()
    if not chosen.get_autocommit():
        chosen.rollback()
    raw = chosen.connection
    attributes = (
        raw.autocommit,
        raw.isolation_level,
        getattr(raw, READ_ONLY),
        raw.deferrable,
    )
    return {
        **found,
        "attributes": attributes,
        "encoding": raw.info.parameter_status("client_encoding"),
    }


def test_every_checkout_leaves_wrapper_and_session_as_django_does(variant, requests):
    # A wrapper like the one that a new thread gets.
    connections["default"].close()
    del connections["default"]
    gc.collect()
    django_own = connections.create_connection("default")
    django_own.connect()
    expected = (of_wrapper(django_own), of_session(django_own))
    django_own.close()
    seen = []

    def view(request):
        ours = connections["default"]
        assert KEY in vars(ours)
        seen.append((of_wrapper(ours), of_session(ours)))
        return HttpResponse()

    for _ in range(3):
        requests(view)
    for wrapper_state, session in seen:
        assert wrapper_state == expected[0]
        assert session == expected[1]
    assert len(seen) == 3
    assert stats()["opened"] == 1


@contextmanager
def receiving(function):
    connection_created.connect(function, dispatch_uid="test")
    try:
        yield
    finally:
        connection_created.disconnect(dispatch_uid="test")


def test_connection_created_is_sent_when_opened_and_when_reset(requests):
    seen = []

    def created(sender, connection, **signal):
        if connection.alias == "default":
            seen.append((sender, connection is connections["default"]))
            # A query on the alias uses the connection that is being opened.
            assert ask("SELECT 1") == 1

    with receiving(created):
        for _ in range(3):
            requests(lambda request: HttpResponse(str(ask("SELECT 1"))))
        assert seen == [(type(connections["default"]), True)]
        requests(lambda request: HttpResponse(str(ask("SET a.b = 'c'"))))
        assert len(seen) == 2
        assert stats()["opened"] == 1
        assert stats()["resets"] == 1


def test_a_receiver_may_open_another_connection(requests):
    def created(connection, **signal):
        if connection.alias == "default":
            copy = connection.copy("copy")
            with copy.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                seen.append(cursor.fetchone()[0])
            copy.close()
            # Not recorded: the attribute is gone when connect() ends.
            connection.busy = True
            del connection.busy

    seen = []
    with receiving(created):
        requests(lambda request: HttpResponse(seen.append(ask(BACKEND))))
    assert len(set(seen)) == 2
    assert not hasattr(connections["default"], "busy")


def test_a_receiver_may_run_a_pooled_block(requests):
    """The block uses the connection that is being opened or reset."""

    def created(connection, **signal):
        if connection.alias == "default":
            with pooled():
                seen.append(ask(BACKEND))
            seen.append(ask(BACKEND))

    seen = []
    with receiving(created):
        requests(lambda request: HttpResponse(seen.append(ask(BACKEND))))
        requests(lambda request: HttpResponse(str(ask("SET a.b = 'c'"))))
    assert len(seen) == 5
    assert len(set(seen)) == 1
    assert stats()["opened"] == stats()["resets"] == 1


def test_what_a_receiver_opened_of_another_alias_is_closed(requests, databases):
    def created(connection, **signal):
        if connection.alias == "default":
            seen.append(ask(BACKEND, "replica"))

    def view(request):
        assert connections["replica"].connection is None
        # A connection that was open before the receiver ran stays open.
        kept = ask(BACKEND, "replica")
        connections["default"].close()
        registry.pools()[0].recycle()
        ask("SELECT 1")
        assert ask(BACKEND, "replica") == kept == seen[-1]
        return HttpResponse()

    seen = []
    with receiving(created):
        assert requests(view).status_code == 200
    assert len(set(seen)) == 2


def test_the_threads_wrapper_is_back_though_closing_another_alias_raises(requests):
    def close():
        raise ValueError("on purpose")

    def created(connection, **signal):
        if connection.alias == "default":
            ask(BACKEND, "replica")
            connections["replica"].close = close

    def view(request):
        wrapper = connections["default"]
        wrapper.close()
        registry.pools()[0].recycle()
        with receiving(created), pytest.raises(ValueError, match="on purpose"):
            ask("SELECT 1")
        del connections["replica"].close
        connections["replica"].close()
        assert connections["default"] is wrapper
        return HttpResponse(str(ask("SELECT 1")))

    assert requests(view).content == b"1"


def test_an_engine_that_ignores_the_connection_factory_raises(requests, monkeypatch):
    def get_new_connection(self, params):
        opened.append(connect_strangely(params))
        return opened[-1]

    def view(request):
        with pytest.raises(OperationalError, match="can't be pooled"):
            ask("SELECT 1")
        return HttpResponse()

    opened = []
    engine = type(connections["default"])
    monkeypatch.setattr(engine, "get_new_connection", get_new_connection)
    with override_settings(DBPOOL_MW_EAGER=()):
        assert requests(view).status_code == 200
        assert stats()["size"] == 0
    assert [raw.closed for raw in opened] == [1]


@pytest.mark.parametrize("kind", [ValueError, OperationalError])
def test_a_receiver_that_raises_leaves_no_connection_and_no_entry(
    requests, databases, kind, caplog
):
    def created(connection, **signal):
        raise kind("on purpose")

    requests(lambda request: HttpResponse())
    before = count(databases)
    with receiving(created):
        requests(lambda request: HttpResponse(str(connections["default"].close())))
        registry.pools()[0].recycle()
        for _ in range(12):
            assert requests(lambda request: HttpResponse()).status_code == 500
    # The receiver's error is reported, and not a pool without connections.
    assert {line.exc_info[0] for line in caplog.records if line.exc_info} == {kind}
    assert stats()["size"] == 0
    assert stats()["connect_errors"] == 12
    assert count(databases) <= before
    assert requests(lambda request: HttpResponse()).status_code == 200


def count(databases):
    connection = connect(databases.server.dsn(databases.default))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        found = cursor.fetchone()[0]
    connection.close()
    return found


def test_djangos_error_has_the_pools_error_as_its_cause(requests, databases):
    connections.settings["default"]["PORT"] = "1"
    caught = []

    def view(request):
        try:
            ask("SELECT 1")
        except OperationalError as error:
            caught.append(error)
        return HttpResponse()

    with override_settings(DBPOOL_MW_EAGER=()):
        requests(view)
    assert "can't connect to the database; " in str(caught[0])
    assert isinstance(caught[0], dbpool_mw.ConnectFailed)
    pools_own = caught[0].__cause__
    assert type(pools_own) is dbpool_mw.ConnectFailed
    assert isinstance(pools_own.__cause__, LibrarysError)
