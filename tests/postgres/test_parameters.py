"""One alias, several users, hosts, databases or OPTIONS: each has a pool of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connection, connections
from django.http import HttpResponse
from django.test import override_settings

import dbpool_mw
from dbpool_mw import conf
from dbpool_mw.binding import pools as pools_module
from dbpool_mw.binding import registry
from dbpool_mw.core.pool import ConnectionPool
from sandbox.postgres import PostgresServer, Server
from tests.conftest import Databases
from tests.postgres.conftest import Requests, ask
from tests.process.servers import wait_until

ROLE = "dbpool_mw_report"


@pytest.fixture
def role(requests: Requests, databases: Databases) -> Iterator[dict[str, Any]]:
    """Give the USER and PASSWORD of a second role on the server."""
    ask(f"DROP ROLE IF EXISTS {ROLE}")
    ask(f"CREATE ROLE {ROLE} LOGIN PASSWORD 's3cret'")
    connection.close()
    registry.close()
    yield {"USER": ROLE, "PASSWORD": "s3cret"}
    registry.close()
    # A view may have failed to put them back.
    connection.close()
    ask(f"DROP ROLE {ROLE}")


@contextmanager
def changed(**changes: Any) -> Iterator[None]:
    """Replace this thread's settings of "default", as a view does."""
    before = connection.settings_dict
    connection.close()
    connection.settings_dict = {**before, **changes}
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict = before


@contextmanager
def changed_in_place(values: dict[str, Any], **changes: Any) -> Iterator[None]:
    before = values.copy()
    values.update(changes)
    try:
        yield
    finally:
        values.clear()
        values.update(before)


def whoami() -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT session_user, current_database(), pg_backend_pid()")
        row: tuple[Any, ...] = cursor.fetchone()
        return row


def found_by(requests: Requests, **changes: Any) -> tuple[Any, ...]:
    """Send a request whose view asks who it is, with other settings if any."""
    found: list[Any] = []

    def view(request: Any) -> HttpResponse:
        if not changes:
            found.append(whoami())
        else:
            with changed(**changes):
                found.append(whoami())
        return HttpResponse("well")

    assert requests(view).status_code == 200
    (row,) = found
    return tuple(row)


def check_sums() -> None:
    """Check that nothing is in use, and that each connection has one pool."""
    for pool in registry.pools():
        figures = pool.stats()
        assert figures["in_use"] == figures["connecting"] == figures["waiting"] == 0
        assert figures["size"] == figures["idle"] <= figures["max"]


@pytest.mark.parametrize("lazy", [False, True])
@override_settings(DBPOOL_MW_MAX_CONNS=2)
def test_a_view_with_another_user_is_that_user_and_no_other_request_is(
    lazy: bool, requests: Requests, role: dict[str, Any], databases: Databases
) -> None:
    own = databases.server.user
    with override_settings(DBPOOL_MW_EAGER=() if lazy else ("default",)):
        rounds = [
            (found_by(requests, **role)[0], found_by(requests)[0]) for _ in range(5)
        ]
        rounds.reverse()
        assert rounds == [(ROLE, own)] * 5
        first, second = sorted(registry.pools(), key=lambda pool: pool.label)
    assert (first.name, second.name) == ("default", "default")
    # Each kept its connection: five requests, one connection.
    assert first.stats()["opened"] == second.stats()["opened"] == 1
    check_sums()


@override_settings(DBPOOL_MW_MAX_CONNS=2)
@pytest.mark.usefixtures("requests")
def test_threads_of_two_users_at_once_never_get_each_others_connections(
    role: dict[str, Any], databases: Databases
) -> None:
    everyone = threading.Barrier(4)

    def work(changes: dict[str, Any]) -> set[str]:
        everyone.wait(20)
        found = set()
        for _ in range(20):
            with dbpool_mw.pooled("default"), changed(**changes):
                found.add(whoami()[0])
        return found

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(work, [role, {}, role, {}]))
    assert found == [{ROLE}, {databases.server.user}] * 2
    check_sums()


@override_settings(DBPOOL_MW_MAX_CONNS=1)
def test_two_databases_in_turn_keep_a_connection_each(
    requests: Requests, databases: Databases
) -> None:
    found = [
        (found_by(requests)[1:], found_by(requests, NAME=databases.replica)[1:])
        for _ in range(4)
    ]
    assert len(set(found)) == 1
    (own, pid), (other, other_pid) = found[0]
    assert (own, other) == (databases.default, databases.replica)
    assert pid != other_pid
    check_sums()


def test_two_ports_are_two_servers(
    requests: Requests, postgres: Server, own_postgres: PostgresServer
) -> None:
    place = {
        "HOST": own_postgres.host,
        "PORT": str(own_postgres.port),
        "USER": own_postgres.user,
        "PASSWORD": own_postgres.password,
        "NAME": "postgres",
    }

    def port() -> str:
        return str(ask("SHOW port"))

    def view(request: Any) -> HttpResponse:
        with changed(**place):
            other = port()
        return HttpResponse(f"{other} {port()}")

    for _ in range(3):
        assert requests(view).content.decode() == f"{own_postgres.port} {postgres.port}"
    check_sums()
    registry.close()


