"""Which statements may change their session, recognised by their text alone."""

from __future__ import annotations

import gc
import time

import pytest

from dbpool_mw.drivers.postgresql import statements
from dbpool_mw.drivers.postgresql.statements import effect


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
        "SET local.user_id = '42'",
        "SET transaction.x = '1'",
        "UPDATE pg_settings SET setting = '5s' WHERE name = 'statement_timeout'",
        'UPDATE "pg_settings" SET "setting" = %s',
        "WITH x AS (UPDATE pg_catalog.pg_settings SET setting = 'a') SELECT 1",
        "CREATE /* a /* b */ c */ TEMP TABLE t (a int)",
        """SELECT "pg_catalog"."set_config"('a.b', 'c', true)""",
        """SELECT U&"set\\005fconfig"('a.b', 'c', false)""",
        "EXECUTE plan",
        "EXPLAIN ANALYZE EXECUTE plan",
        "EXPLAIN (ANALYZE) EXPLAIN ANALYZE EXECUTE plan",
        "EXPLAIN ANALYZE CREATE" + " " * 500 + "TEMP TABLE t AS SELECT 1",
        "%s",
        "SELECT 'has no end",
        "SELECT $$ has no end",
        "SELECT /* has no end",
        'SELECT "has no end',
        "SELECT set_config('a.b', 'c', true), set_config('a.b', 'c', false)",
        "SELECT set_config('a.b', 'c', %s)",
        "SELECT set_config('a.b', 'c', is_local => false)",
        "SELECT set_config('a.b', set_config('c.d', 'e', false), true)",
        "SELECT E'\\''; SET x = 1; --'",
        "SELECT '\\'; SET x = 1; SELECT '\\'",
        "SELECT audit() /* set_config */",
        "SELECT audit() -- set_config",
        "/* set_config */ SELECT audit()",
        "SELECT 1 -- /*\n; SET x = 1 -- */",
        "SELECT '/*'; SET x = 1; SELECT '*/",
        "SELECT 'it''s'; SET x = 1",
        "SELECT $a$ $b$ $a$; SET x = 1",
        "SELECT a$b$; SET x = 1; SELECT $b$",
        "SELECT query_to_xml('SELECT 1', true, true, '')",
        "PREPARE transaction AS SELECT 1",
        "SETTLE",
        "PREPARED",
        "FROBNICATE",
    ],
)
def test_it_is_noticed(statement):
    assert effect(statement).dirty


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
        "EXPLAIN SELECT temp FROM weather",
        "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1",
        "CREATE /* TEMP */ TABLE t (a int)",
        "INSERT INTO /* c */ temps (a) VALUES (1)",
        "SELECT pg_replication_origin_oid('o'), pg_temperature FROM t",
        "",
        "SELECT set_config('a.b', 'c', true)",
        "SELECT pg_catalog.set_config('a', f(1, (2)), TRUE ), set_config('c','d',true)",
        "SELECT set_config('a.b', 'c', is_local => true)",
        "/*traceparent='00-4bf92f3577b34da6a3ce929d0e0e4736'*/ SELECT 1",
        "SELECT 1 /*route='%2Fset',traceparent='00-4bf92f3577b34da6a3ce929d0e0e4736'*/",
        "SELECT '--x' || '/*' || $$ SET x $$",
        "SELECT 'it''s; SET x = 1'",
        "SELECT E'it\\'s; SET x = 1'",
        "SELECT $tag$ it's $$ /* $tag$",
        "SELECT a$b$, c$b$ FROM t",
        "EXPLAIN (ANALYZE, COSTS OFF) SELECT 1",
        "(SELECT 1) UNION (SELECT 2)",
        "SELECT * FROM pg_settings",
        'SELECT "a""b; SET" FROM t',
        "SELECT '\\x6162'::bytea",
        "SELECT 1;",
        " ; ;",
        "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE",
    ],
)
def test_it_is_left_alone(statement):
    assert not effect(statement).dirty


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("SELECT setseed(0.5)", "setseed"),
        ("SELECT 1; LOAD 'auto_explain'", "LOAD"),
        ("SELECT dblink_connect_u('c', 'dbname=x')", "dblink_connect_u"),
        (
            "SELECT pg_create_physical_replication_slot('s', true, true)",
            "pg_create_physical_replication_slot",
        ),
        (
            "SELECT pg_replication_origin_session_setup('o')",
            "pg_replication_origin_session_setup",
        ),
        ("SELECT pg_backup_start('x')", "pg_backup_start"),
        ("SET a.b = 1; SELECT setseed(0.5)", "setseed"),
        ("SET a.b = 1", None),
        ("SELECT 'setseed'", None),
    ],
)
def test_what_no_reset_undoes_is_named(statement, what):
    assert effect(statement).not_resettable == what


