"""Which statements may change their session, recognised by their text alone."""

from __future__ import annotations

import pytest

from dbpool_mw.drivers.postgresql import statements
from dbpool_mw.drivers.postgresql.statements import changes_session


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
        "SET/* c */ x = 1",
        'SET"search_path" TO x',
        "SET\tx = 1",
        "SET LOCAL a.b = 1; SET a.b = 2",
        "BEGIN; SET x = 1; COMMIT",
        "-- old line ends\rSET x = 1",
        "-- why\r\nSET x = 1",
        "SET TIME ZONE 'UTC'",
        "SET NAMES 'latin1'",
        "SET LOCALE_THING = 1",
        "RESET SESSION AUTHORIZATION",
        'PREPARE"plan" AS SELECT 1',
        "PREPARE transactions AS SELECT 1",
        "UNLISTEN channel",
        "(DECLARE c CURSOR FOR SELECT 1)",
        "CREATE GLOBAL TEMP TABLE t (a int)",
        "CREATE TEMP SEQUENCE s",
        "SELECT a INTO LOCAL TEMPORARY TABLE t FROM u",
        "SELECT pg_catalog.set_config('a.b', 'c', false)",
        "WITH x AS (SELECT set_config('a.b', 'c', false)) SELECT * FROM x",
        "SELECT set_limit(0.2)",
        "SELECT setseed(0.5)",
        "SELECT dblink_connect_u('c', 'dbname=x')",
        "SELECT pg_advisory_unlock_all()",
        "SELECT pg_try_advisory_lock(1)",
        "set_config",
        "EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1",
        "explain (analyze, costs off)\ncreate temporary table t as select 1",
        "CREATE /* c */ TEMP TABLE t (a int)",
        "CREATE/**/TEMP TABLE t (a int)",
        "CREATE -- why\n TEMP TABLE t (a int)",
        "CREATE OR /* c */ REPLACE /* * / */ TEMP VIEW v AS SELECT 1",
        "CREATE LOCAL /* c */ TEMPORARY TABLE t (a int)",
        "SELECT 1 AS a INTO /* c */ TEMP t",
        "CREATE TABLE pg_temp_3.t (a int)",
        "SELECT pg_replication_origin_session_setup('o')",
        "SELECT pg_replication_origin_session_reset()",
        "SELECT pg_create_physical_replication_slot('s', true, true)",
        "WITH x AS (SELECT 1) SELECT set_config('a.b', 'c', false) FROM x",
        "SET /* a /* b */ LOCAL */ x = 1",
    ],
)
def test_a_statement_that_may_change_its_session_is_recognised(statement):
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
        "SET  LOCAL statement_timeout = 5",
        "set\nlocal x = 1",
        "/* traced */ SET LOCAL x = 1",
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "INSERT INTO temporal (a) VALUES (1)",
        "INSERT INTO t (a) SELECT 1 ON CONFLICT DO NOTHING",
        "SELECT 1 -- SET x = 1",
        "SELECT offset_set, reset, do, call FROM t",
        "SELECT * FROM t WHERE a = 'x' /* from a view */",
        "SELECT pg_try_advisory_xact_lock_shared(1)",
        "ALTER ROLE x SET a.b = 1",
        "ALTER TABLE t ALTER COLUMN a SET NOT NULL",
        "NOTIFY channel",
        "FETCH 5 FROM c",
        "RELEASE SAVEPOINT s1",
        "SETTLE",
        "PREPARED",
        "EXPLAIN SELECT temp FROM weather",
        "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1",
        "CREATE /* TEMP */ TABLE t (a int)",
        "INSERT INTO /* c */ temps (a) VALUES (1)",
        "SELECT pg_replication_origin_oid('o'), pg_temperature FROM t",
        "",
    ],
)
def test_a_statement_that_leaves_its_session_unchanged_is_not_recognised(statement):
    assert not changes_session(statement)


def test_only_short_statements_are_cached():
    kept = statements._changes_session_cached.cache_info
    before = kept().currsize
    long = "SELECT " + "1, " * 1000 + "1"
    assert not changes_session(long)
    assert kept().currsize == before
    assert changes_session("SET a.cached = 'x'")
    assert kept().currsize == before + 1