def test_options_and_users_that_change_in_place_count(
    requests: Requests, role: dict[str, Any], databases: Databases
) -> None:
    values = connections.settings["default"]
    with changed_in_place(values, OPTIONS={"application_name": "one"}):

        def ask_it(request: Any) -> HttpResponse:
            return HttpResponse(ask("SHOW application_name"))

        assert requests(ask_it).content == b"one"
        values["OPTIONS"]["application_name"] = "two"
        assert requests(ask_it).content == b"two"
        values.update(role)
        assert found_by(requests)[0] == ROLE
        values["OPTIONS"]["application_name"] = "one"
        assert requests(ask_it).content == b"one"
    assert found_by(requests)[0] == databases.server.user
    check_sums()


def test_what_opens_no_connection_makes_no_pool(requests: Requests) -> None:
    assert found_by(requests) == found_by(
        requests, CONN_MAX_AGE=60, ATOMIC_REQUESTS=True, SCHEMA="an ENGINE's own"
    )
    assert len(registry.pools()) == 1


@override_settings(DBPOOL_MW_MIN_CONNS=2)
def test_a_refill_opens_connections_with_the_parameters_of_its_pool(
    requests: Requests, role: dict[str, Any], databases: Databases
) -> None:
    found_by(requests, **role)
    for pool in registry.pools():
        pool.maintain()
        wait_until(lambda: pool.stats()["idle"] == 2, "refilled")  # noqa: B023
    found_by(requests, **role)

    def logins() -> dict[str, int]:
        with dbpool_mw.pooled(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT usename, count(*) FROM pg_stat_activity WHERE datname = %s"
                " AND backend_type = 'client backend' GROUP BY 1",
                [databases.default],
            )
            return dict(cursor.fetchall())

    assert logins() == {ROLE: 2, databases.server.user: 2}


def test_a_password_is_in_no_report(requests: Requests, role: dict[str, Any]) -> None:
    found_by(requests, **role)
    assert "s3cret" not in repr(dbpool_mw.stats())
    first, second = sorted(figures["address"] for figures in dbpool_mw.stats())
    values = settings.DATABASES["default"]
    place = f"{values['HOST']}:{values['PORT']}"
    assert {first, second} == {
        f"{values['NAME']}/{values['USER']}@{place}",
        f"{values['NAME']}/{ROLE}@{place}",
    }


def test_the_holders_and_errors_of_a_second_pool_say_which_it_is(
    requests: Requests, role: dict[str, Any]
) -> None:
    seen: list[Any] = []

    def view(request: Any) -> HttpResponse:
        with changed(**role):
            whoami()
            (holder,) = (h for p in registry.pools() for h in p.holders())
            seen.append(holder)
            with ThreadPoolExecutor(1) as threads:
                seen.append(threads.submit(second_checkout).exception(20))
        return HttpResponse("well")

    def second_checkout() -> None:
        with dbpool_mw.pooled(), changed(**role):
            try:
                whoami()
            finally:
                connections.close_all()

    with override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=0.05):
        requests(view)
    holder, error = seen
    assert f"/{ROLE}@" in holder["address"]
    assert isinstance(error, dbpool_mw.PoolTimeout)
    # A client may see the summary; the details are for the log.
    assert ROLE not in error.summary
    assert f"/{ROLE}@" in error.details


def by_label() -> dict[str, ConnectionPool]:
    return {pool.label: pool for pool in registry.pools()}


