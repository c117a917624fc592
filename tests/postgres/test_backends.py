"""The ENGINEs: pooled at connect(), without middleware, pool settings in OPTIONS."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import threading

import django
import pytest
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connection, connections, transaction
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw import conf, pooled
from dbpool_mw.binding import registry, signals
from tests.core.fakes import until
from tests.library import PYTHONPATH
from tests.postgres.conftest import ask, forget_wrappers, stats
from tests.process.servers import ROOT
from tests.vocabulary import TrackedConnection, connect

ENGINE = "dbpool_mw.backends.postgresql"


@pytest.fixture(autouse=True)
def options(databases, monkeypatch):
    """Use the ENGINE for "default", in a process that serves nothing yet."""
    monkeypatch.setattr(registry, "_is_serving", False)
    options = {}
    forget_wrappers()
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", ENGINE)
    monkeypatch.setitem(settings.DATABASES["default"], "OPTIONS", options)
    conf.reset_cache()
    yield options
    forget_wrappers()
    registry.close()
    conf.reset_cache()


def in_thread(function):
    """Run a function in a new thread; return what it returns."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join(30)
    (result,) = results
    return result


def backend():
    return ask("SELECT pg_backend_pid()")


# --- Who is pooled -------------------------------------------------------------------


def test_a_thread_is_pooled_and_close_gives_back():
    def work():
        first = backend()
        assert stats()["in_use"] == 1
        connection.close()
        assert stats()["in_use"] == 0
        second = backend()
        close_old_connections()
        assert stats()["in_use"] == 0
        return first, second

    first, second = in_thread(work)
    assert first == second
    assert in_thread(work) == (first, first)
    assert stats()["opened"] == 1
    assert stats()["reclaimed"] == 0


def test_what_queries_while_django_loads_the_apps_is_not(monkeypatch):
    monkeypatch.setattr(apps, "ready", False)
    warns = contextlib.nullcontext()
    if django.VERSION >= (5, 0):
        warns = pytest.warns(RuntimeWarning, match="during app initialization")
    with warns:
        backend()
    assert not isinstance(connection.connection, TrackedConnection)
    assert registry.pools() == []


def test_the_main_threads_pool_has_threads_from_the_first_request_on():
    request_started.connect(
        signals.begin_to_serve, dispatch_uid="dbpool_mw.begin_to_serve"
    )
    request_started.send(sender=None)
    backend()
    assert stats()["in_use"] == 1
    before = len(request_started.receivers)
    request_started.send(sender=None)
    assert len(request_started.receivers) == before
    request_finished.send(sender=None)
    assert stats()["in_use"] == 0


def test_the_main_threads_pool_has_threads_from_the_first_block_on():
    with pooled():
        first = backend()
    assert stats()["in_use"] == 0
    assert backend() == first
    connection.close()
    assert stats()["in_use"] == 0


def test_a_copy_of_the_wrapper_is_not():
    def work():
        backend()
        with connection._nodb_cursor() as cursor:
            cursor.execute("SELECT current_database()")
            assert cursor.fetchone()[0] != connection.settings_dict["NAME"]
        other = connection.copy()
        with other.cursor():
            assert not isinstance(other.connection, TrackedConnection)
        other.close()
        connection.close()

    in_thread(work)
    assert [pool.database for pool in registry.pools()] == [
        settings.DATABASES["default"]["NAME"]
    ]
    assert stats()["checkouts"] == 1


@override_settings(DBPOOL_MW_POOLS={"default": None})
def test_an_alias_that_settings_exclude_is_not():
    def work():
        backend()
        connection.close()
        return registry.pools()

    assert in_thread(work) == []


def test_a_wrapper_bound_under_other_settings_is_not_any_more():
    def work():
        backend()
        connection.close()
        with override_settings(DBPOOL_MW_ENABLED=False):
            backend()
            assert not isinstance(connection.connection, TrackedConnection)
            connection.close()
        return registry.pools()

    assert in_thread(work) == []


