"""Whatever one holder does, the next one finds a session like a fresh one.

The rows are in tests/postgres/oracle: every SQL command, every volatile function, the
library's ways, and texts that hide what they do. In both modes that reset sessions the
next holder's snapshot has to equal that of a connection that Django opens by itself at
that time, without the pool.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from functools import cache

import pytest
from django.db import connection
from django.test import override_settings

from dbpool_mw import pooled
from dbpool_mw.binding import registry
from sandbox.postgres import PostgresMissing, PostgresServer, find_binaries
from tests.conftest import Databases, aliases_at
from tests.documents import WRITE, table, write_table, written_table
from tests.library import IS_PSYCOPG, LIBRARY, only_psycopg
from tests.postgres.conftest import stats
from tests.postgres.oracle import commands, functions
from tests.postgres.oracle.corpus import PARTS, ROWS
from tests.postgres.oracle.holder import act, administer, look
from tests.postgres.oracle.known import KNOWN, NOT_SEEN, NOT_SEEN_OF_THE_LIBRARY
from tests.postgres.oracle.rows import SCENERY
from tests.postgres.oracle.snapshot import ask, differences, half, snapshot
from tests.vocabulary import (
    SERIALIZABLE,
    Error,
    close_all,
    connect,
    execute,
    make_dsn,
    parameters,
)

DOCUMENT = "docs/sessions.rst"
MODES = ("auto", "always")


@pytest.fixture(scope="module")
def administrator():
    """Give a server whose time zone is Django's own, with what the rows need in it."""
    settings = {
        "allow_in_place_tablespaces": True,
        "max_prepared_transactions": 5,
        "timezone": "UTC",
        "wal_level": "logical",
    }
    try:
        find_binaries()
    except PostgresMissing as missing:
        pytest.skip(str(missing))
    with PostgresServer(settings) as server:
        server.create_database("oracle")
        raw = connect(server.dsn("oracle"), autocommit=True)
        address = {**vars(server), "dbname": "oracle"}
        if raw.info.server_version >= 160000:
            # Thousands of connections: let the password cost less.
            execute(raw, "SET scram_iterations = 1")
            execute(raw, f"ALTER ROLE CURRENT_USER PASSWORD '{server.password}'")
        execute(raw, SCENERY.format(**address))
        with aliases_at(Databases(server, "oracle", "oracle")):
            yield raw
        raw.close()


