"""A holder that lost its connection after MAX_HOLD commits nothing, in any way."""

from __future__ import annotations

import psycopg2
import pytest

from dbpool_mw.core.errors import HoldTooLong
from dbpool_mw.drivers.psycopg2 import driver
from dbpool_mw.drivers.psycopg2.connection import tracked_connection


def leave_with(connection):
    with connection:
        pass


def execute(sql):
    return lambda connection: connection.cursor().execute(sql)


@pytest.mark.parametrize("two_phase", [False, True])
@pytest.mark.parametrize(
    "commit",
    [
        lambda connection: connection.commit(),
        leave_with,
        lambda connection: setattr(connection, "autocommit", True),
        lambda connection: connection.set_session(autocommit=True),
        lambda connection: connection.tpc_prepare(),
        lambda connection: connection.tpc_commit(),
        execute("COMMIT"),
        execute("PREPARE TRANSACTION 'x'"),
    ],
)
def test_after_an_abort_no_way_to_commit_works(postgres, database, commit, two_phase):
    dsn = postgres.dsn(database)
    held = psycopg2.connect(dsn, connection_factory=tracked_connection())
    other = psycopg2.connect(dsn)
    other.autocommit = True
    cursor = other.cursor()
    cursor.execute("CREATE TABLE IF NOT EXISTS held_too_long (a int)")
    try:
        if two_phase:
            held.tpc_begin("x")
        held.cursor().execute("INSERT INTO held_too_long VALUES (1)")
        driver.abort(held, HoldTooLong("too long"))
        with pytest.raises(psycopg2.Error):
            commit(held)
        cursor.execute("SELECT count(*) FROM held_too_long")
        assert cursor.fetchone() == (0,)
    finally:
        held.close()
        cursor.execute("DROP TABLE held_too_long")
        other.close()
