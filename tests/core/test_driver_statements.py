"""Which statements may change their session, told by their text."""

from __future__ import annotations

import pytest

from dbpool_mw.core.driver import changes_session


@pytest.mark.parametrize(
    "statement",
    [
        "SET statement_timeout = 5",
        "set search_path to x",
        "  \n SET SESSION x = 1",
        "/* traced */ SET TimeZone = 'UTC'",
        "-- why\nSET ROLE someone",
        "SELECT 1; SET a.b = 'c'",
        "SET SESSION AUTHORIZATION x",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "RESET ALL",
        "DISCARD TEMP",
        "LISTEN channel",
        "UNLISTEN *",
        "PREPARE plan AS SELECT 1",
        "DEALLOCATE plan",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "LOAD 'auto_explain'",
        "DO $$ BEGIN NULL; END $$",
        "CALL do_it()",
        "CREATE TEMP TABLE t (a int)",
        "create temporary table t (a int)",
        "CREATE LOCAL TEMPORARY VIEW v AS SELECT 1",
        "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
        "SELECT 1 AS a INTO TEMP t",
        "SELECT set_config('app.user', %s, false)",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_lock_shared(1, 2)",
        "SELECT pg_advisory_unlock(1)",
        "CREATE TABLE pg_temp.t (a int)",
        "SELECT '" + "x" * 3000 + "'; SET a.b = 1",
    ],
)
def test_it_is_noticed(statement):
    assert changes_session(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        'SELECT "shop_product"."id" FROM "shop_product" WHERE "offset" = %s',
        "UPDATE t SET a = 1",
        "UPDATE t\nSET a = 1",
        "INSERT INTO t (a) VALUES (1) ON CONFLICT DO UPDATE SET a = 2",
        "SET LOCAL statement_timeout = 5",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "SET TRANSACTION READ ONLY",
        "SELECT pg_advisory_xact_lock(1)",
        "PREPARE TRANSACTION 'x'",
        "BEGIN",
        "SAVEPOINT s1",
        "ROLLBACK TO SAVEPOINT s1",
        "SELECT settings FROM reset_log",
        "CREATE TABLE temperature (a int)",
        "CREATE INDEX temp ON t (a)",
        "",
    ],
)
def test_it_is_left_alone(statement):
    assert not changes_session(statement)