def restore(raw, step):
    """Take an administrator's step when all other sessions have ended."""
    others = (
        "SELECT 1 FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    for _ in range(2000):
        if not ask(raw, others):
            break
        ask(raw, "SELECT pg_sleep(0.005)")
    else:
        raise RuntimeError("a session has not ended")
    administer(raw, step)


def look_now(kept=()):
    """Take a snapshot of the session that this thread's connection is in."""
    connection.ensure_connection()
    return look(connection.connection, kept)


def fresh_session():
    """Return a snapshot of a connection that Django opens as without dbpool_mw."""
    # No pool knows this wrapper.
    with contextlib.closing(connection.copy()) as wrapper:
        wrapper.connect()
        return snapshot(wrapper.connection)


@cache
def usual_session(administrator):
    return fresh_session()


def found_by_the_next_holder(row, mode, administrator):
    """Return what the holder after the row's finds, that a fresh session has not."""
    kept: list[object] = []
    administer(administrator, row.before)
    try:
        with override_settings(DBPOOL_MW_RESET=mode, DBPOOL_MW_MAX_CONNS=1):
            with pooled():
                first = look_now()
                act(row, connection.connection, kept)
            with pooled():
                found = look_now(kept)
            # A row with nothing to restore changes nothing for later sessions.
            alone = not (row.before or row.after)
            fresh = usual_session(administrator) if alone else fresh_session()
            return differences(found, fresh, first)
    finally:
        close_all(kept)
        with contextlib.suppress(Exception):
            connection.close()
        registry.close()
        restore(administrator, row.after)


def causes(table):
    """Return (row, mode): cause of a table of known.py."""
    return {
        (name, mode): cause
        for cause, rows in table.items()
        for name, modes in rows.items()
        for mode in modes
    }


FAILS, UNSEEN = causes(KNOWN), causes({**NOT_SEEN, **NOT_SEEN_OF_THE_LIBRARY})


def cases():
    for name in ROWS:
        for mode in MODES:
            cause = FAILS.get((name, mode))
            # No other exception is expected: the row itself has to be right.
            fails = pytest.mark.xfail(reason=cause, strict=True, raises=AssertionError)
            marks = [fails] if cause else []
            yield pytest.param(name, mode, marks=marks, id=f"{mode}-{name}")


@pytest.mark.parametrize(("name", "mode"), list(cases()))
def test_the_next_holder_finds_a_session_like_a_fresh_one(name, mode, administrator):
    row, version = ROWS[name], administrator.info.server_version // 10000
    if not row.since <= version <= row.until:
        pytest.skip(f"not of PostgreSQL {version}")
    found = found_by_the_next_holder(row, mode, administrator)
    if (name, mode) in UNSEEN:
        assert found, "this is seen: remove it from NOT_SEEN"
    else:
        assert not found


if IS_PSYCOPG:
    SIGHTS_OF_THE_LIBRARY = {
        "autocommit = False": "client: _autocommit",
        f"isolation_level = {SERIALIZABLE!r}": "client: _isolation_level",
        "read_only = True": "client: begin",
        "deferrable = True": "client: _deferrable",
        "row_factory = …": "client: row_factory",
        "cursor_factory = …": "client: cursor_factory",
        "server_cursor_factory = …": "client: server_cursor_factory",
        "prepare_threshold = …": "client: prepare_threshold",
        "prepared_max = …": "client: prepared_max",
        "add_notice_handler()": "client: _notice_handlers",
        "add_notify_handler()": "client: _notify_handlers",
        "execute(prepare=True), and a setting": "prepared statements",
        "register_loader()": "client: loader 25 0",
        "register_dumper()": "client: dumper builtins.str AUTO",
        "types.add()": "client: types",
        "register_hstore()": "client: types",
        "LISTEN and a notification": "client: _notifies_backlog",
        "notifies() left open": "client: is_locked",
        "transaction() left open": "client: _num_transactions",
        "pipeline() left open": "client: pipeline",
        "tpc_prepare()": "client: _tpc",
    }
else:
    SIGHTS_OF_THE_LIBRARY = {
        "autocommit = False": "client: autocommit",
        "isolation_level = 3": "client: isolation_level",
        "readonly = True": "client: readonly",
        "deferrable = True": "client: deferrable",
        "set_client_encoding('LATIN1')": "client: encoding",
        "register_default_jsonb()": "client: string_types 3802",
        "register_type() of bytes": "client: string_types 17",
        "a notice of a function": "client: notices",
        "notices = UserList()": "client: notices_type",
        "LISTEN and a notification": "client: notifies",
        "tpc_prepare()": "client: status",
    }

#: A change of each kind, and where a snapshot tells of it.
SIGHTS = {
    "SET": "setting app.user_id",
    "SET: SET statement_timeout TO '5s'": "setting statement_timeout",
    "SET: SET statement_timeout = 0": "set in the session: statement_timeout",
    "SET: SET SEED TO 0.5": "seeded",
    "SET ROLE": "users",
    "SET SESSION AUTHORIZATION": "users",
    "SET: SET search_path = pg_catalog": "schemas",
    "PREPARE": "prepared statements",
    "DECLARE: WITH HOLD": "cursors",
    "LISTEN": "channels",
    "LOAD": "libraries",
    "CREATE TYPE: CREATE TYPE pg_temp.x AS (a int)": "temporary objects",
    "CREATE FUNCTION: loads a library": "libraries",
    "SELECT: from a server of postgres_fdw": "kept by postgres_fdw",
    "BEGIN": "client: transaction",
    "pg_advisory_lock(bigint)": "advisory locks",
    "pg_create_physical_replication_slot(name,boolean,boolean)": "replication slots",
    "pg_replication_origin_session_setup(text)": "replication origin",
    "pg_backup_start(text,boolean)": "backup",
    "nextval(regclass)": "lastval",
    "setval(regclass,bigint)": "currval o_sequence",
    "dblink_connect(text,text)": "kept by dblink",
    **SIGHTS_OF_THE_LIBRARY,
}


@pytest.mark.parametrize("name", SIGHTS)
def test_a_snapshot_tells_of_each_change(name, administrator):
    row = ROWS[name]
    administer(administrator, row.before)
    # The pool has no part in this.
    with contextlib.closing(connection.copy()) as wrapper:
        wrapper.connect()
        raw = wrapper.connection
        before = snapshot(raw)
        kept: list[object] = []
        with contextlib.suppress(Error):
            for step in row.steps:
                kept.append(administer(raw, step))
        assert SIGHTS[name] in differences(snapshot(raw), before, before)
        close_all(kept)
    restore(administrator, row.after)


@pytest.mark.usefixtures("administrator")
def test_a_snapshot_is_no_change_that_the_pool_sees():
    with override_settings(DBPOOL_MW_RESET="auto"):
        for _ in range(3):
            with pooled():
                look_now()
        assert (stats()["opened"], stats()["resets"]) == (1, 0)
    connection.close()
    registry.close()


@pytest.mark.skipif(not WRITE, reason="the document is not to be written")
def test_the_document_is_written():
    write_table(DOCUMENT, not_seen(NOT_SEEN), "not seen")


@pytest.mark.skipif(WRITE, reason="this run writes the document")
def test_the_document_lists_what_is_not_seen():
    assert written_table(DOCUMENT, "not seen") == not_seen(NOT_SEEN)
    differences = written_table("docs/drivers.rst", "differences")
    rows = [re.split(r"\s{2,}", line) for line in differences.splitlines()]
    stays = {cells[0] for cells in rows if cells[1:3] == [LIBRARY, "**stays**, 0"]}
    assert stays == set(NOT_SEEN_OF_THE_LIBRARY)


def not_seen(causes):
    """Return the table of what no pool sees, with the modes in which it stays."""

    def stays(modes, mode):
        return "**stays**" if mode in modes else "cleaned"

    lines = [
        [cause, *(stays({m for ms in rows.values() for m in ms}, m) for m in MODES)]
        for cause, rows in causes.items()
    ]
    return table(("What a request did", *MODES), lines)


def test_the_tables_name_rows():
    named = {name for name, _ in [*FAILS, *UNSEEN]}
    assert named <= set(ROWS)
    assert not set(FAILS) & set(UNSEEN)


def test_every_row_has_a_name_of_its_own():
    assert sum(len(part.ROWS) for part in PARTS) == len(ROWS)


def test_every_command_of_the_reference_has_an_example(administrator):
    psql = find_binaries() / "psql"
    password = administrator.info.password
    dsn = make_dsn(**parameters(administrator), password=password)
    help = subprocess.run([psql, "-Xc", r"\h", dsn], capture_output=True, text=True)
    _, *lines = help.stdout.splitlines()
    # Two columns; the first line says where the second one begins.
    second = re.match(r"\s+\S.*?\s{2,}", lines[0]).end()
    halves = [half for line in lines for half in (line[:second], line[second:])]
    named = {half.strip() for half in halves} - {""}
    assert len(named) > 180
    assert named - {*commands.EXAMPLES, *commands.NOT_RUN} == set()


def test_every_volatile_function_is_called(administrator):
    listed = {name for (name,) in ask(administrator, functions.LISTED)}
    assert len(listed) > 200
    named = {row.name for row in functions.ROWS} | set(functions.NOT_RUN)
    assert listed - named == set()


@only_psycopg
def test_the_snapshot_has_each_attribute_of_a_connection_of_psycopgs(administrator):
    assert {*vars(administrator)} - half.OTHERS - {*half.ATTRIBUTES} == set()
