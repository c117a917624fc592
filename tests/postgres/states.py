"""What a request can leave behind in its session, and how to observe it.

Each state has a step that brings it about and a step that observes it. A step is SQL,
of one value, or a function that is called with the library's connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from django.db import connection, models, transaction

from tests.conftest import Databases
from tests.library import IS_PSYCOPG
from tests.postgres.conftest import ask
from tests.vocabulary import (
    READ_ONLY,
    SERIALIZABLE,
    Error,
    QueryCanceled,
    break_copy_off,
    connect,
    execute,
)

#: Cursors and iterators that outlive their requests, as in a global variable.
kept: list[Any] = []


class Book(models.Model):
    class Meta:
        app_label = "contenttypes"
        managed = False
        db_table = "states_book"


def prepare(databases: Databases) -> None:
    """Create the table and the function that some of the states need."""
    dsn = databases.server.dsn(databases.default)
    with contextlib.closing(connect(dsn, autocommit=True)) as raw:
        execute(
            raw,
            """
            CREATE TABLE IF NOT EXISTS states_book AS
                SELECT generate_series(1, 10) AS id;
            CREATE OR REPLACE FUNCTION states_become(name text) RETURNS text AS
                $$ SELECT set_config('app.user_id', name, false) $$ LANGUAGE sql
            """,
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
    with raw.cursor() as cursor, contextlib.suppress(Error):
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


def break_copy(statement: str) -> Callable[[Any], None]:
    def leave(raw: Any) -> None:
        stopped = (ZeroDivisionError, Error)
        with raw.cursor() as cursor, contextlib.suppress(*stopped):
            break_copy_off(cursor, statement)

    return leave


def be_cancelled(raw: Any) -> None:
    cancelled = contextlib.suppress(QueryCanceled)
    with raw.cursor() as cursor, cancelled:
        cursor.execute("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(20)")
        raise AssertionError("the statement was not cancelled")


# --- Steps that observe a state ------------------------------------------------------


def setting(name: str) -> str:
    return f"SELECT coalesce(current_setting('{name}', true), '')"


def characteristic(name: str, default: str) -> Callable[[Any], object]:
    """Observe an attribute, and the setting that the library may make of it."""
    return lambda raw: (ask(setting(default)), getattr(raw, name))


def status(raw: Any) -> object:
    return raw.get_transaction_status()


def is_seeded(raw: Any) -> bool:
    return ask("SELECT random()") in after_seed


USER = setting("app.user_id")
LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
CURSORS = "SELECT count(*) FROM pg_cursors WHERE name <> ''"

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
    f"``{READ_ONLY} = True``": (
        attribute(READ_ONLY, True),
        characteristic(READ_ONLY, "default_transaction_read_only"),
    ),
    "``isolation_level = …``": (
        attribute("isolation_level", SERIALIZABLE),
        characteristic("isolation_level", "default_transaction_isolation"),
    ),
    "``deferrable = True``": (
        attribute("deferrable", True),
        characteristic("deferrable", "default_transaction_deferrable"),
    ),
    "``SET client_encoding``": (
        "SET client_encoding = 'LATIN1'",
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
    "named cursor ``WITH HOLD``, kept": (keep_held_cursor, CURSORS),
    "named cursor, kept": (keep_cursor, CURSORS),
    "``.iterator()`` broken off, kept": (keep_iterator, CURSORS),
    "``.iterator()`` broken off, dropped": (drop_iterator, CURSORS),
    "``COPY … TO`` broken off": (break_copy("COPY pg_am TO STDOUT"), status),
    "``COPY … FROM`` broken off": (break_copy("COPY states_book FROM STDIN"), status),
    "a query cancelled": (be_cancelled, status),
}

if IS_PSYCOPG:
    import psycopg
    from psycopg.rows import dict_row
    from psycopg.types.string import TextLoader

    class Shouts(TextLoader):
        def load(self, data: Any) -> str:
            return str(super().load(data)).upper()

    def keep_generator(raw: Any, generator: Any) -> None:
        next(generator)
        kept.append(generator)

    def keep_block(block: Any) -> None:
        block.__enter__()
        kept.append(block)

    def notified(raw: Any) -> None:
        ask("LISTEN somebody")
        ask("NOTIFY somebody")

    def wait_for_statement(raw: Any) -> None:
        raw.pgconn.send_query(b"SET app.user_id = '42'")
        raw.wait(psycopg.generators.execute(raw.pgconn))

    def number_of_handlers(raw: Any) -> tuple[int, int]:
        return len(raw._notice_handlers), len(raw._notify_handlers)

    #: What only psycopg offers.
    STATES |= {
        "``row_factory = …``": (
            attribute("row_factory", dict_row),
            lambda raw: type(raw.execute("SELECT 1 AS a").fetchone()),
        ),
        "``cursor_factory = …``": (
            attribute("cursor_factory", psycopg.Cursor),
            lambda raw: type(raw.cursor()),
        ),
        "a loader registered": (
            lambda raw: raw.adapters.register_loader("text", Shouts),
            "SELECT 'a'::text",
        ),
        "``TypeInfo.register(…)``": (
            lambda raw: psycopg.types.TypeInfo("mood", 4711, 4712).register(raw),
            lambda raw: raw.adapters.types.get("mood") is not None,
        ),
        "``add_notice_handler(…)``": (
            lambda raw: raw.add_notice_handler(print),
            number_of_handlers,
        ),
        "``add_notify_handler(…)``": (
            lambda raw: raw.add_notify_handler(print),
            number_of_handlers,
        ),
        "``prepare_threshold = 0``": (
            attribute("prepare_threshold", 0),
            lambda raw: raw.prepare_threshold,
        ),
        "a notification not read": (notified, lambda raw: len(raw._notifies_backlog)),
        "``pipeline()`` left open": (
            lambda raw: keep_block(raw.pipeline()),
            lambda raw: raw.info.pipeline_status.name,
        ),
        "``transaction()`` left open": (
            lambda raw: keep_block(raw.transaction()),
            status,
        ),
        "``copy()`` left open": (
            lambda raw: keep_block(raw.cursor().copy("COPY pg_am TO STDOUT")),
            status,
        ),
        "``stream()`` left open": (
            lambda raw: keep_generator(
                raw, psycopg.Cursor(raw).stream("SELECT generate_series(1, 9)")
            ),
            status,
        ),
        "a statement by ``pgconn``": (
            lambda raw: raw.pgconn.exec_(b"SET app.user_id = '42'"),
            USER,
        ),
        "a statement by ``wait()``": (wait_for_statement, USER),
    }
else:
    #: What only psycopg2 offers.
    STATES |= {
        "``set_client_encoding(…)``": (
            lambda raw: raw.set_client_encoding("LATIN1"),
            setting("client_encoding"),
        ),
    }
