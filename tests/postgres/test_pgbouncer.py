"""The pool in front of a real PgBouncer, in session mode and in transaction mode.

docs/migrating.rst tells users what holds in each.
"""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from functools import cache

import pytest
from django.conf import settings
from django.db import connection, models, transaction
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django.db.utils import OperationalError, ProgrammingError
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw import conf
from dbpool_mw.binding import registry
from tests.conftest import Databases, aliases_at, fresh_database
from tests.pgbouncer import needs_pgbouncer, pgbouncer
from tests.postgres.conftest import Requests, ask, forget_wrappers, stats
from tests.postgres.states import STATES, kept, prepare, run_step
from tests.process.servers import wait_until
from tests.vocabulary import close_all, connect, library

pytestmark = needs_pgbouncer

BACKEND = "SELECT pg_backend_pid()"
ROLE = "dbpool_mw_behind_pgbouncer"


class Front:
    """A PgBouncer that Django connects to."""

    def __init__(self, server, address):
        self.server = server
        self.address = address
        self.send = Requests()

    def request(self, work):
        """Have a request do some work; return what the work does."""
        results = []

        def view(request):
            results.append(work())
            return HttpResponse("well")

        assert self.send(view).content == b"well"
        (result,) = results
        return result

    @contextmanager
    def client(self):
        """Connect as another client of PgBouncer; return a function that queries."""
        other = connect(self.address.dsn())
        other.autocommit = True
        try:
            yield lambda sql: query(other, sql)
        finally:
            other.close()

    @contextmanager
    def busy_backend(self):
        """Have another client be in a transaction; give its backend.

        PgBouncer gives it the one that was used last.
        """
        with self.client() as ask_other:
            ask_other("BEGIN")
            try:
                yield ask_other(BACKEND)
            finally:
                # PgBouncer closes a backend that it gets back in a transaction.
                ask_other("ROLLBACK")

    def show(self, what):
        """Ask PgBouncer's console for rows on this database."""
        console = connect(self.address.dsn("pgbouncer"))
        console.autocommit = True  # it knows no BEGIN
        try:
            with console.cursor() as cursor:
                cursor.execute(f"SHOW {what}")
                names = [column.name for column in cursor.description]
                rows = [dict(zip(names, row, strict=True)) for row in cursor]
        finally:
            console.close()
        return [row for row in rows if row["database"] == self.address.dbname]


def query(other, sql):
    with other.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None


@contextmanager
def behind(server, mode, size=2, *, options=None, bouncer=None, **of_django):
    """Connect Django to a PgBouncer that opens at most ``size`` connections."""
    default = settings.DATABASES["default"]
    with (
        fresh_database(server) as name,
        pgbouncer(server, mode, size, **(bouncer or {})) as address,
        aliases_at(Databases(address, name, name)),
        pytest.MonkeyPatch.context() as patch,
    ):
        address.dbname = name
        patch.setitem(default, "OPTIONS", options or {})
        for key, value in of_django.items():
            patch.setitem(default, key, value)
        forget_wrappers()
        conf.reset_cache()
        front = Front(server, address)
        with override_settings(
            ROOT_URLCONF=front.send.urls, DBPOOL_MW_POOLS={"replica": None}
        ):
            yield front
        forget_wrappers()
        registry.close()
        conf.reset_cache()


@pytest.fixture
def role(postgres):
    def execute(sql):
        owner = connect(postgres.dsn())
        owner.autocommit = True
        query(owner, sql)
        owner.close()

    execute(f"DROP ROLE IF EXISTS {ROLE}; CREATE ROLE {ROLE}")
    yield ROLE
    execute(f"DROP ROLE {ROLE}")


def who():
    return ask("SELECT current_user")


def end_backend(server, pid):
    """End a backend, and wait until it has ended."""
    owner = connect(server.dsn())
    assert query(owner, f"SELECT pg_terminate_backend({pid}, 20000)")
    owner.close()


@cache
def row():
    class Row(models.Model):
        class Meta:
            app_label = "behind_pgbouncer"

    return Row


# --- Session mode --------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_session(postgres):
    """Give one PgBouncer to all tests that leave no state in it."""
    with pgbouncer(postgres, "session") as address:
        yield address


#: Changes that reach the next request. One is made inside a function, where no
#: statement shows it, and two of psycopg's past its cursors. For ``setseed()`` the pool
#: closes its connection, but PgBouncer keeps the backend and sends DISCARD ALL, which
#: doesn't undo it.
STAYS = {
    "the same, within a function",
    "``setseed()``",
    "a statement by ``pgconn``",
    "a statement by ``wait()``",
}


@pytest.mark.parametrize("name", [state for state in STATES if state not in STAYS])
def test_in_session_mode_the_next_request_sees_nothing_of_a_change(
    postgres, of_session, database, name
):
    prepare(Databases(postgres, database, database))
    leave, sight = STATES[name]
    front = Front(postgres, of_session)
    with (
        aliases_at(Databases(of_session, database, database)),
        override_settings(
            ROOT_URLCONF=front.send.urls, DBPOOL_MW_POOLS={"replica": None}
        ),
    ):
        forget_wrappers()
        before = front.request(lambda: run_step(sight))
        front.request(lambda: run_step(leave))
        assert front.request(lambda: run_step(sight)) == before
        close_all(kept)
        forget_wrappers()


