"""At least one example of every SQL command of PostgreSQL's reference.

A key is the command as psql's help lists it. Names of what the examples make begin with
x_, of what they find with o_ (see rows.SCENERY).
"""

from __future__ import annotations

from .rows import Row

EXAMPLES: dict[str, list[Row]] = {}

#: Commands that no test runs, and why.
NOT_RUN: dict[str, str] = {}


def example(
    command: str,
    *steps: str,
    name: str = "",
    before: str = "",
    after: str = "",
    error: str | None = None,
    since: int = 0,
    until: int = 99,
) -> None:
    """Add an example of a command."""
    name = f"{command}: {name}" if name else command
    row = Row(name, steps or (command,), before, after, error, since, until)
    EXAMPLES.setdefault(command, []).append(row)


def life(
    kind: str,
    create: str,
    alter: str | None,
    drop: str,
    before: str = "",
    after: str = "",
    altered: str = "",
    since: int = 0,
) -> None:
    """Add the examples of CREATE, ALTER and DROP of one kind of object.

    ``altered`` ends the life of what was altered, if ``drop`` can't.
    """
    common = {"since": since}
    example(f"CREATE {kind}", create, before=before, after=f"{drop};{after}", **common)
    if alter is not None:
        made = f"{before};{create}"
        gone = f"{altered or drop};{after}"
        example(f"ALTER {kind}", alter, before=made, after=gone, **common)
    example(f"DROP {kind}", drop, before=f"{before};{create}", after=after, **common)


# --- Objects of the database, which every session sees --------------------------------

