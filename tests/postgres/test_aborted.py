"""A holder that lost its connection after MAX_HOLD commits nothing, in any way."""

from __future__ import annotations

import pytest

from dbpool_mw.core.errors import HoldTooLong
from tests.library import only_psycopg, only_psycopg2
from tests.vocabulary import Error, connect, driver, execute, tracked


def leave_with(connection):
    with connection:
        pass


def run(sql):
    return lambda connection: execute(connection, sql)


def leave_pipeline(connection):
    with connection.pipeline():
        connection.execute("COMMIT")


@pytest.mark.parametrize("two_phase", [False, True])
@pytest.mark.parametrize(
    "commit",
    [
        lambda connection: connection.commit(),
        leave_with,
        lambda connection: setattr(connection, "autocommit", True),
        lambda connection: connection.tpc_prepare(),
        lambda connection: connection.tpc_commit(),
        run("COMMIT"),
        run("PREPARE TRANSACTION 'x'"),
        pytest.param(
            lambda connection: connection.set_session(autocommit=True),
            marks=only_psycopg2,
        ),
        pytest.param(leave_pipeline, marks=only_psycopg),
        pytest.param(
            lambda connection: connection.execute("COMMIT"), marks=only_psycopg
        ),
    ],
)
def test_after_an_abort_no_way_to_commit_works(postgres, database, commit, two_phase):
    dsn = postgres.dsn(database)
    held, other = tracked(dsn), connect(dsn, autocommit=True)
    execute(other, "CREATE TABLE IF NOT EXISTS held_too_long (a int)")
    try:
        if two_phase:
            held.tpc_begin("x")
        execute(held, "INSERT INTO held_too_long VALUES (1)")
        driver.abort(held, HoldTooLong("too long"))
        with pytest.raises(Error):
            commit(held)
        assert execute(other, "SELECT count(*) FROM held_too_long") == (0,)
    finally:
        held.close()
        execute(other, "DROP TABLE held_too_long")
        other.close()


def abort_in_a_block(held):
    with held.transaction():
        execute(held, "INSERT INTO held_too_long VALUES (1)")
        driver.abort(held, HoldTooLong("too long"))


@only_psycopg
def test_after_an_abort_a_transaction_block_commits_nothing(postgres, database):
    dsn = postgres.dsn(database)
    held, other = tracked(dsn), connect(dsn, autocommit=True)
    execute(other, "CREATE TABLE IF NOT EXISTS held_too_long (a int)")
    try:
        with pytest.raises(HoldTooLong):
            abort_in_a_block(held)
        assert execute(other, "SELECT count(*) FROM held_too_long") == (0,)
    finally:
        held.close()
        execute(other, "DROP TABLE held_too_long")
        other.close()