def test_in_session_mode_requests_share_one_backend_and_reset_nothing(postgres):
    with behind(postgres, "session") as front:
        backends = {front.request(lambda: ask(BACKEND)) for _ in range(3)}
        assert len(backends) == stats()["opened"] == 1
        assert stats()["resets"] == 0
        # PgBouncer counts the pool's connection as active, idle or not.
        assert [row["state"] for row in front.show("SERVERS")] == ["active"]


@override_settings(USE_TZ=True)
def test_in_session_mode_time_zone_and_role_hold_after_a_reset(postgres, role):
    with behind(postgres, "session", options={"assume_role": role}) as front:

        def look():
            seen = ask("SHOW TimeZone"), who()
            ask("SET TimeZone TO 'Asia/Tokyo'")
            ask("RESET ROLE")
            return seen

        assert [front.request(look) for _ in range(2)] == [("UTC", role)] * 2
        assert stats()["resets"] == 2


def test_in_session_mode_a_backend_that_ended_fails_no_request(postgres):
    with behind(postgres, "session") as front:
        ended = front.request(lambda: ask(BACKEND))
        end_backend(postgres, ended)
        wait_until(lambda: not front.show("CLIENTS"), "PgBouncer lets the client go")
        assert front.request(lambda: ask(BACKEND)) != ended
        assert stats()["discarded"] == {"dead": 1}


# --- Both modes ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_the_backend_pid_in_reports_is_one_that_pgbouncer_made_up(postgres, mode):
    with behind(postgres, mode) as front:

        def look():
            (holder,) = registry.pools()[0].holders()
            return holder["backend_pid"], ask(BACKEND)

        named, real = front.request(look)
        assert named != real


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_drain_closes_the_clients_and_pgbouncer_keeps_its_backends(postgres, mode):
    with behind(postgres, mode) as front:
        before = front.request(lambda: ask(BACKEND))
        registry.pools()[0].drain()
        # Counted by the thread that closes it, which waits for PgBouncer's answer.
        wait_until(lambda: stats()["discarded"] == {"drained": 1}, "it is closed")
        wait_until(lambda: not front.show("CLIENTS"), "no client is left")
        (server,) = front.show("SERVERS")
        assert server["remote_pid"] == before
        registry.pools()[0].resume()
        assert front.request(lambda: ask(BACKEND)) == before


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_statement_can_be_cancelled(postgres, mode):
    with behind(postgres, mode) as front:

        def work():
            raw = connection.connection

            def cancel():
                asleep = "SELECT count(*) FROM pg_stat_activity"
                asleep += (
                    " WHERE wait_event = 'PgSleep' AND datname = current_database()"
                )
                with front.client() as ask_other:
                    wait_until(lambda: ask_other(asleep), "it sleeps")
                raw.cancel()

            thread = threading.Thread(target=cancel)
            thread.start()
            with pytest.raises(OperationalError, match="canceling statement"):
                ask("SELECT pg_sleep(60)")
            thread.join()

        front.request(work)
        assert front.request(lambda: ask("SELECT 1")) == 1
        assert stats()["opened"] == 1


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_waiting_for_a_full_pgbouncer_ends_by_the_timeout_of_pgbouncer(
    postgres, mode, caplog
):
    limits = {"query_wait_timeout": 1}
    pool = {"default": {"TIMEOUT": 0.5}, "replica": None}
    with (
        behind(postgres, mode, 1, bouncer=limits) as front,
        override_settings(DBPOOL_MW_POOLS=pool),
    ):
        with front.busy_backend():
            response = front.send(lambda request: HttpResponse(ask("SELECT 1")))
            assert response.status_code == 503
            assert "can't connect" in caplog.text
        assert (stats()["size"], stats()["timeouts"]) == (0, 0)
        assert front.request(lambda: ask("SELECT 1")) == 1


# --- Transaction mode: what holds ----------------------------------------------------


@pytest.fixture
def never():
    """Follow docs/migrating.rst."""
    with override_settings(DBPOOL_MW_RESET="never"):
        yield


@override_settings(USE_TZ=True)
@pytest.mark.parametrize("reset", ["auto", "always", "never"])
def test_in_transaction_mode_every_client_keeps_its_time_zone(postgres, reset):
    with (
        override_settings(DBPOOL_MW_RESET=reset),
        behind(postgres, "transaction", 1) as front,
        front.client() as ask_other,
    ):
        ask_other("SET TimeZone TO 'Asia/Tokyo'")

        def look():
            return [ask("SHOW TimeZone"), ask_other("SHOW TimeZone")] * 2

        for _ in range(2):
            assert front.request(look) == ["UTC", "Asia/Tokyo"] * 2