def test_a_test_that_takes_the_app_away_is_pooled_as_ever():
    def work():
        found = backend()
        connection.close()
        return found

    first = in_thread(work)
    with override_settings(INSTALLED_APPS=[]):
        assert in_thread(work) == first
    apps.set_available_apps([])
    try:
        assert in_thread(work) == first
    finally:
        apps.unset_available_apps()
    assert stats()["opened"] == 1


def test_with_the_middleware_it_is_one_pool_and_one_checkout(requests):
    def view(request):
        (holder,) = registry.pools()[0].holders()
        backend()
        assert stats()["checkouts"] == 1
        return HttpResponse(holder["path"])

    assert requests(view).content == b"/"

    def work():
        found = backend()
        connection.close()
        return found

    first = in_thread(work)
    assert requests(lambda request: HttpResponse(str(backend()))).content == (
        str(first).encode()
    )
    assert stats()["opened"] == 1


# --- OPTIONS -------------------------------------------------------------------------


def test_pool_settings_in_options_are_the_pools_and_the_rest_is_libpqs(options):
    options.update(MAX_CONNS=2, MIN_CONNS=1, TIMEOUT=0.05, application_name="shop")
    conf.reset_cache()

    def work():
        assert ask("SHOW application_name") == "shop"
        return registry.pools()[0].config

    config = in_thread(work)
    assert (config.max_conns, config.min_conns, config.timeout) == (2, 1, 0.05)


def test_a_wrong_value_in_options_is_an_error_that_names_it(options):
    options.update(MAX_CONNS="many")

    def work():
        with pytest.raises(ImproperlyConfigured) as caught:
            backend()
        return str(caught.value)

    assert "DATABASES['default']['OPTIONS']: MAX_CONNS" in in_thread(work)


@override_settings(DBPOOL_MW_POOLS={"default": {"MAX_CONNS": 3, "TIMEOUT": 1}})
def test_a_setting_in_both_places_is_an_error(options):
    options.update(MAX_CONNS=2)
    (problem,) = conf.pool_problems("default")
    assert (problem.key, problem.code) == ("MAX_CONNS", "twice")
    assert conf.own_settings("default")["TIMEOUT"] == 1


def test_a_command_takes_the_options_too(options):
    options.update(MAX_CONNS=2)
    assert backend()


# --- Sessions ------------------------------------------------------------------------


@override_settings(USE_TZ=True)
def test_time_zone_and_role_are_set_on_every_connection(options):
    # The server has another time zone; see SERVER_SETTINGS.
    ask("DROP ROLE IF EXISTS dbpool_mw_role")
    ask("CREATE ROLE dbpool_mw_role")
    connection.close()
    options.update(assume_role="dbpool_mw_role", MAX_CONNS=2)
    forget_wrappers()

    def work():
        seen = ask("SHOW TimeZone"), ask("SELECT current_user")
        ask("SET TimeZone TO 'Asia/Tokyo'")
        ask("RESET ROLE")
        connection.close()
        again = ask("SHOW TimeZone"), ask("SELECT current_user")
        connection.close()
        return seen, again

    try:
        assert in_thread(work) == (("UTC", "dbpool_mw_role"),) * 2
        assert stats()["resets"] == 1
    finally:
        del options["assume_role"]
        forget_wrappers()
        registry.close()
        ask("DROP ROLE dbpool_mw_role")


def test_a_transaction_left_open_is_rolled_back():
    def work():
        ask("CREATE TABLE IF NOT EXISTS sheep (a int)")
        transaction.set_autocommit(False)
        ask("INSERT INTO sheep VALUES (1)")
        connection.close()
        return ask("SELECT count(*) FROM sheep")

    assert in_thread(work) == 0
    assert stats()["rollbacks"] == 1


# --- Connections are reclaimed -------------------------------------------------------


@pytest.mark.parametrize("error", [None, ValueError, SystemExit])
def test_what_a_thread_holds_at_its_end_is_reclaimed(error):
    def work():
        backend()
        if error is not None:
            raise error

    def run():
        try:
            work()
        except BaseException as exception:
            return type(exception)

    for number in range(1, 12):
        assert in_thread(run) is error
        until(lambda: stats()["reclaimed"] == number and stats()["in_use"] == 0)  # noqa: B023
    assert stats()["opened"] <= 2