def test_only_short_statements_are_cached():
    kept = statements._cached_effect.cache_info
    before = kept().currsize
    assert effect("SELECT " + "1, " * 1000 + "1") == statements.CLEAN
    assert kept().currsize == before
    assert effect("SET a.cached = 'x'").dirty
    assert kept().currsize == before + 1


def test_the_comments_of_tracers_do_not_defeat_the_cache():
    kept = statements._cached_effect.cache_info
    before = kept().currsize
    for number in range(50):
        assert not effect(
            f"SELECT 'traced' /*traceparent='00-{number:032x}-01'*/"
        ).dirty
        assert not effect(f"/*dddbs='shop',id='{number}'*/ SELECT 'traced'").dirty
    assert kept().currsize <= before + 1


def seconds(statement):
    """Return the CPU time of the fastest of some readings of a statement.

    Without the garbage collector, whose time grows with the objects of the whole run.
    """
    times = []
    gc.disable()
    try:
        for _ in range(5):
            began = time.process_time()
            statements._effect(statement)
            times.append(time.process_time() - began)
    finally:
        gc.enable()
    return min(times)


#: What hostile data is made of: each once took time that grew with the square of its
#: length, or would do so in a lexer written carelessly.
ATOMS = [
    *("x", "-", "--x ", "--bs-btn-color:var(--x);", "''", "'' ", "it''s ", "/*", "*/"),
    *("*/EXPLAIN ", "--\nexplain x ", "into --", "temp into/* ", "; SET x ", "$$"),
    *("$a$", '"', "set_config(", "pg_temp_x into -- ", "\n", "(", "\\\\", "\\\\''"),
]
CODE = ["- ", "$ ", "$$ ", "set_config(", "INTO ", "(", "; ", "EXPLAIN ", "/* */", "/*"]
CODE += ['"a", ', "a_to_xmx ", "\\'", "'a', ", "pg_create_x_", "x(", "SET ", "LOCAL "]


@pytest.mark.parametrize("atom", ATOMS)
@pytest.mark.parametrize("opening", ["'", "E'"])
def test_the_time_for_a_literal_grows_with_its_length_and_no_faster(opening, atom):
    def text(size):
        return f"INSERT INTO t VALUES ({opening}{repeated(atom, size)}')"

    assert_linear(text, 1_000_000)


@pytest.mark.parametrize("atom", CODE)
def test_the_time_for_code_grows_with_its_length_and_no_faster(atom):
    assert_linear(lambda size: f"SELECT {repeated(atom, size)}", 100_000)


def repeated(atom, size):
    """Return an even number of atoms, about so many characters.

    With an odd number the last quote stays open in one of the two texts compared, and
    the reading of that one ends early.
    """
    return atom * (size // len(atom) // 2 * 2)


def assert_linear(text, size):
    for _ in range(5):
        ratio = seconds(text(2 * size)) / max(seconds(text(size)), 1e-6)
        if ratio <= 2.2:
            return
    pytest.fail(f"twice the length takes {ratio:.1f} times as long")