life(
    "AGGREGATE",
    "CREATE AGGREGATE x_sum (int) (SFUNC = int4pl, STYPE = int)",
    "ALTER AGGREGATE x_sum (int) OWNER TO CURRENT_USER",
    "DROP AGGREGATE x_sum (int)",
)
life(
    "ACCESS METHOD",
    "CREATE ACCESS METHOD x_method TYPE INDEX HANDLER bthandler",
    None,
    "DROP ACCESS METHOD x_method",
)
life(
    "CAST",
    "CREATE CAST (text AS point) WITH INOUT",
    None,
    "DROP CAST (text AS point)",
)
life(
    "COLLATION",
    'CREATE COLLATION x_collation FROM "C"',
    "ALTER COLLATION x_collation OWNER TO CURRENT_USER",
    "DROP COLLATION x_collation",
)
life(
    "CONVERSION",
    "CREATE CONVERSION x_conversion FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
    "ALTER CONVERSION x_conversion OWNER TO CURRENT_USER",
    "DROP CONVERSION x_conversion",
)
life(
    "DATABASE",
    "CREATE DATABASE x_database",
    "ALTER DATABASE x_database CONNECTION LIMIT 5",
    "DROP DATABASE x_database",
)
life(
    "DOMAIN",
    "CREATE DOMAIN x_domain AS int",
    "ALTER DOMAIN x_domain SET NOT NULL",
    "DROP DOMAIN x_domain",
)
life(
    "EVENT TRIGGER",
    "CREATE EVENT TRIGGER x_event ON sql_drop EXECUTE FUNCTION o_event()",
    "ALTER EVENT TRIGGER x_event DISABLE",
    "DROP EVENT TRIGGER x_event",
)
life(
    "EXTENSION",
    "CREATE EXTENSION citext",
    "ALTER EXTENSION citext UPDATE",
    "DROP EXTENSION citext",
)
life(
    "FOREIGN DATA WRAPPER",
    "CREATE FOREIGN DATA WRAPPER x_wrapper",
    "ALTER FOREIGN DATA WRAPPER x_wrapper OPTIONS (ADD x '1')",
    "DROP FOREIGN DATA WRAPPER x_wrapper",
)
life(
    "SERVER",
    "CREATE SERVER x_server FOREIGN DATA WRAPPER o_wrapper",
    "ALTER SERVER x_server VERSION '2'",
    "DROP SERVER x_server",
)
life(
    "USER MAPPING",
    "CREATE USER MAPPING FOR CURRENT_USER SERVER o_elsewhere",
    "ALTER USER MAPPING FOR CURRENT_USER SERVER o_elsewhere OPTIONS (ADD x '1')",
    "DROP USER MAPPING FOR CURRENT_USER SERVER o_elsewhere",
)
life(
    "FOREIGN TABLE",
    "CREATE FOREIGN TABLE x_foreign (a int) SERVER o_elsewhere",
    "ALTER FOREIGN TABLE x_foreign ADD COLUMN b int",
    "DROP FOREIGN TABLE x_foreign",
)
life(
    "FUNCTION",
    "CREATE FUNCTION x_function() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER FUNCTION x_function() IMMUTABLE",
    "DROP FUNCTION x_function()",
)
life(
    "GROUP",
    "CREATE GROUP x_group",
    "ALTER GROUP x_group ADD USER o_role",
    "DROP GROUP x_group",
)
life(
    "INDEX",
    "CREATE INDEX x_index ON o_table (b)",
    "ALTER INDEX x_index SET (fillfactor = 90)",
    "DROP INDEX x_index",
)
life(
    "LANGUAGE",
    "CREATE LANGUAGE x_language HANDLER plpgsql_call_handler",
    "ALTER LANGUAGE x_language OWNER TO CURRENT_USER",
    "DROP LANGUAGE x_language",
)
example(
    "ALTER LARGE OBJECT",
    "ALTER LARGE OBJECT 4711 OWNER TO CURRENT_USER",
    before="SELECT lo_create(4711)",
    after="SELECT lo_unlink(4711)",
)
life(
    "MATERIALIZED VIEW",
    "CREATE MATERIALIZED VIEW x_stored AS SELECT 1 AS a",
    "ALTER MATERIALIZED VIEW x_stored OWNER TO CURRENT_USER",
    "DROP MATERIALIZED VIEW x_stored",
)
life(
    "OPERATOR",
    "CREATE OPERATOR #@# (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl)",
    "ALTER OPERATOR #@# (int, int) OWNER TO CURRENT_USER",
    "DROP OPERATOR #@# (int, int)",
)
life(
    "OPERATOR FAMILY",
    "CREATE OPERATOR FAMILY x_family USING btree",
    "ALTER OPERATOR FAMILY x_family USING btree OWNER TO CURRENT_USER",
    "DROP OPERATOR FAMILY x_family USING btree",
)
life(
    "OPERATOR CLASS",
    "CREATE OPERATOR CLASS x_class FOR TYPE int USING btree AS OPERATOR 1 <",
    "ALTER OPERATOR CLASS x_class USING btree OWNER TO CURRENT_USER",
    "DROP OPERATOR CLASS x_class USING btree",
    after="DROP OPERATOR FAMILY x_class USING btree",
)
life(
    "POLICY",
    "CREATE POLICY x_policy ON o_table",
    "ALTER POLICY x_policy ON o_table TO PUBLIC",
    "DROP POLICY x_policy ON o_table",
)
life(
    "PROCEDURE",
    "CREATE PROCEDURE x_procedure() LANGUAGE sql AS ''",
    "ALTER PROCEDURE x_procedure() SECURITY DEFINER",
    "DROP PROCEDURE x_procedure()",
)
example(
    "ALTER ROUTINE",
    "ALTER ROUTINE x_procedure() OWNER TO CURRENT_USER",
    before="CREATE PROCEDURE x_procedure() LANGUAGE sql AS ''",
    after="DROP PROCEDURE x_procedure()",
)
example(
    "DROP ROUTINE",
    "DROP ROUTINE x_procedure()",
    before="CREATE PROCEDURE x_procedure() LANGUAGE sql AS ''",
)
life(
    "PUBLICATION",
    "CREATE PUBLICATION x_publication FOR TABLE o_table",
    "ALTER PUBLICATION x_publication SET (publish = 'insert')",
    "DROP PUBLICATION x_publication",
)
life(
    "ROLE",
    "CREATE ROLE x_role",
    "ALTER ROLE x_role SET work_mem = '8MB'",
    "DROP ROLE x_role",
)
life(
    "RULE",
    "CREATE RULE x_rule AS ON DELETE TO o_log DO INSTEAD NOTHING",
    "ALTER RULE x_rule ON o_log RENAME TO x_other",
    "DROP RULE x_rule ON o_log",
    altered="DROP RULE x_other ON o_log",
)
life(
    "SCHEMA",
    "CREATE SCHEMA x_schema",
    "ALTER SCHEMA x_schema OWNER TO CURRENT_USER",
    "DROP SCHEMA x_schema",
)
life(
    "SEQUENCE",
    "CREATE SEQUENCE x_sequence",
    "ALTER SEQUENCE x_sequence RESTART",
    "DROP SEQUENCE x_sequence",
)
life(
    "STATISTICS",
    "CREATE STATISTICS x_statistics ON a, b FROM o_table",
    "ALTER STATISTICS x_statistics SET STATISTICS 50",
    "DROP STATISTICS x_statistics",
)
life(
    "SUBSCRIPTION",
    "CREATE SUBSCRIPTION x_subscription CONNECTION 'dbname=nowhere' PUBLICATION x"
    " WITH (connect = false, slot_name = NONE)",
    "ALTER SUBSCRIPTION x_subscription OWNER TO CURRENT_USER",
    "DROP SUBSCRIPTION x_subscription",
)
life(
    "TABLE",
    "CREATE TABLE x_table (a int)",
    "ALTER TABLE x_table ADD COLUMN b int",
    "DROP TABLE x_table",
)
life(
    "TABLESPACE",
    "CREATE TABLESPACE x_space LOCATION ''",
    "ALTER TABLESPACE x_space SET (seq_page_cost = 2)",
    "DROP TABLESPACE x_space",
    since=15,
)
life(
    "TEXT SEARCH CONFIGURATION",
    "CREATE TEXT SEARCH CONFIGURATION x_config (COPY = simple)",
    "ALTER TEXT SEARCH CONFIGURATION x_config OWNER TO CURRENT_USER",
    "DROP TEXT SEARCH CONFIGURATION x_config",
)
life(
    "TEXT SEARCH DICTIONARY",
    "CREATE TEXT SEARCH DICTIONARY x_words (TEMPLATE = simple)",
    "ALTER TEXT SEARCH DICTIONARY x_words (Accept = true)",
    "DROP TEXT SEARCH DICTIONARY x_words",
)
life(
    "TEXT SEARCH PARSER",
    "CREATE TEXT SEARCH PARSER x_parser (START = prsd_start, GETTOKEN = prsd_nexttoken,"
    " END = prsd_end, LEXTYPES = prsd_lextype)",
    "ALTER TEXT SEARCH PARSER x_parser SET SCHEMA public",
    "DROP TEXT SEARCH PARSER x_parser",
)
life(
    "TEXT SEARCH TEMPLATE",
    "CREATE TEXT SEARCH TEMPLATE x_template (INIT = dsimple_init,"
    " LEXIZE = dsimple_lexize)",
    "ALTER TEXT SEARCH TEMPLATE x_template SET SCHEMA public",
    "DROP TEXT SEARCH TEMPLATE x_template",
)
life(
    "TRANSFORM",
    "CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION"
    " prsd_lextype(internal), TO SQL WITH FUNCTION int4recv(internal))",
    None,
    "DROP TRANSFORM FOR int LANGUAGE sql",
)
life(
    "TRIGGER",
    "CREATE TRIGGER x_trigger BEFORE UPDATE ON o_table FOR EACH ROW"
    " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "ALTER TRIGGER x_trigger ON o_table RENAME TO x_other",
    "DROP TRIGGER x_trigger ON o_table",
    altered="DROP TRIGGER x_other ON o_table",
)
life(
    "TYPE",
    "CREATE TYPE x_type AS (a int)",
    "ALTER TYPE x_type ADD ATTRIBUTE b int",
    "DROP TYPE x_type",
)
life(
    "USER",
    "CREATE USER x_user",
    "ALTER USER x_user CONNECTION LIMIT 5",
    "DROP USER x_user",
)
life(
    "VIEW",
    "CREATE VIEW x_view AS SELECT 1 AS a",
    "ALTER VIEW x_view ALTER a SET DEFAULT 2",
    "DROP VIEW x_view",
)
example(
    "ALTER DEFAULT PRIVILEGES",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO o_role",
    after="ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM o_role",
)
example(
    "ALTER SYSTEM",
    "ALTER SYSTEM SET cursor_tuple_fraction = 0.2",
    after="ALTER SYSTEM RESET cursor_tuple_fraction",
)
example("ANALYZE", "ANALYZE o_table")
example("CHECKPOINT")
example("CLUSTER", "CLUSTER o_table USING o_table_pkey")
example("COMMENT", "COMMENT ON TABLE o_table IS 'SET app.user_id = 42'")
example(
    "CREATE TABLE AS", "CREATE TABLE x_table AS SELECT 1", after="DROP TABLE x_table"
)
example(
    "DROP OWNED",
    "DROP OWNED BY x_role",
    before="CREATE ROLE x_role",
    after="DROP ROLE x_role",
)
example(
    "REASSIGN OWNED",
    "REASSIGN OWNED BY x_role TO CURRENT_USER",
    before="CREATE ROLE x_role",
    after="DROP ROLE x_role",
)
example("GRANT", "GRANT SELECT ON o_table TO o_role")
example("REVOKE", "REVOKE SELECT ON o_table FROM o_role")
example(
    "IMPORT FOREIGN SCHEMA",
    "CREATE SCHEMA x_schema",
    "IMPORT FOREIGN SCHEMA public LIMIT TO (o_table) FROM SERVER o_here INTO x_schema",
    after="DROP SCHEMA x_schema CASCADE",
)
example("REFRESH MATERIALIZED VIEW", "REFRESH MATERIALIZED VIEW o_stored")
example("REINDEX", "REINDEX TABLE o_table")
example("SECURITY LABEL", "SECURITY LABEL ON TABLE o_table IS 'secret'", error="22023")
example("SELECT INTO", "SELECT 1 AS a INTO x_table", after="DROP TABLE x_table")
example("TRUNCATE", "TRUNCATE o_log")
example("VACUUM", "VACUUM o_table")