def test_what_a_collected_wrapper_held_is_reclaimed():
    def work():
        backend()
        del connections["default"]
        gc.collect()
        until(lambda: stats()["reclaimed"] == 1 and stats()["in_use"] == 0)
        return stats()["idle"]

    assert in_thread(work) == 1


def test_a_connection_taken_off_its_wrapper_is_discarded(options):
    options.update(MAX_CONNS=1, TIMEOUT=5)
    conf.reset_cache()

    def work():
        for _ in range(5):
            backend()
            connection.connection = None
        backend()
        connection.close()
        return stats()["discarded"]

    assert in_thread(work) == {"taken off its wrapper": 5}
    assert stats()["size"] == 1


# --- Management commands -------------------------------------------------------------


@pytest.mark.parametrize(
    "end_turn",
    # connection.close would be that of the wrapper which there is at the import.
    [close_old_connections, lambda: connection.close(), connections.close_all],
)
def test_the_main_thread_of_a_command_keeps_a_connection_between_turns(end_turn):
    threads = threading.enumerate()
    first = backend()
    for _ in range(3):
        end_turn()
        assert backend() == first
    assert stats()["opened"] == 1
    assert set(threading.enumerate()) <= set(threads)


def test_a_turn_of_a_command_leaves_nothing_in_the_session_for_the_next():
    first, timeout = backend(), ask("SHOW statement_timeout")
    ask("SET statement_timeout = '7s'")
    close_old_connections()
    assert (backend(), ask("SHOW statement_timeout")) == (first, timeout)


def test_a_command_whose_connection_died_between_turns_gets_another(databases):
    first = backend()
    close_old_connections()
    in_thread(lambda: _terminate(databases, first))
    assert backend() != first


def _terminate(databases, pid):
    dsn = databases.server.dsn(databases.default)
    with contextlib.closing(connect(dsn)) as other:
        cursor = other.cursor()
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])


def test_a_command_that_serves_after_all_has_new_pools_with_threads(options):
    options.update(MAX_CONNS=1)
    before = backend()
    (pool,) = registry.pools()
    # What the main thread holds takes no place from those whom the process serves.
    assert in_thread(backend) != before
    assert pool.state == "closed"
    assert registry.pools() != [pool]
    assert any(t.name == "dbpool_mw-maintenance" for t in threading.enumerate())
    connection.close()
    until(lambda: pool.stats()["size"] == 0)


_PROGRAM = """
import multiprocessing, os, sys, threading
import django
from django.conf import settings
django.setup()
settings.DATABASES["default"]["ENGINE"] = "dbpool_mw.backends.postgresql"
from django.core.management import call_command
from django.db import close_old_connections, connection

def ask(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]

def backend():
    return ask("SELECT pg_backend_pid()")

def child(first, pipe):
    found = backend()
    close_old_connections()
    pipe.send((found != first, backend() == found))

call_command("migrate", verbosity=0)
with open(os.devnull, "w") as nowhere:
    call_command("inspectdb", stdout=nowhere)
first = backend()
close_old_connections()
print(backend() == first)
for closed in (False, True):
    if closed:
        close_old_connections()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=child, args=(first, theirs)
    )
    process.start()
    print(*ours.recv(), backend() == first)
    process.join()
print(threading.enumerate() == [threading.main_thread()])
print(os.path.exists(os.environ["CONTROL"]))
"""


@pytest.mark.parametrize("installed", ["['dbpool_mw']", "[]"])
def test_a_command_has_no_thread_and_shares_no_connection_with_its_children(
    databases, tmp_path, installed
):
    program = _PROGRAM.replace(
        "django.setup()",
        f"settings.INSTALLED_APPS, settings.MIDDLEWARE = {installed}, []\n"
        "django.setup()",
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": PYTHONPATH,
            "CONTROL": str(tmp_path / "control"),
            **databases.environ,
        },
        text=True,
        capture_output=True,
        timeout=60,
    )
    expected = "True\nTrue True True\nTrue True True\nTrue\nFalse\n"
    assert (done.stdout, done.stderr) == (expected, "")
