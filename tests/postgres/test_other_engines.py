"""Third-party ENGINEs work unchanged, and what they record of a session stays true.

Two ENGINEs are from PyPI; a third one, of the tests, does what those two don't. pip
chooses the newest release that allows the installed Django. django-tenants: 4.0 from
Django 5.2 on, 3.13 on 4.2. django-prometheus: 2.5, but 2.4.0 on Django 6.1. Both are
tested on every Django.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.core import checks
from django.db import connection, connections, transaction
from django.db.backends.signals import connection_created
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw import conf, pooled
from dbpool_mw.binding import registry
from dbpool_mw.binding.binding import drop_inherited_connections
from tests.conftest import Databases
from tests.core.fakes import until
from tests.library import IS_PSYCOPG
from tests.postgres.conftest import Requests, ask, on_engine, stats
from tests.vocabulary import connect

TENANTS = "django_tenants.postgresql_backend"
PROMETHEUS = "django_prometheus.db.backends.postgresql"
REMEMBERING = "tests.postgres.engines.remembering"

_jobs = threading.local()


def view(request: Any) -> HttpResponse:
    """Run the job of this thread; one view serves all threads."""
    _jobs.job()
    return HttpResponse()


class ServerThread:
    """A server's thread, which keeps its wrappers from request to request."""

    def __init__(self, requests: Requests, prepare: Callable[..., Any]) -> None:
        self.requests = requests
        self.prepare = prepare
        self.thread = ThreadPoolExecutor(1)

    def run(self, function: Callable[[], Any]) -> Any:
        return self.thread.submit(function).result(20)

    def begin(self, job: Callable[[], Any], *tenant: Any) -> None:
        """Begin a request, and have it do its job once."""
        self.go = threading.Event()
        begun = threading.Event()
        results: list[Any] = []

        def twice() -> None:
            self.prepare(*tenant)
            results.append(job())
            begun.set()
            assert self.go.wait(20)
            results.append(job())

        def serve() -> list[Any]:
            _jobs.job = twice
            try:
                assert self.requests(view).status_code == 200
            finally:
                begun.set()
            return results

        self.future: Future[list[Any]] = self.thread.submit(serve)
        assert begun.wait(20)

    def end(self) -> list[Any]:
        """Let it do its job again and end; return what it found."""
        self.go.set()
        return self.future.result(20)


@contextmanager
def server_threads(requests: Requests, prepare: Any) -> Iterator[list[ServerThread]]:
    threads = [ServerThread(requests, prepare) for _ in range(2)]
    try:
        yield threads
    finally:
        for thread in threads:
            thread.run(connections.close_all)
            thread.thread.shutdown()


def exchanges(
    threads: list[ServerThread], job: Callable[[], Any], *tenants: Any
) -> Any:
    """Run pairs of requests at once, in which the threads swap their connections.

    The connection returned last is checked out first. Yields, for each round, what each
    thread found: the backend's pid and the job's result, twice.
    """
    for number in range(6):
        # Each thread serves both tenants in turn.
        turned = tenants[::-1] if number % 3 == 0 else tenants
        first, second = (0, 1) if number % 2 == 0 else (1, 0)
        for which in (first, second):
            tenant = [turned[which]] if tenants else []
            threads[which].begin(
                lambda: (ask("SELECT pg_backend_pid()"), job()), *tenant
            )
        found = {which: threads[which].end() for which in (second, first)}
        yield turned, found


def swapped(rounds: list[Any]) -> bool:
    """Tell whether two connections went back and forth between the threads."""
    pids = [(found[0][0][0], found[1][0][0]) for _, found in rounds]
    turns = [
        pair == pids[0][:: 1 if number % 2 == 0 else -1]
        for number, pair in enumerate(pids)
    ]
    return len(set(pids[0])) == 2 and all(turns)


@contextmanager
def receiving(function: Any) -> Iterator[None]:
    connection_created.connect(function, dispatch_uid="test")
    try:
        yield
    finally:
        connection_created.disconnect(dispatch_uid="test")


# --- django-tenants ------------------------------------------------------------------