# --- Rows -----------------------------------------------------------------------------

example("COPY", "COPY o_log (a) FROM PROGRAM 'echo 1'", name="FROM")
example("COPY", "COPY o_table TO PROGRAM 'cat >/dev/null'", name="TO")
example(
    "COPY",
    "COPY (SELECT set_config('app.user_id', '42', false)) TO PROGRAM 'cat >/dev/null'",
    name="of a function",
)
example("DELETE", "DELETE FROM o_log WHERE a = 5")
example("INSERT", "INSERT INTO o_child (a) VALUES (1)", after="DELETE FROM o_child")
example("INSERT", "INSERT INTO o_log (a) VALUES (5)", name="into a serial column")
example("INSERT", "INSERT INTO o_triggers VALUES (1)", name="with a trigger")
example("INSERT", "INSERT INTO o_default (a) VALUES (1)", name="with a default")
example(
    "INSERT",
    "INSERT INTO o_child SELECT 1 WHERE set_config('app.user_id', '42', false) = '42'",
    name="of a function",
    after="DELETE FROM o_child",
)
example(
    "MERGE",
    "MERGE INTO o_table AS t USING (VALUES (1)) AS v (a) ON t.a = v.a"
    " WHEN MATCHED THEN UPDATE SET b = 1",
    since=15,
)
example(
    "MERGE",
    "MERGE INTO o_table AS t USING (VALUES (1)) AS v (a) ON t.a = v.a WHEN MATCHED"
    " THEN UPDATE SET b = length(set_config('app.user_id', '42', false))",
    name="with a function",
    since=15,
)
example("SELECT", "SELECT a FROM o_table WHERE b = 1 FOR UPDATE")
example("SELECT", "SELECT o_become('42')", name="a function that sets")
example("SELECT", "SELECT o_seeds()", name="a function that seeds")
example("SELECT", "SELECT * FROM o_view", name="a view that sets")
example("SELECT", "SELECT a FROM o_foreign", name="from a server of postgres_fdw")
example("TABLE", "TABLE o_table")
example("TABLE", "TABLE o_view", name="a view that sets")
example("UPDATE", "UPDATE o_table SET b = 1 WHERE a = 1")
for _name, _table in {
    "pg_settings": "pg_settings",
    "pg_settings, qualified": "pg_catalog.pg_settings",
    "pg_settings, quoted": '"pg_settings"',
    "pg_settings, ONLY": "ONLY pg_settings",
    "pg_settings, with an alias": "pg_settings AS s",
    "pg_settings, after a comment": "/* all */ PG_Settings",
    "pg_settings, by U&": 'U&"pg\\005fsettings"',
}.items():
    example(
        "UPDATE",
        f"UPDATE {_table} SET setting = '5s' WHERE name = 'statement_timeout'",
        name=_name,
    )