def test_a_pool_whose_settings_are_not_the_aliass_own_closes_when_it_is_unused(
    requests: Requests, role: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found_by(requests, **role)
    other = next(pool for label, pool in by_label().items() if ROLE in label)
    registry._state.maintain()
    assert other.state == "running"
    monkeypatch.setattr(pools_module, "UNUSED_SECONDS", 0.0)
    registry._state.maintain()
    assert other.state == "closed"
    assert list(by_label()) == ["default"]
    wait_until(lambda: other.stats()["size"] == 0, "its connections are closed")
    # It is made anew when it is wanted again.
    assert found_by(requests, **role)[0] == ROLE


def test_a_pool_in_use_stays_however_long_the_use_takes(
    requests: Requests, role: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools_module, "UNUSED_SECONDS", 0.0)

    def view(request: Any) -> HttpResponse:
        with changed(**role):
            before = whoami()
            registry._state.maintain()
            assert whoami() == before
            assert {pool.state for pool in registry.pools()} == {"running"}
        return HttpResponse("well")

    assert requests(view).status_code == 200


def test_a_pool_that_closes_just_before_a_checkout_fails_no_request(
    requests: Requests, role: dict[str, Any]
) -> None:
    found_by(requests)
    for pool in registry.pools():
        pool.close()
    registry._state.pools.remove_unused({})
    assert found_by(requests)[0]
    check_sums()


def test_credentials_that_change_in_place_are_those_of_every_later_request(
    requests: Requests, role: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found_by(requests)
    (old,) = registry.pools()
    with changed_in_place(settings.DATABASES["default"], **role):
        assert found_by(requests)[0] == ROLE
        assert len(registry.pools()) == 2
        for pool in registry.pools():
            pool.recycle()
        assert found_by(requests)[0] == ROLE
        monkeypatch.setattr(pools_module, "UNUSED_SECONDS", 0.0)
        registry._state.maintain()
        assert old.state == "closed"
        # The present settings of the alias are those of its own pool.
        assert [pool.label for pool in registry.pools()] == ["default"]


def test_a_new_pool_is_draining_where_the_aliass_other_pool_is(
    requests: Requests, role: dict[str, Any]
) -> None:
    found_by(requests)
    (first,) = registry.pools()
    first.drain()
    assert found_by(requests, **role)[0] == ROLE
    assert [pool.state for pool in registry.pools()] == ["draining"] * 2
    # The first one's connection is closed in the background.
    wait_until(
        lambda: [pool.stats()["size"] for pool in registry.pools()] == [0, 0],
        "the connections are closed",
    )


@override_settings(DBPOOL_MW_TIMEOUT=0.05)
def test_a_new_pool_is_paused_where_the_aliass_other_pool_is(
    requests: Requests, role: dict[str, Any]
) -> None:
    def view(request: Any) -> HttpResponse:
        (first,) = registry.pools()
        with changed(**role):
            first.pause()
            with pytest.raises(dbpool_mw.PoolTimeout, match="the pool is paused"):
                whoami()
        return HttpResponse("well")

    assert requests(view).status_code == 200
    assert [pool.state for pool in registry.pools()] == ["paused"] * 2


@override_settings(DBPOOL_MW_MAX_CONNS=1)
def test_at_the_bound_the_pool_that_is_unused_for_longest_makes_room(
    requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools_module, "MOST", 3)
    for number in range(5):
        options = {"application_name": f"number {number}"}
        assert found_by(requests, OPTIONS=options)[0]
    addresses = [pool.address for pool in registry.pools()]
    assert len(addresses) == len(set(addresses)) == 3
    check_sums()


@override_settings(DBPOOL_MW_MAX_CONNS=1)
def test_above_the_bound_with_all_in_use_a_query_raises_a_clear_error(
    requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools_module, "MOST", 2)
    everyone = threading.Barrier(3)

    def hold(number: int) -> None:
        with (
            dbpool_mw.pooled("default"),
            changed(OPTIONS={"application_name": str(number)}),
        ):
            whoami()
            everyone.wait(20)
            everyone.wait(20)
        connections.close_all()

    with ThreadPoolExecutor(2) as threads:
        held = [threads.submit(hold, number) for number in range(2)]
        everyone.wait(20)
        with (
            dbpool_mw.pooled("default"),
            pytest.raises(OperationalError, match="2 users, hosts or OPTIONS") as info,
        ):
            whoami()
        everyone.wait(20)
        for one in held:
            one.result(20)
    assert isinstance(info.value, dbpool_mw.PoolError)
    assert found_by(requests)[0]


# --- Aliases that come and go --------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.usefixtures("requests")
def test_an_alias_that_leaves_databases_fails_no_request_and_its_pool_closes(
    lazy: bool,
) -> None:
    sender = Requests()

    def one(request: Any) -> HttpResponse:
        return HttpResponse(str(ask("SELECT 1")))

    def both(request: Any) -> HttpResponse:
        return HttpResponse(f"{ask('SELECT 1')} {ask('SELECT 2', 'replica')}")

    with override_settings(
        ROOT_URLCONF=sender.urls,
        DBPOOL_MW_POOLS={},
        DBPOOL_MW_EAGER=() if lazy else ("default",),
    ):
        assert sender(both).content == b"1 2"
        (replica,) = (pool for pool in registry.pools() if pool.name == "replica")
        values = connections.settings.pop("replica")
        try:
            with ThreadPoolExecutor(1) as threads:
                # A thread without wrappers, and one that had them.
                assert threads.submit(sender, one).result(20).content == b"1"
            assert sender(one).content == b"1"
            registry._state.maintain()
            assert replica.state == "closed"
            assert sender(one).content == b"1"
            # The wrapper that this thread still has goes on, without a pool.
            assert sender(both).content == b"1 2"
            connections["replica"].close()
            assert [pool.name for pool in registry.pools()] == ["default"]
            assert conf.pooled_aliases() == ("default",)
        finally:
            connections.settings["replica"] = values
    check_sums()


def test_an_alias_that_comes_later_has_no_pool_and_leaves_no_connection(
    requests: Requests, databases: Databases
) -> None:
    found_by(requests)
    connections.settings["tenant7"] = {
        **connections.settings["default"],
        "NAME": databases.replica,
    }
    try:

        def view(request: Any) -> HttpResponse:
            with connections["tenant7"].cursor() as cursor:
                cursor.execute("SELECT current_database()")
                return HttpResponse(cursor.fetchone()[0])

        for _ in range(3):
            assert requests(view).content.decode() == databases.replica
            assert connections["tenant7"].connection is None
        assert [pool.name for pool in registry.pools()] == ["default"]
    finally:
        del connections["tenant7"]
        del connections.settings["tenant7"]
