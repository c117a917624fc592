"""What a request can leave behind in its session, and how to observe it.

Each state has a step that brings it about and a step that observes it. A step is SQL,
of one value, or a function that is called with the psycopg2 connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import psycopg2
from django.db import connection, models, transaction
from psycopg2 import extensions

from tests.conftest import Databases
from tests.postgres.conftest import ask

#: Cursors and iterators that outlive their requests, as in a global variable.
kept: list[Any] = []


class Book(models.Model):
    class Meta:
        app_label = "contenttypes"
        managed = False
        db_table = "states_book"


def prepare(databases: Databases) -> None:
    """Create the table and the function that some of the states need."""
    raw = psycopg2.connect(databases.server.dsn(databases.default))
    with contextlib.closing(raw), raw, raw.cursor() as cursor:
        cursor.execute(
            """
            CREATE TABLE IF NOT EXISTS states_book AS
                SELECT generate_series(1, 10) AS id;
            CREATE OR REPLACE FUNCTION states_become(name text) RETURNS text AS
                $$ SELECT set_config('app.user_id', name, false) $$ LANGUAGE sql
            """
        )


Step = str | Callable[[Any], object]


def run_step(step: Step) -> object:
    """Run a step on this thread's connection, and return its value."""
    if isinstance(step, str):
        return ask(step)
    connection.ensure_connection()
    return step(connection.connection)


# --- Steps that bring a state about --------------------------------------------------


def attribute(name: str, value: object) -> Callable[[Any], None]:
    return lambda raw: setattr(raw, name, value)


def set_local(raw: Any) -> None:
    with transaction.atomic():
        ask("SET LOCAL statement_timeout = 54321")


def work_without_autocommit(raw: Any) -> None:
    raw.autocommit = False
    ask("SELECT 1")


def fail_in_transaction(raw: Any) -> None:
    with raw.cursor() as cursor, contextlib.suppress(psycopg2.Error):
        cursor.execute("BEGIN; SELECT 1/0")


#: The first random numbers after setseed(0.5).
after_seed: list[float] = []


def seed(raw: Any) -> None:
    ask("SELECT setseed(0.5)")
    after_seed[:] = [ask("SELECT random()") for _ in range(3)]
    ask("SELECT setseed(0.5)")


def keep_held_cursor(raw: Any) -> None:
    cursor = raw.cursor("kept", withhold=True)
    cursor.execute("SELECT generate_series(1, 9)")
    kept.append(cursor)


def keep_cursor(raw: Any) -> None:
    raw.autocommit = False
    cursor = raw.cursor("kept")
    cursor.execute("SELECT generate_series(1, 9)")
    kept.append(cursor)


def keep_iterator(raw: Any) -> None:
    iterator = Book.objects.iterator(chunk_size=2)
    next(iterator)
    kept.append(iterator)


def drop_iterator(raw: Any) -> None:
    next(Book.objects.iterator(chunk_size=2))


class BreaksOff:
    """A file whose methods raise, which breaks a COPY off."""

    def write(self, data: bytes) -> int:
        raise ZeroDivisionError

    def read(self, size: int) -> bytes:
        raise ZeroDivisionError


def break_copy(statement: str) -> Callable[[Any], None]:
    def leave(raw: Any) -> None:
        stopped = (ZeroDivisionError, psycopg2.Error)
        with raw.cursor() as cursor, contextlib.suppress(*stopped):
            cursor.copy_expert(statement, BreaksOff())

    return leave


def be_cancelled(raw: Any) -> None:
    cancelled = contextlib.suppress(extensions.QueryCanceledError)
    with raw.cursor() as cursor, cancelled:
        cursor.execute("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(20)")
        raise AssertionError("the statement was not cancelled")


# --- Steps that observe a state ------------------------------------------------------


def setting(name: str) -> str:
    return f"SELECT coalesce(current_setting('{name}', true), '')"