example(
    "UPDATE",
    "UPDATE o_table SET b = 1 WHERE a = 1"
    " AND set_config('app.user_id', '42', false) = '42'",
    name="with a function",
)
example("VALUES", "VALUES (1), (2)")
example("VALUES", "VALUES (set_config('app.user_id', '42', false))", name="a function")
example("WITH", "WITH x AS (SELECT 1) SELECT * FROM x")
example(
    "WITH",
    "WITH x AS MATERIALIZED (SELECT set_config('app.user_id', '42', false))"
    " SELECT * FROM x",
    name="a function",
)
example(
    "WITH",
    "WITH x AS (INSERT INTO o_log (a) VALUES (5) RETURNING id) SELECT * FROM x",
    name="INSERT into a serial column",
)

# --- Transactions ---------------------------------------------------------------------

_SET = "SET app.user_id = '42'"
for _end in ("ABORT", "ROLLBACK"):
    example(_end, "BEGIN", _SET, _end)
    example(_end, f"BEGIN; {_SET}; {_end} AND CHAIN", name="AND CHAIN")
for _end in ("COMMIT", "END"):
    example(_end, "BEGIN", "SELECT 1", _end)
    example(_end, "BEGIN", _SET, _end, name="of a setting")
    example(_end, "BEGIN", f"{_end} AND CHAIN", name="AND CHAIN")