@pytest.mark.usefixtures("never")
def test_in_transaction_mode_one_transaction_is_one_session(postgres):
    with behind(postgres, "transaction") as front:

        def work():
            with transaction.atomic():
                ask("SET LOCAL statement_timeout = 54321")
                ask("CREATE TEMP TABLE kept (a int) ON COMMIT DROP")
                ask("SELECT pg_advisory_xact_lock(4711)")
                with front.client() as ask_other:
                    free = ask_other("SELECT pg_try_advisory_lock(4711)")
                    theirs = ask_other("SHOW statement_timeout")
                ours = ask("SELECT count(*) FROM kept"), ask("SHOW statement_timeout")
            return ours, theirs, free, ask("SHOW statement_timeout")

        for _ in range(2):
            assert front.request(work) == ((0, "54321ms"), "0", False, "0")
        assert stats()["resets"] == 0


@pytest.mark.usefixtures("never")
def test_in_transaction_mode_atomic_has_the_isolation_level_asked_for(postgres):
    options = {"isolation_level": IsolationLevel.SERIALIZABLE}
    with behind(postgres, "transaction", options=options) as front:

        def work():
            first = ask(BACKEND)
            with front.busy_backend() as taken, transaction.atomic():
                assert ask(BACKEND) != first == taken
                return ask("SHOW transaction_isolation")

        assert front.request(work) == "serializable"
        with front.client() as ask_other:
            assert ask_other("SHOW transaction_isolation") == "read committed"


# psycopg warns of the cursor, which can't be closed where it doesn't exist.
@pytest.mark.filterwarnings("ignore:.*ServerSideCursor:ResourceWarning")
@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("disabled", [True, False])
def test_in_transaction_mode_iterator_needs_server_side_cursors_disabled(
    postgres, disabled
):
    with behind(postgres, "transaction", DISABLE_SERVER_SIDE_CURSORS=disabled) as front:
        with connection.schema_editor() as editor:
            editor.create_model(row())
        row().objects.bulk_create(row()() for _ in range(30))
        connection.close()

        def work():
            rows = row().objects.iterator(chunk_size=10)
            next(rows)
            with front.busy_backend():
                if disabled:
                    assert len(list(rows)) == 29
                else:
                    with pytest.raises(library.errors.InvalidCursorName):
                        list(rows)

        front.request(work)
        gc.collect()


@pytest.mark.usefixtures("never")
def test_in_transaction_mode_pgbouncer_replaces_a_backend_that_ended(postgres):
    with behind(postgres, "transaction") as front:

        def work():
            first = ask(BACKEND)
            end_backend(postgres, first)
            wait_until(lambda: first not in backends(front), "PgBouncer has noticed it")
            assert ask(BACKEND) != first

        front.request(work)
        assert stats()["opened"] == 1
        assert stats()["discarded"] == {}


def backends(front):
    return [row["remote_pid"] for row in front.show("SERVERS")]


@pytest.mark.usefixtures("never")
def test_in_transaction_mode_an_open_transaction_is_rolled_back(postgres):
    with behind(postgres, "transaction", 1) as front:
        front.request(lambda: ask("CREATE TABLE sheep (a int)"))

        def work():
            transaction.set_autocommit(False)
            ask("INSERT INTO sheep VALUES (1)")

        front.request(work)
        # If it were still open, no client would get the only backend.
        with front.client() as ask_other:
            assert ask_other("SELECT count(*) FROM sheep") == 0
        assert stats()["rollbacks"] == 1


# --- Transaction mode: what can't hold -----------------------------------------------


@pytest.mark.parametrize("reset", ["auto", "always", "never"])
def test_in_transaction_mode_a_change_reaches_others_whatever_the_reset(
    postgres, reset
):
    with (
        override_settings(DBPOOL_MW_RESET=reset),
        behind(postgres, "transaction") as front,
    ):

        def work():
            ask("SET statement_timeout = 54321")
            ask("CREATE TEMP TABLE kept (a int)")
            ask("SELECT pg_advisory_lock(4711)")
            with front.busy_backend() as changed:
                # This client gets the other backend, which the reset then cleans.
                assert ask(BACKEND) != changed
                assert ask("SHOW statement_timeout") == "0"
                with pytest.raises(ProgrammingError, match="does not exist"):
                    ask("SELECT count(*) FROM kept")
                assert not ask("SELECT pg_advisory_unlock(4711)")
                connection.close()
            return changed

        changed = front.request(work)
        with front.client() as ask_other:
            assert ask_other(BACKEND) == changed
            assert ask_other("SHOW statement_timeout") == "54321ms"
            assert ask_other("SELECT count(*) FROM kept") == 0
            locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            assert ask_other(locks) == 1
        assert stats()["resets"] == {"auto": 1, "always": 1, "never": 0}[reset]


@pytest.mark.usefixtures("never")
def test_in_transaction_mode_a_role_is_the_backends_and_not_the_clients(postgres, role):
    with behind(postgres, "transaction", options={"assume_role": role}) as front:

        def work():
            ours = who()
            with front.client() as ask_other:
                theirs = ask_other("SELECT current_user")
            with front.busy_backend():
                return ours, theirs, who()

        assert front.request(work) == (role, role, postgres.user)
