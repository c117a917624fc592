"""Which statements may change their session, recognised by their text alone."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import random
import time

import pytest

from dbpool_mw.drivers.postgresql import statements
from dbpool_mw.drivers.postgresql.lexer import read
from dbpool_mw.drivers.postgresql.statements import effect, judge


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
        "SET LOCAL search_path TO 'pg_'\n'temp', public",
        "SELECT set_config('search_path', 'pg_'\n'temp', true)",
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
        ("SET app.note = 'setseed'", None),
        ("SET app.note = 'seed'", None),
        ("SET seed.x = 1", None),
        ("SELECT set_config('app.note', 'load', false)", None),
        ("SET LOCAL seed TO 0.5", "seed"),
        ("DO $$BEGIN PERFORM setseed(0.5); END$$", "setseed"),
        ("DO $$BEGIN PERFORM pg_backup_start('x'); END$$", "pg_backup_start"),
        ("DO 'BEGIN LOAD ''x''; END'", "LOAD"),
        ("DO $$BEGIN NULL; END$$", None),
        ("CREATE EXTENSION pg_trgm", "the load of a library"),
        ('CREATE EXTENSION IF NOT EXISTS "pg_trgm"', "the load of a library"),
        ("ALTER EXTENSION pg_trgm UPDATE TO '1.6'", "the load of a library"),
        ('ALTER EXTENSION "pg_trgm" UPDATE', "the load of a library"),
        ("CREATE TRUSTED LANGUAGE plperl", "the load of a library"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'f'", "the load of a library"),
        ("CREATE OR REPLACE PROCEDURAL LANGUAGE plperl", "the load of a library"),
        ("DO $$BEGIN CREATE EXTENSION pg_trgm; END$$", "CREATE EXTENSION"),
        ("DROP EXTENSION pg_trgm", None),
        ("ALTER EXTENSION pg_trgm SET SCHEMA x", None),
        ("SELECT extension FROM t", None),
        ("SELECT query_to_xml('SELECT setseed(0.5)', true, true, '')", "setseed"),
        ('SELECT U&"set\\0073eed"(0.5)', 'a name in the form U&"…"'),
        ("DO 'BEGIN LO'\n'AD ''x''; END'", "LOAD"),
        ("DO 'BEGIN LO'--a\n\n--b\n'AD'\r' ''x''; END'", "LOAD"),
        ("SELECT query_to_xml('SELECT set'\n'seed(0.5)', true, true, '')", "setseed"),
        ("SELECT set_config('se'\n'ed', '0.5', true)", "seed"),
        (
            "DO $$BEGIN CREATE FUNCTION f() RETURNS int LANGUAGE C AS 'f'; END$$",
            "LANGUAGE C",
        ),
        (
            "DO U&'BEGIN !004cOAD ''x''; END' UESCAPE '!'",
            "a text with escapes that is executed",
        ),
    ],
)
def test_what_no_reset_undoes_is_named(statement, what):
    assert effect(statement).not_resettable == what


@pytest.mark.parametrize(
    ("statement", "with_escapes_on", "with_escapes_off"),
    [
        ("SELECT a LIKE 'b' ESCAPE '\\'", statements.DIRTY, statements.CLEAN),
        ("SELECT replace(a, '/', '\\')", statements.DIRTY, statements.CLEAN),
        ("SELECT 'it\\'s; SET x = 1'", statements.CLEAN, statements.DIRTY),
        ("SELECT 'C:\\\\dir\\\\'", statements.CLEAN, statements.CLEAN),
        ("SELECT E'C:\\\\', 'a'", statements.CLEAN, statements.CLEAN),
        ("SELECT '\\''; SET x = 1; --'", statements.DIRTY, statements.CLEAN),
        ("SELECT '\\'''; SET x = 1; --'", statements.CLEAN, statements.DIRTY),
        ("SELECT B'\\'; SET x = 1; --'", statements.DIRTY, statements.DIRTY),
        ("SELECT E'a' b\n'\\'; SET x = 1; --'", statements.CLEAN, statements.DIRTY),
        ("SELECT E'a'\n'\\'; SET x = 1; --'", statements.CLEAN, statements.CLEAN),
    ],
)
def test_a_backslash_is_read_as_the_server_reads_it(
    statement, with_escapes_on, with_escapes_off
):
    for _ in range(2):
        assert effect(statement, True) == with_escapes_on
        assert effect(statement, False) == with_escapes_off


@pytest.mark.parametrize(
    ("statement", "with_escapes_off"),
    [
        ("DO 'BEGIN \\114OAD ''x''; END'", statements.DIRTY),
        (
            "SELECT query_to_xml('SELECT \\163etseed(1)', true, true, '')",
            statements.DIRTY,
        ),
        ("SELECT set_config('\\163eed', '0.5', true)", statements.CLEAN),
    ],
)
def test_what_an_escape_hides_costs_the_connection(statement, with_escapes_off):
    assert effect(statement, True).not_resettable
    assert effect(statement, False) == with_escapes_off


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 'it has no end",
        "SELECT $$ it has no end",
        "SELECT /* it has no end",
        'SELECT "it has no end',
        "SELECT E'it has no end\\'",
    ],
)
def test_what_the_server_refuses_to_read_costs_no_connection(statement):
    assert effect(statement) == statements.DIRTY


@pytest.mark.parametrize(
    "statement",
    [
        "BEGIN; SET LOCAL search_path TO 'tenant', public",
        "SET LOCAL search_path = tenant, public",
        "SELECT set_config('search_path', 'tenant', true)",
        "SELECT set_config('request.claims', E'{\"a\": \\'b\\'}', true)",
        "SELECT set_config('app.note', 'pg_temp', true)",
    ],
)
def test_a_local_setting_costs_nothing(statement):
    assert effect(statement) == statements.CLEAN


@pytest.mark.parametrize(
    ("statement", "is_final"),
    [
        ("SELECT %s", True),
        ("SELECT %(a)s, %s", True),
        ("SELECT 'a%%b' LIKE %s", True),
        ("SELECT a %% %s", True),
        ("INSERT INTO t VALUES (%s, %s), (%s, %s)", True),
        ("SELECT '%s'", False),
        ("SELECT 'a%%%s'", False),
        ("SELECT /* %s */ 1", False),
        ("SELECT $$%s$$", False),
        ('SELECT "%(a)s"', False),
        ("SELECT 1 -- %s", False),
        ("SELECT 1 /*a='%s'*/", False),
        ("/*a='%s'*/ SELECT 1", False),
        ("SELECT 1 /*a='%%2F'*/", True),
        ("SELECT E%s", False),
        ("SELECT U&%s", False),
        ("SELECT %sE'a'", False),
        ("SELECT %s'a'", False),
        ("SELECT E'a'\n%s", False),
        ("SELECT E'a' -- b\n %(c)s", False),
        ("SELECT E''\n%s", False),
        ("SELECT 'a', 'b', 'c', E''\n%s", False),
        ("SELECT 'a', 'b', 'c', E'd'\n%s", False),
        ("SELECT %s\n'a'", False),
        ("SELECT 'a' /* b */ %s", False),
        ("SELECT E'a',\n%s", True),
        ("SELECT 'a'\nLIKE %s\nFROM e", True),
        ("SELECT %(a')s", False),
        ("SELECT % s", False),
        ("SELECT %5s", False),
        ("%s", False),
        ("DO %s", False),
        ("LOAD %s", False),
        ("CREATE FUNCTION f() RETURNS int AS 'f' LANGUAGE %s", False),
        ("SET LOCAL search_path = %s", False),
        ("SELECT set_config('a.b', %s, true)", False),
    ],
)
def test_parameters_do_not_matter_where_each_is_a_literal_of_its_own(
    statement, is_final
):
    assert judge(statement, lambda: False).is_final == is_final


#: What rules look for, and what stands between.
WORDS = ["set_config('a.b', 'c', false)", "setseed(0.5)", "pg_advisory_lock(1)"]
WORDS += ["dblink('a', 'b')", "pg_create_physical_replication_slot('a')", "temp.t"]
WORDS += ["pg_temp.t", "INTO TEMP t", "query_to_xml('SELECT 1')", "xpath_table('a')"]
WORDS += ["pg_settings", "LANGUAGE C", "LANGUAGE 'c'", 'U&"a"', "U&'a'", "hypopg_x"]
WORDS += ["CREATE EXTENSION a", "ALTER EXTENSION a UPDATE", "CREATE LANGUAGE a"]
WORDS += ["ts_rewrite('a')", "crosstab('a')", "connectby('a')", "isn_weak('a')"]
WORDS += ["SET x = 1", "LOAD 'a'", "DO 'a'", "CREATE TEMP TABLE t", "EXPLAIN ANALYZE "]
WORDS += ["UPDATE ", "INSERT INTO ", "pg_backup_start('a')", "ts_stat('a')"]
BETWEEN = ["", " ", "'", "''", '"', "\\", "\\\\", "--\n", "/**/", "/*", "$", "$$", ";"]
BETWEEN += ["(", "%s", "%%", "é", "_", "\n", "'a', "]


@pytest.mark.parametrize("seed", range(10))
def test_what_is_clean_at_sight_is_clean_when_it_is_read(seed, monkeypatch):
    monkeypatch.setattr(statements, "_LONG", 0)
    monkeypatch.setattr(statements, "_CLOSE", 10**6)
    chance = random.Random(seed)
    whole = 0
    for _ in range(1000):
        words = [chance.choice(["SELECT ", "UPDATE ", "VALUES ", "SET ", "("]), "'a', "]
        for word in chance.choices(WORDS, k=chance.randint(0, 2)):
            cut = chance.randint(0, len(word))
            words += [word[:cut], chance.choice(BETWEEN), word[cut:]]
        words += chance.choices(BETWEEN, k=chance.randint(0, 4))
        text = "".join(words)
        if statements._is_plainly_clean(text):
            for escapes in (False, True):
                code = read(text, escapes)
                if code is not None:
                    assert statements._effect(code, escapes) == statements.CLEAN
                whole += code is not None
    assert whole > 50


def test_no_literal_of_a_long_statement_is_read_that_has_no_sign(monkeypatch):
    rows = ", ".join(["(%s, 'a', 'b')"] * 500)
    monkeypatch.delattr(statements, "read")
    assert effect(f"INSERT INTO t VALUES {rows}") == statements.CLEAN


@pytest.fixture
def kept():
    """Return what was judged before, which is nothing."""
    statements._kept.clear()
    return statements._kept


def test_only_short_statements_are_kept(kept):
    assert effect("SELECT " + "1, " * 1000 + "1") == statements.CLEAN
    assert not kept
    assert effect("SET a.kept = 'x'").dirty
    assert len(kept) == 1


def test_no_more_statements_are_kept_than_memory_is_meant_for(kept):
    for number in range(2 * statements._KEPT):
        effect(f"SELECT {number}")
        assert len(kept) <= statements._KEPT


@pytest.mark.parametrize(
    "form",
    [
        "SELECT 'traced' /*traceparent='00-{:032x}-01'*/",
        "/*dddbs='shop',id='{}'*/ SELECT 'traced'",
        "SELECT 'traced' /*traceparent='00-{:032x}-01'*/;",
        "SELECT 'traced'; /*traceparent='00-{:032x}-01'*/ ;\n",
        "SELECT 'traced' -- req={}",
        "SELECT 'traced'; -- req={}\n",
    ],
)
def test_the_comments_of_tracers_cost_neither_a_reset_nor_a_second_reading(form, kept):
    for number in range(50):
        assert not effect(form.format(number)).dirty
    assert list(kept) == ["SELECT 'traced'"]


def seconds(statement):
    """Return the CPU time of the fastest of three readings of a statement.

    Without the garbage collector, whose time grows with the objects of the whole run.
    """
    times = []
    gc.disable()
    try:
        for _ in range(3):
            began = time.process_time()
            statements._judge(statement, None)
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
    *("x'", "'é", "''x'' $/*-;E", "\\\\'' ", "é", "%s"),
    *("\\'", "\\'$/*-;E", "\\''' ", "''\\x"),
]
CODE = ["- ", "$ ", "$$ ", "set_config(", "INTO ", "(", "; ", "EXPLAIN ", "/* */", "/*"]
CODE += [";", "(1, 'a', -2.5), ", "'a' -- b\n", "E'a' \n", "%s, ", "$a ", "€$"]
CODE += ['""', "--\r", "/*/", "/* * ", "*/*"]
CODE += ['"a", ', "a_to_xmx ", "\\'", "'a', ", "pg_create_x_", "x(", "SET ", "LOCAL "]
# Statements that execute a literal, each with one.
EXECUTING = ["a_to_xml('b'); ", "\"a_to_xml\"('b'), ", "DO 'a'; ", "CALL f('a'); "]
EXECUTING += ["EXPLAIN EXECUTE p('a'); ", "set_config('a', 'b', true), "]


@pytest.fixture(scope="module")
def kept_memory():
    """Have the C library keep freed memory.

    Otherwise it gives long texts back to the system, or doesn't, and getting them anew
    takes as long as reading them.
    """
    trim_threshold, mmap_threshold = -1, -3
    with contextlib.suppress(AttributeError):  # not every C library has it
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, 2**30)
        mallopt(mmap_threshold, 2**25)


@pytest.fixture
def whole_reading(kept_memory, monkeypatch):
    """Have every literal read, of texts without a sign of a change as well."""
    monkeypatch.setattr(statements, "_LONG", 10**9)


@pytest.mark.usefixtures("whole_reading")
@pytest.mark.parametrize("atom", ATOMS)
@pytest.mark.parametrize("opening", ["'", "E'"])
def test_the_time_for_a_literal_grows_with_its_length_and_no_faster(opening, atom):
    def text(size):
        return f"INSERT INTO t VALUES ({opening}{repeated(atom, size)}')"

    # Texts that the processor's caches hold are read in the same time each time.
    assert_linear(text, 100_000)


@pytest.mark.usefixtures("whole_reading")
@pytest.mark.parametrize("atom", CODE)
def test_the_time_for_code_grows_with_its_length_and_no_faster(atom):
    assert_linear(lambda size: f"SELECT {repeated(atom, size)}", 50_000)


@pytest.mark.usefixtures("whole_reading")
@pytest.mark.parametrize("atom", EXECUTING)
def test_the_time_for_statements_that_execute_grows_with_their_number(atom):
    assert_linear(lambda size: f"SELECT {repeated(atom, size)}", 10_000)


@pytest.mark.usefixtures("whole_reading")
def test_the_time_for_spaces_in_a_call_grows_with_their_number_and_no_faster():
    assert_linear(lambda size: f"SELECT set_config('a',{' ' * size}b)", 10_000)


@pytest.mark.usefixtures("kept_memory")
@pytest.mark.parametrize("atom", ["(1, 'a'), ", "(%s, %s), ", "'$' ", "(", "'a"])
def test_the_time_to_look_for_signs_grows_with_the_length_and_no_faster(atom):
    assert_linear(lambda size: f"VALUES {repeated(atom, size)}", 200_000)


def repeated(atom, size):
    """Return an even number of atoms, about so many characters.

    With an odd number the last quote stays open in one of the two texts compared, and
    the reading of that one ends early.
    """
    return atom * (size // len(atom) // 2 * 2)


def assert_linear(text, size):
    single = double = float("inf")
    for _ in range(5):
        # A copy is made in less, and takes longer where the caches are too small.
        single = min(single, max(seconds(text(size)), size * 5e-10))
        double = min(double, seconds(text(2 * size)))
        # Linear time gives 2, its square 4; a busy machine a little more than either.
        if double <= 2.8 * single:
            return
    pytest.fail(f"twice the length takes {double / single:.1f} times as long")