for _begin in ("BEGIN", "START TRANSACTION"):
    example(_begin, _begin)
    example(_begin, f"{_begin} READ ONLY; {_SET}; COMMIT", name="and a setting")
    example(
        _begin, f"{_begin} ISOLATION LEVEL SERIALIZABLE, READ ONLY", name="of a kind"
    )
_PREPARED = "PREPARE TRANSACTION 'x_prepared'"
_BEGUN = f"BEGIN; INSERT INTO o_child VALUES (1); {_PREPARED}"
_GONE = "DELETE FROM o_child"
example(
    "PREPARE TRANSACTION",
    "BEGIN",
    "INSERT INTO o_child VALUES (1)",
    _PREPARED,
    after="ROLLBACK PREPARED 'x_prepared'",
)
example(
    "PREPARE TRANSACTION",
    "BEGIN",
    _SET,
    _PREPARED,
    name="of a setting",
    after="ROLLBACK PREPARED 'x_prepared'",
)
example("COMMIT PREPARED", "COMMIT PREPARED 'x_prepared'", before=_BEGUN, after=_GONE)
example("ROLLBACK PREPARED", "ROLLBACK PREPARED 'x_prepared'", before=_BEGUN)
example("SAVEPOINT", "BEGIN", "SAVEPOINT s")
example("RELEASE SAVEPOINT", "BEGIN", "SAVEPOINT s", _SET, "RELEASE s", "COMMIT")
example(
    "ROLLBACK TO SAVEPOINT", "BEGIN", _SET, "SAVEPOINT s", "ROLLBACK TO s", "COMMIT"
)
example("LOCK", "BEGIN", "LOCK TABLE o_table", "COMMIT")
example("LOCK", "BEGIN", "LOCK TABLE o_table", name="kept")
example("SET CONSTRAINTS", "BEGIN", "SET CONSTRAINTS ALL DEFERRED", "COMMIT")
example("SET CONSTRAINTS", "SET constraints.user_id = '42'", name="a setting's prefix")
example("SET TRANSACTION", "BEGIN", "SET TRANSACTION READ ONLY", "COMMIT")
example("SET TRANSACTION", "SET transaction.user_id = '42'", name="a setting's prefix")
example(
    "SET TRANSACTION",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    name="SESSION CHARACTERISTICS",
)
example(
    "SET TRANSACTION",
    "BEGIN; SET TRANSACTION READ ONLY; COMMIT; " + _SET,
    name="and a setting after it",
)

# --- The session ----------------------------------------------------------------------

example("SET", _SET)
for _sql in (
    "SET LOCAL app.user_id = '42'",
    "SET SESSION app.user_id = '42'",
    "SET local.user_id = '42'",
    "SET session.user_id = '42'",
    "SET session session.user_id = '42'",
    "SET local local.user_id = '42'; SET local.user_id = '42'",
    "SET statement_timeout TO '5s'",
    "SET statement_timeout = 0",
    "SET search_path = pg_catalog",
    "SET SCHEMA 'pg_catalog'",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SET TIME ZONE LOCAL",
    "SET NAMES 'LATIN1'",
    "SET SEED TO 0.5",
    "SET LOCAL SEED TO 0.5",
    "SET seed = 0.5",
    "SET XML OPTION DOCUMENT",
    "SET datestyle = 'German'",
    "SET bytea_output = 'escape'",
    "SET default_transaction_isolation = 'serializable'",
    "SET session_replication_role = 'replica'",
    "SET application_name = 'somebody'",
    "SET default_tablespace = ''",
    "SET transaction_read_only = on",
    "SET local_preload_libraries = 'auto_explain'",
    "SET session_preload_libraries = 'auto_explain'",
    "SET isn.weak = on",
):
    example("SET", _sql, name=_sql)