def status(raw: Any) -> object:
    return raw.get_transaction_status()


def is_seeded(raw: Any) -> bool:
    return ask("SELECT random()") in after_seed


USER = setting("app.user_id")
LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
CURSORS = "SELECT count(*) FROM pg_cursors WHERE name <> ''"
SERIALIZABLE = extensions.ISOLATION_LEVEL_SERIALIZABLE

#: By name: the step that brings a state about, and the step that observes it.
STATES: dict[str, tuple[Step, Step]] = {
    "nothing": ("SELECT 1", status),
    "``SET LOCAL``": (set_local, setting("statement_timeout")),
    "``SET statement_timeout``": (
        "SET statement_timeout = 54321",
        setting("statement_timeout"),
    ),
    "``SET search_path``": ("SET search_path = pg_catalog", setting("search_path")),
    "``SET TimeZone``": ("SET TimeZone = 'Asia/Tokyo'", setting("TimeZone")),
    "``SET app.user_id``": ("SET app.user_id = '42'", USER),
    "``SET ROLE``": ("SET ROLE pg_monitor", "SELECT current_user"),
    "``SET SESSION AUTHORIZATION``": (
        "SET SESSION AUTHORIZATION pg_monitor",
        "SELECT session_user",
    ),
    "``set_config(…, false)``": (
        "SELECT set_config('app.user_id', '42', false)",
        USER,
    ),
    "the same, within a function": ("SELECT states_become('42')", USER),
    "read only, by SQL": (
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        setting("default_transaction_read_only"),
    ),
    "isolation level, by SQL": (
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        setting("default_transaction_isolation"),
    ),
    "deferrable, by SQL": (
        "SET SESSION CHARACTERISTICS AS TRANSACTION DEFERRABLE",
        setting("default_transaction_deferrable"),
    ),
    "``readonly = True``": (
        attribute("readonly", True),
        setting("default_transaction_read_only"),
    ),
    "``isolation_level = …``": (
        attribute("isolation_level", SERIALIZABLE),
        setting("default_transaction_isolation"),
    ),
    "``deferrable = True``": (
        attribute("deferrable", True),
        setting("default_transaction_deferrable"),
    ),
    "``set_client_encoding(…)``": (
        lambda raw: raw.set_client_encoding("LATIN1"),
        setting("client_encoding"),
    ),
    "``autocommit = False``": (
        attribute("autocommit", False),
        lambda raw: raw.autocommit,
    ),
    "the same, and a query": (work_without_autocommit, status),
    "``BEGIN``": ("BEGIN", status),
    "``BEGIN``, and an error": (fail_in_transaction, status),
    "temporary table": (
        "CREATE TEMP TABLE left_behind (a int)",
        "SELECT count(*) FROM pg_class WHERE relname = 'left_behind'",
    ),
    "advisory lock of the session": (
        "SELECT pg_advisory_lock(4711)",
        LOCKS,
    ),
    "``LISTEN``": ("LISTEN somebody", "SELECT count(*) FROM pg_listening_channels()"),
    "``PREPARE``": (
        "PREPARE plan AS SELECT 1",
        "SELECT count(*) FROM pg_prepared_statements",
    ),
    "``setseed()``": (seed, is_seeded),
    "``DECLARE … WITH HOLD``": (
        "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
        CURSORS,
    ),
    "held cursor of psycopg2, kept": (keep_held_cursor, CURSORS),
    "named cursor of psycopg2, kept": (keep_cursor, CURSORS),
    "``.iterator()`` broken off, kept": (keep_iterator, CURSORS),
    "``.iterator()`` broken off, dropped": (drop_iterator, CURSORS),
    "``COPY … TO`` broken off": (break_copy("COPY pg_am TO STDOUT"), status),
    "``COPY … FROM`` broken off": (break_copy("COPY states_book FROM STDIN"), status),
    "a query cancelled": (be_cancelled, status),
}