@pytest.fixture
def schemas(requests: Requests, databases: Databases) -> Iterator[None]:
    """Give the schemas a, b and public a table that holds the schema's name."""
    statements = [
        f"CREATE SCHEMA IF NOT EXISTS {name};"
        f" CREATE TABLE {name}.whose AS SELECT '{name}'::text AS name"
        for name in ("a", "b", "public")
    ]
    session = connect(databases.server.dsn(databases.default))
    session.autocommit = True
    with session.cursor() as cursor:
        cursor.execute(";".join(statements))
    with on_engine(TENANTS):
        yield
    with session.cursor() as cursor:
        cursor.execute("DROP SCHEMA a, b CASCADE; DROP TABLE public.whose")
    session.close()


def whose() -> str:
    return ask("SELECT name FROM whose")


def choose(name: str) -> None:
    """Do what the middleware of django-tenants does to every request."""
    connection.set_schema_to_public()
    assert connections["default"].tenant.schema_name == "public"
    connection.set_schema(name)


@pytest.mark.parametrize("receiver", ["", "queries"])
@pytest.mark.parametrize("limit", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.usefixtures("schemas")
def test_tenants_that_swap_connections_see_their_own_rows(
    lazy: bool, limit: bool, receiver: str, requests: Requests
) -> None:
    settings = override_settings(
        DBPOOL_MW_EAGER=() if lazy else ("default",), TENANT_LIMIT_SET_CALLS=limit
    )

    def created(connection: Any, **signal: Any) -> None:
        if receiver and connection.alias == "default":
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")

    with settings, receiving(created), server_threads(requests, choose) as threads:
        rounds = list(exchanges(threads, whose, "a", "b"))
        for tenants, found in rounds:
            for which in (0, 1):
                assert [name for _, name in found[which]] == [tenants[which]] * 2
        assert swapped(rounds)
        assert stats()["opened"] == 2


@pytest.mark.usefixtures("schemas")
def test_a_tenant_chosen_outside_stays_though_the_connection_changes() -> None:
    seen = []

    def created(connection: Any, **signal: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    def other() -> None:
        with pooled():
            connection.set_schema("b")
            seen.append((ask("SELECT pg_backend_pid()"), whose()))
            taken.set()
            assert given_back.wait(20)

    with override_settings(TENANT_LIMIT_SET_CALLS=True), receiving(created):
        connection.set_schema("a")
        for _ in range(2):
            taken, given_back = threading.Event(), threading.Event()
            thread = threading.Thread(target=other)
            with pooled():
                seen.append((ask("SELECT pg_backend_pid()"), whose()))
                thread.start()
                assert taken.wait(20)
            given_back.set()
            thread.join(20)
    assert [name for _, name in seen] == ["a", "b", "a", "b"]
    pids = [pid for pid, _ in seen]
    assert pids == [pids[0], pids[1], pids[1], pids[0]]


@pytest.mark.usefixtures("schemas")
def test_a_tenant_keeps_its_path_though_the_connection_is_closed() -> None:
    seen = []
    with override_settings(TENANT_LIMIT_SET_CALLS=True), pooled():
        connection.set_schema("a")
        seen.append(whose())
        connection.close()
        seen.append(whose())
    assert seen == ["a"] * 2


@pytest.mark.usefixtures("schemas")
def test_connections_opened_ahead_belong_to_no_tenant(requests: Requests) -> None:
    settings = {"DBPOOL_MW_MIN_CONNS": 2, "DBPOOL_MW_EAGER": ()}
    with (
        override_settings(TENANT_LIMIT_SET_CALLS=True, **settings),
        server_threads(requests, choose) as threads,
    ):
        threads[0].begin(whose, "a")
        until(lambda: stats()["idle"] == 1)
        threads[1].begin(whose, "b")
        assert threads[1].end() == ["b", "b"]
        assert threads[0].end() == ["a", "a"]
        assert stats()["opened"] == 2


@pytest.mark.usefixtures("schemas")
def test_a_forked_child_resets_what_the_engine_recorded_in_the_parent() -> None:
    with override_settings(TENANT_LIMIT_SET_CALLS=True), pooled():
        connection.set_schema("a")
        assert whose() == "a"
        raw = connection.connection
        drop_inherited_connections()
        assert whose() == "a"
        assert connection.connection is not raw
    raw.close()


# --- django-prometheus ---------------------------------------------------------------


@pytest.fixture
def metrics(requests: Requests) -> Iterator[Callable[..., float]]:
    """Give what django-prometheus has counted since the test's start."""
    with on_engine(PROMETHEUS):
        from prometheus_client import REGISTRY

        def now(name: str, **labels: str) -> float:
            labels = {"alias": "default", "vendor": "postgresql", **labels}
            return REGISTRY.get_sample_value(f"django_db_{name}", labels) or 0

        before: dict[Any, float] = {}
        names = [
            ("new_connections_total", ""),
            ("execute_total", ""),
            ("errors_total", "UndefinedTable"),
        ]
        for name, kind in names:
            before[name] = now(name, **({"type": kind} if kind else {}))
        yield lambda name, **labels: now(name, **labels) - before[name]


@pytest.mark.parametrize("lazy", [False, True])
def test_metrics_count_opened_connections_and_every_statement(
    lazy: bool, requests: Requests, metrics: Callable[..., float]
) -> None:
    senders = []

    def created(sender: Any, connection: Any, **signal: Any) -> None:
        if connection.alias == "default":
            senders.append(sender)

    def job() -> None:
        ask("SET a.b = 'c'")
        with connection.chunked_cursor() as cursor:
            cursor.execute("SELECT 1")
        with pytest.raises(Exception, match="nowhere"):
            ask("SELECT 1 FROM nowhere")

    with (
        override_settings(DBPOOL_MW_EAGER=() if lazy else ("default",)),
        receiving(created),
        server_threads(requests, lambda: None) as threads,
    ):
        rounds = list(exchanges(threads, job))
        assert swapped(rounds)
        assert stats()["opened"] == 2
        assert metrics("new_connections_total") == 2
        # Six rounds of two threads, each twice: four statements. Besides, the time
        # zone, which Django sets once in each of the two connections. No reset.
        # django-prometheus doesn't see the named cursors that Django makes of psycopg.
        each = 3 if IS_PSYCOPG else 4
        assert metrics("execute_total") == 6 * 2 * 2 * each + 2
        assert metrics("errors_total", type="UndefinedTable") == 6 * 2 * 2
        assert stats()["resets"] == 12
    from django_prometheus.db.backends.postgresql.base import DatabaseWrapper

    assert set(senders) == {DatabaseWrapper}


def test_metrics_count_what_is_opened_ahead(
    requests: Requests, metrics: Callable[..., float]
) -> None:
    with override_settings(DBPOOL_MW_MIN_CONNS=3):
        requests(lambda request: HttpResponse())
        until(lambda: stats()["idle"] == 3)
        assert metrics("new_connections_total") == stats()["opened"] == 3


# --- An ENGINE that records facts about its session ----------------------------------


@pytest.fixture
def remembering(requests: Requests) -> Iterator[None]:
    with on_engine(REMEMBERING):
        yield


def remembered() -> dict[str, Any]:
    """Return what the wrapper recorded of its session, and change it."""
    pid = ask("SELECT pg_backend_pid()")
    wrapper: Any = connections["default"]
    found = {
        "token": wrapper.token == ask("SELECT current_setting('application_name')"),
        "nonce": wrapper.nonce == ask("SELECT current_setting('app.nonce')"),
        "said": wrapper.said,
        "heard": wrapper.heard,
        "prepared": set(wrapper.prepared),
        "customer": wrapper.customer,
    }
    wrapper.said = wrapper.heard = f"by {pid}"
    wrapper.prepared.add(f"plan of {pid}")
    return found


@pytest.mark.parametrize("touch", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.usefixtures("remembering")
def test_what_is_recorded_is_true_of_the_session(
    lazy: bool, touch: bool, requests: Requests
) -> None:
    def prepare(customer: str) -> None:
        connections["default"].customer = customer

    def job() -> dict[str, Any]:
        found = remembered()
        if touch:
            ask("SET a.b = 'c'")
        return found

    with (
        override_settings(DBPOOL_MW_EAGER=() if lazy else ("default",)),
        server_threads(requests, prepare) as threads,
    ):
        rounds = list(exchanges(threads, job, "Ann", "Ben"))
        for customers, found in rounds:
            for which in (0, 1):
                (pid, first), (_, second) = found[which]
                fresh = {"token": True, "nonce": True, "customer": customers[which]}
                assert first == {
                    **fresh,
                    "said": None,
                    "heard": None,
                    "prepared": set(),
                }
                by = f"by {pid}"
                plans = {f"plan of {pid}"}
                assert second == {**fresh, "said": by, "heard": by, "prepared": plans}
        assert swapped(rounds)
        assert stats()["opened"] == 2
        assert stats()["resets"] == (12 if touch else 0)


@pytest.mark.usefixtures("remembering")
def test_what_a_receivers_query_assigned_reaches_no_holder(requests: Requests) -> None:
    seen = []

    def created(connection: Any, **signal: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    def view(request: Any) -> HttpResponse:
        seen.append(connections["default"].asked)
        ask("SET a.b = 'c'")
        seen.append(connections["default"].asked)
        return HttpResponse()

    with receiving(created):
        for _ in range(3):
            requests(view)
    assert seen == [False, True] * 3


@pytest.mark.usefixtures("remembering")
def test_what_a_receiver_assigns_reaches_every_holder(
    requests: Requests,
) -> None:
    def created(connection: Any, **signal: Any) -> None:
        connection.said = "by a receiver"

    def said() -> Any:
        found, connections["default"].said = connections["default"].said, "later"
        return found

    with receiving(created), server_threads(requests, lambda: None) as threads:
        rounds = list(exchanges(threads, said))
    assert swapped(rounds)
    for _, found in rounds:
        for both in found.values():
            assert [said for _, said in both] == ["by a receiver", "later"]


@pytest.mark.usefixtures("remembering")
def test_every_connection_is_opened_with_a_new_token(requests: Requests) -> None:
    def token() -> str:
        assert connections["default"].token == ask("SHOW application_name")
        return connections["default"].token

    with (
        override_settings(DBPOOL_MW_MIN_CONNS=2),
        server_threads(requests, lambda: None) as threads,
    ):
        threads[0].begin(token)
        until(lambda: stats()["idle"] == 1)
        threads[1].begin(token)
        one, other = threads[0].end(), threads[1].end()
        assert one[0] == one[1] != other[0] == other[1]
        registry.pools()[0].recycle()
        threads[0].begin(token)
        assert threads[0].end()[0] not in {one[0], other[0]}


@pytest.mark.usefixtures("remembering")
def test_the_engine_resets_what_it_recorded_when_closed_in_a_transaction() -> None:
    with pooled():
        with transaction.atomic():
            remembered()
            connections["default"].close()
            assert connections["default"].heard is None
        assert remembered()["said"] is None


# --- execute_wrappers that receivers add ---------------------------------------------


class Counting:
    """An execute_wrapper that counts the statements of one connection."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, execute: Any, *args: Any) -> Any:
        self.count += 1
        return execute(*args)


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("touch", [False, True])
def test_execute_wrappers_of_receivers_are_there_once_for_every_holder(
    touch: bool, guarded: bool, requests: Requests
) -> None:
    shared = Counting()

    def created(connection: Any, **signal: Any) -> None:
        if connection.alias == "default":
            counting = shared if guarded else Counting()
            if counting not in connection.execute_wrappers:
                connection.execute_wrappers.append(counting)

    def job() -> int:
        if touch:
            ask("SET a.b = 'c'")
        (counting,) = connection.execute_wrappers
        before = counting.count
        ask("SELECT 1")
        return int(counting.count - before) if not guarded else 1

    with receiving(created), server_threads(requests, lambda: None) as threads:
        with override_settings(DBPOOL_MW_EAGER=("default",)):
            rounds = list(exchanges(threads, job))
        assert swapped(rounds)
        assert {
            n for _, found in rounds for both in found.values() for _, n in both
        } == {1}


@pytest.mark.usefixtures("requests")
def test_a_block_removes_its_execute_wrapper_and_leaves_the_receivers() -> None:
    of_receiver, of_block = Counting(), Counting()

    def created(connection: Any, **signal: Any) -> None:
        connection.execute_wrappers.append(of_receiver)

    with receiving(created), pooled():
        with connection.execute_wrapper(of_block):
            ask("SELECT 1")
            assert connection.execute_wrappers == [of_receiver, of_block]
        assert connection.execute_wrappers == [of_receiver]
        ask("SELECT 1")
    assert (of_receiver.count, of_block.count) == (2, 1)
    connections["default"].execute_wrappers.clear()


# --- The checks ----------------------------------------------------------------------


@pytest.mark.parametrize("engine", [TENANTS, PROMETHEUS])
@pytest.mark.usefixtures("requests")
def test_the_checks_take_the_engine_for_postgresql(engine: str) -> None:
    with on_engine(engine):
        assert conf.pooled_aliases() == ("default",)
        found = checks.run_checks(databases=["default"], include_deployment_checks=True)
        ours = [m for m in found if (m.id or "").startswith("dbpool_mw")]
        assert [m for m in ours if "default" in m.msg] == []