example("RESET", "RESET statement_timeout")
example("RESET", "RESET ALL", name="ALL")
example("RESET", "RESET TimeZone", name="TimeZone")
example("RESET", "RESET SESSION AUTHORIZATION", name="SESSION AUTHORIZATION")
example("SHOW", "SHOW ALL")
example("SET ROLE", "SET ROLE o_role")
example("SET ROLE", "SET LOCAL ROLE o_role", name="LOCAL")
example("SET ROLE", "BEGIN; SET LOCAL ROLE o_role; COMMIT", name="of a transaction")
example("SET SESSION AUTHORIZATION", "SET SESSION AUTHORIZATION o_role")
example(
    "SET SESSION AUTHORIZATION",
    "SET LOCAL SESSION AUTHORIZATION o_role",
    name="LOCAL",
)
example("CALL", "CALL o_nothing()")
example("CALL", "CALL o_procedure()", name="a procedure that sets")
example("DO", "DO 'BEGIN END'")
example(
    "DO",
    "DO $$ BEGIN PERFORM set_config('app.user_id', '42', false); END $$",
    name="a block that sets",
)
example("DECLARE", "BEGIN", "DECLARE c CURSOR FOR SELECT 1", "COMMIT")
example("DECLARE", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", name="WITH HOLD")
example(
    "DECLARE",
    "BEGIN; DECLARE c CURSOR FOR SELECT 1",
    name="in an open transaction",
)
example("FETCH", "BEGIN", "DECLARE c CURSOR FOR SELECT 1", "FETCH c", "COMMIT")
example("MOVE", "BEGIN", "DECLARE c CURSOR FOR SELECT 1", "MOVE c", "COMMIT")
example("CLOSE", "CLOSE ALL")
for _what in ("ALL", "PLANS", "SEQUENCES", "TEMP"):
    example("DISCARD", f"DISCARD {_what}", name=_what)
example("LISTEN", "LISTEN somebody")
example("LISTEN", "LISTEN somebody", "NOTIFY somebody, 'secret'", name="and hear")
example("UNLISTEN", "UNLISTEN *")
example("NOTIFY", "NOTIFY somebody, 'secret'")
example("LOAD", "LOAD 'auto_explain'")
example("LOAD", "LOAD 'plpgsql'", name="of a language that is installed")
example("PREPARE", "PREPARE plan AS SELECT 1")
example("DEALLOCATE", "DEALLOCATE ALL")
example(
    "EXECUTE",
    "PREPARE plan AS SELECT set_config('app.user_id', '42', false)",
    "EXECUTE plan",
)
example("EXPLAIN", "EXPLAIN SELECT set_config('app.user_id', '42', false)")
example(
    "EXPLAIN", "EXPLAIN ANALYZE SELECT * FROM o_view", name="ANALYZE a view that sets"
)
example(
    "EXPLAIN",
    "EXPLAIN (ANALYZE) SELECT set_config('app.user_id', '42', false)",
    name="ANALYZE of a function",
)
example(
    "EXPLAIN",
    "EXPLAIN ANALYZE CREATE TEMP TABLE x_table AS SELECT 1",
    name="ANALYZE of CREATE TEMP TABLE",
)
example(
    "EXPLAIN",
    "EXPLAIN (ANALYZE, COSTS off) CREATE TABLE pg_temp.x_table AS SELECT 1",
    name="ANALYZE of CREATE TABLE pg_temp",
)
for _command, _sql in [
    ("CREATE TABLE", "CREATE TEMP TABLE x (a int)"),
    ("CREATE TABLE", "CREATE TEMPORARY TABLE IF NOT EXISTS x (a int)"),
    ("CREATE TABLE", "CREATE LOCAL TEMP TABLE x (a int)"),
    ("CREATE TABLE", "CREATE GLOBAL TEMPORARY TABLE x (a int)"),
    ("CREATE TABLE", "CREATE TABLE pg_temp.x (a int)"),
    ("CREATE TABLE", 'CREATE TABLE "pg_temp".x (a int)'),
    ("CREATE TABLE", 'CREATE TABLE U&"pg\\005ftemp".x (a int)'),
    ("CREATE TABLE", "CREATE /* a /* b */ c */ TEMP TABLE x (a int)"),
    ("CREATE TABLE", "CREATE -- \n TEMP TABLE x (a serial)"),
    ("CREATE TABLE AS", "CREATE TEMP TABLE x AS SELECT 1 AS a"),
    ("CREATE TABLE AS", "CREATE TABLE pg_temp.x AS SELECT 1 AS a"),
    ("SELECT INTO", "SELECT 1 AS a INTO TEMP x"),
    ("SELECT INTO", "SELECT 1 AS a INTO TEMPORARY TABLE x"),
    ("SELECT INTO", "SELECT 1 AS a INTO pg_temp.x"),
    ("SELECT INTO", "WITH y AS (SELECT 1 AS a) SELECT a INTO LOCAL TEMP x FROM y"),
    ("CREATE VIEW", "CREATE TEMP VIEW x AS SELECT 1 AS a"),
    ("CREATE VIEW", "CREATE OR REPLACE TEMPORARY VIEW x AS SELECT 1 AS a"),
    ("CREATE VIEW", "CREATE VIEW pg_temp.x AS SELECT 1 AS a"),
    ("CREATE VIEW", "CREATE TEMP RECURSIVE VIEW x (a) AS SELECT 1"),
    ("CREATE SEQUENCE", "CREATE TEMP SEQUENCE x"),
    ("CREATE SEQUENCE", "CREATE SEQUENCE pg_temp.x"),
    ("CREATE TYPE", "CREATE TYPE pg_temp.x AS (a int)"),
    ("CREATE DOMAIN", "CREATE DOMAIN pg_temp.x AS int"),
    (
        "CREATE FUNCTION",
        "CREATE FUNCTION pg_temp.x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ),
    ("CREATE PROCEDURE", "CREATE PROCEDURE pg_temp.x() LANGUAGE sql AS ''"),
    (
        "CREATE AGGREGATE",
        "CREATE AGGREGATE pg_temp.x (int) (SFUNC = int4pl, STYPE = int)",
    ),
    ("CREATE COLLATION", 'CREATE COLLATION pg_temp.x FROM "C"'),
    (
        "CREATE OPERATOR",
        "CREATE OPERATOR pg_temp.#@# (RIGHTARG = int, FUNCTION = int4um)",
    ),
    ("CREATE OPERATOR FAMILY", "CREATE OPERATOR FAMILY pg_temp.x USING btree"),
    (
        "CREATE TEXT SEARCH CONFIGURATION",
        "CREATE TEXT SEARCH CONFIGURATION pg_temp.x (COPY = simple)",
    ),
    (
        "CREATE TEXT SEARCH DICTIONARY",
        "CREATE TEXT SEARCH DICTIONARY pg_temp.x (TEMPLATE = simple)",
    ),
]:
    example(_command, _sql, name=_sql)
example(
    "CREATE FOREIGN TABLE",
    "CREATE FOREIGN TABLE pg_temp.x (a int) SERVER o_elsewhere",
    name="pg_temp",
)
example(
    "CREATE FUNCTION",
    "CREATE FUNCTION x_function() RETURNS int LANGUAGE c AS 'auto_explain', 'nothing'",
    name="loads a library",
    error="42883",
)
example(
    "ALTER FUNCTION",
    "ALTER FUNCTION o_become(text) SET work_mem FROM CURRENT",
    name="FROM CURRENT",
    after="ALTER FUNCTION o_become(text) RESET ALL",
)
example(
    "ALTER ROLE",
    "ALTER ROLE CURRENT_USER SET lock_timeout = '7s'",
    name="of the own role",
    after="ALTER ROLE CURRENT_USER RESET lock_timeout",
)
example(
    "ALTER DATABASE",
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET lock_timeout = ''7s''',"
    " current_database()); END $$",
    name="of the own database",
    after="DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET lock_timeout',"
    " current_database()); END $$",
)

ROWS = [row for rows in EXAMPLES.values() for row in rows]
