"""Statements that hide a change from a reader of their text, and servers that differ.

The reader has to know PostgreSQL's lexical rules: chapter "Lexical Structure" of its
manual.
"""

from __future__ import annotations

from typing import Any

from tests.library import IS_PSYCOPG

from .rows import ANY, Row, Step
from .snapshot import ask

ROWS: list[Row] = []
_SET = "SET app.user_id = '42'"
_CALL = "set_config('app.user_id', '42', false)"

#: How an administrator changes the database that the rows use.
DATABASE = (
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {}', current_database()); END $$"
)


def text(name: str, *steps: Step, **options: Any) -> None:
    """Add a row."""
    ROWS.append(Row(name, steps, **options))


for _name, _sql in {
    "after an empty statement": f";; {_SET}",
    "after a comment": f"-- a\n/* b */ {_SET}",
    "after a tracer's comment": f"/*traceparent='00-0af7651916cd43dd-01'*/ {_SET}",
    "before a tracer's comment": f"{_SET} /*traceparent='00-0af7651916cd43dd-01'*/",
    "after nested comments": f"/* a /* b */ c */ {_SET}",
    "between nested comments": "SET /* a /* b */ c */ app.user_id /**/ = '42'",
    "after a comment with a quote": f"/* ' */ {_SET} -- '",
    "after a comment with a quote, on one line": f"SELECT 1 -- '\n; {_SET}",
    "after a literal with a comment": f"SELECT '/*'; {_SET}; SELECT '*/'",
    "after a literal with two hyphens": f"SELECT '--'; {_SET}",
    "after a doubled quote": f"SELECT 'a''; '; {_SET}",
    "after a literal with a backslash": f"SELECT '\\'; {_SET} --'",
    "after an E literal with a quote": f"SELECT E'\\''; {_SET} --'",
    "after an E literal with a backslash": f"SELECT e'\\\\'; {_SET} --'",
    "after a literal in two parts": f"SELECT 'a'\n'b'; {_SET}",
    "after a U& literal": f"SELECT U&'\\0041'; {_SET}",
    "after an N literal": f"SELECT N'a'; {_SET}",
    "after a bit literal": f"SELECT B'1', X'1F'; {_SET}",
    "after a dollar quote": f"SELECT $$'$$; {_SET}",
    "after a dollar quote with a tag": f"SELECT $a$ $$ ' $b$ $a$; {_SET}",
    "after a name with dollars": f"SELECT 1 AS a$$; {_SET}; SELECT 1 AS a$$",
    "after a quoted identifier": f'SELECT 1 AS "\'"; {_SET}; SELECT 1 AS "\'"',
    "after an identifier with two quotes": f'SELECT 1 AS """"; {_SET} --"',
    "after a quoted identifier with a comment": f'SELECT 1 AS "/*"; {_SET} --*/',
    "after an operator with hyphens": f"SELECT 1 - -1; {_SET}",
    "after numbers": f"SELECT 1e5, .5, 1.; {_SET}",
    "in upper and lower case": "sEt App.User_Id tO '42'",
    "with form feeds": f"\f{_SET}".replace(" ", "\f"),
    "with a vertical tab and tabs": "\tSET\tapp.user_id\t=\t'42'",
    "with a carriage return after a comment": f"-- a\r{_SET}",
    "after a literal that isn't ASCII": f"SELECT 'é'; {_SET}",
    "in parentheses": f"((SELECT {_CALL}))",
    "in a subquery": f"SELECT (SELECT {_CALL})",
    "in a condition": f"SELECT 1 WHERE {_CALL} = '42'",
    "in ORDER BY": f"SELECT 1 ORDER BY {_CALL}",
    "in FROM": f"SELECT * FROM {_CALL}",
    "in ROWS FROM": f"SELECT * FROM ROWS FROM ({_CALL})",
    "in LIMIT": "SELECT 1 LIMIT length(set_config('app.user_id', '42', false))",
    "in RETURNING": f"INSERT INTO o_triggers SELECT 1 WHERE false; SELECT {_CALL}",
    "in a UNION": f"SELECT '1' UNION ALL SELECT {_CALL}",
    "in EXISTS": f"SELECT EXISTS (SELECT 1 WHERE {_CALL} = '42')",
    "with a comment before the arguments": f"SELECT {_CALL}".replace("(", " /**/ ("),
    "qualified": f"SELECT pg_catalog.{_CALL}",
    "qualified with spaces": f"SELECT pg_catalog . {_CALL}",
    "quoted": """SELECT "set_config"('app.user_id', '42', false)""",
    "quoted and qualified": (
        """SELECT "pg_catalog"."set_config"('app.user_id', '42', false)"""
    ),
    "by U&": "SELECT U&\"set\\005fconfig\"('app.user_id', '42', false)",
    "by U& and its own escape": (
        "SELECT U&\"set!005fconfig\" UESCAPE '!' ('app.user_id', '42', false)"
    ),
    "in capitals": "SELECT SET_CONFIG('app.user_id', '42', false)",
    "set_config of two kinds": (
        f"SELECT set_config('app.user_id', '1', true), {_CALL}"
    ),
    "set_config with a computed third argument": (
        "SELECT set_config('app.user_id', '42', 1 = 2)"
    ),
    "set_config with false as text": "SELECT set_config('app.user_id', '42', 'f')",
    "set_config of role": "SELECT set_config('role', 'o_role', false)",
    "set_config of seed": "SELECT set_config('seed', '0.5', false)",
    "set_config of seed, local": "SELECT set_config('seed', '0.5', true)",
    "set_config of the time zone": "SELECT set_config('TimeZone', 'Asia/Tokyo', false)",
    "setseed in a transaction rolled back": "BEGIN; SELECT setseed(0.5); ROLLBACK",
    "setseed quoted": 'SELECT "setseed"(0.5)',
    "setseed by U&": 'SELECT U&"set\\0073eed"(0.5)',
    "SET seed quoted": 'SET "seed" = 0.5',
    "SET of a quoted name": 'SET "app"."user_id" = \'42\'',
    "SET by U&": 'SET U&"app".U&"user\\005fid" = \'42\'',
    "SET of many": f"SET lock_timeout = 5; {_SET}; SET work_mem = '1MB'",
    "a lock beside a lock of the transaction": (
        "SELECT pg_advisory_xact_lock(1), pg_advisory_lock(4711)"
    ),
    "a lock by a cast": "SELECT pg_try_advisory_lock('o_table'::regclass::int, 5)",
    "LOAD quoted otherwise": "LOAD E'auto_\\x65xplain'",
    "LOAD of a path": "LOAD '$libdir/auto_explain'",
    "LOAD after another statement": "SELECT 1; LOAD 'auto_explain'",
    "a slot by named arguments": (
        "SELECT pg_create_physical_replication_slot(temporary => true,"
        " slot_name => 'x_slot')"
    ),
    "hidden in a DO": "DO $x$ BEGIN EXECUTE 'SET app.user_id = 42'; END $x$",
    "hidden in a function's body": (
        f"CREATE OR REPLACE FUNCTION pg_temp.x() RETURNS text LANGUAGE sql"
        f" AS $$ SELECT {_CALL} $$; SELECT pg_temp.x()"
    ),
    "a prepared plan": f"PREPARE x AS SELECT {_CALL}; EXECUTE x; DEALLOCATE x",
    "between dollar quotes with backslashes": (
        f"SELECT $a$ $\\\\a$ $a$; {_SET}; SELECT $a$ $\\\\a$ $a$"
    ),
    "after a comment with backslashes": f"SELECT 1 /* /\\\\* */; {_SET} -- */",
    "after a comment with backslashes and a quote": (
        "SELECT 1 /* *\\\\/ ' */ ; SET app.user_id = $$42$$ --'"
    ),
    "after a name of signs with a dollar": (
        "SELECT 1 AS €$a$; SET app.user_id = $$42$$; SELECT 1 AS €$a$"
    ),
    "after a name with a combining mark": (
        "SELECT 1 AS e\u0301$a$; SET app.user_id = $$42$$; SELECT 1 AS e\u0301$a$"
    ),
    "after a dollar quote with a sign for a tag": f"SELECT $€$ /* $€$; {_SET}; --*/",
    "after an E literal that is continued": f"SELECT E'a'\n'\\''; {_SET} --'",
    "after an E literal that is continued after comments": (
        f"SELECT E'a' -- b\n -- c\n'\\''; {_SET} --'"
    ),
    "setseed in two parts of a literal": (
        "DO 'BEGIN PERFORM set' -- a\n'seed(0.5); END'"
    ),
    "pg_temp in two parts of a literal": (
        "BEGIN; SET LOCAL search_path TO 'pg_'\n'temp'; CREATE TABLE x_table (a int);"
        " COMMIT"
    ),
    "after a literal of six quotes": f"SELECT ''''''; {_SET} --'",
    "after an E literal of four quotes": f"SELECT E'''', '\\'; {_SET} --'",
    "set_config in a comment in capitals": "SELECT o_become('42') /* SET_CONFIG */",
    "set_config of an escaped seed": "SELECT set_config(E'\\x73eed', '0.5', true)",
    "set_config of a composed seed": "SELECT set_config('se' || 'ed', '0.5', true)",
    "set_config of a seed in dollars": "SELECT set_config($$seed$$, '0.5', true)",
    "set_config of a seed in capitals": "SELECT set_config('SEED', '0.5', true)",
    "set_config of a continued seed": "SELECT set_config('se'\n'ed', '0.5', true)",
    "set_config quoted, of a seed": "SELECT \"set_config\"('seed', '0.5', true)",
    "hidden in a DO: setseed": "DO $$ BEGIN PERFORM setseed(0.5); END $$",
    "hidden in a DO: SET seed": "DO 'BEGIN SET LOCAL seed = 0.5; END'",
    "hidden in a DO: LOAD": "DO $$ BEGIN LOAD 'auto_explain'; END $$",
    "hidden in a DO: escapes": "DO E'BEGIN PERFORM set\\x73eed(0.5); END'",
    "hidden in a DO: a slot": (
        "DO $$ BEGIN PERFORM pg_create_physical_replication_slot('x_slot', true, true);"
        " END $$"
    ),
    **{
        f"a temporary table by the path: {setting}": (
            f"BEGIN; {setting}; CREATE TABLE staging (a int); COMMIT"
        )
        for setting in (
            "SET LOCAL search_path TO 'pg_temp', public",
            "SET LOCAL \"search_path\" TO 'pg_temp'",
            "SET LOCAL search_path TO E'pg_\\x74emp'",
            "SET LOCAL search_path TO U&'pg\\005ftemp'",
            "SET LOCAL SCHEMA 'pg_temp'",
            "SELECT set_config('search_path', 'pg_temp', true)",
            "SELECT set_config('search_path', 'pg_' || 'temp', true)",
            "SELECT set_config('search_path', E'pg_\\x74emp', true)",
        )
    },
}.items():
    text(f"text: {_name}", _sql)

# --- Servers whose defaults differ ----------------------------------------------------

_OFF = DATABASE.format("SET standard_conforming_strings = off")
_ON = DATABASE.format("RESET standard_conforming_strings")
for _name, _sql in {
    "a quote after a backslash": f"SELECT 'it\\'s'; {_SET} --'",
    "two backslashes": f"SELECT '\\\\'; {_SET} --'",
    "a call": f"SELECT 'it\\'s', {_CALL} --'",
}.items():
    text(
        f"standard_conforming_strings off: {_name}",
        _sql,
        before=_OFF,
        after=_ON,
        until=18,
    )
text(
    "standard_conforming_strings off: a parameter",
    lambda raw: raw.cursor().execute("SELECT %s; " + _SET, ["it\\'s"]),
    before=_OFF,
    after=_ON,
    until=18,
)
for _setting, _value, _other in [
    ("DateStyle", "German", "SQL, DMY"),
    ("IntervalStyle", "iso_8601", "postgres_verbose"),
    ("bytea_output", "escape", "hex"),
    ("TimeZone", "Europe/Berlin", "Asia/Tokyo"),
    ("client_encoding", "LATIN1", "SQL_ASCII"),
    ("default_transaction_isolation", "serializable", "repeatable read"),
    ("extra_float_digits", "0", "3"),
]:
    _on = DATABASE.format(f"SET {_setting} = ''{_value}''")
    _off = DATABASE.format(f"RESET {_setting}")
    text(f"{_setting} of the database: nothing", "SELECT 1", before=_on, after=_off)
    text(f"{_setting} of the database: a reset", _SET, before=_on, after=_off)
    text(
        f"{_setting} of the database: another",
        f"SET {_setting} = '{_other}'",
        before=_on,
        after=_off,
    )


def reload(name: str, value: str) -> Step:
    """Change a default of the server while the holder has the connection."""
    return lambda raw: _reload(raw, f"ALTER SYSTEM SET {name} = '{value}'")


def _reload(raw: Any, statement: str) -> None:
    """Reload the configuration, and wait until this session has read it.

    A setting that nobody uses shows that: it gets another value in the same reload.
    """
    ask(raw, statement)
    ((before,),) = ask(raw, "SHOW cursor_tuple_fraction")
    ask(raw, f"ALTER SYSTEM SET cursor_tuple_fraction = {1.1 - float(before):.1f}")
    ask(raw, "SELECT pg_reload_conf()")
    for _ in range(2000):
        if ask(raw, "SHOW cursor_tuple_fraction") != [(before,)]:
            return
        ask(raw, "SELECT pg_sleep(0.005)")
    raise RuntimeError("the server has not read its configuration")


def _restored(raw: Any) -> None:
    """Give the server its own defaults back."""
    _reload(raw, "ALTER SYSTEM RESET ALL")


text(
    "text: a parameter that continues an E literal",
    lambda raw: raw.cursor().execute(
        "SELECT E'a'\n%s", ["\\'; SET app.user_id TO t42; --"]
    ),
    # psycopg writes an E before the quote, so that nothing continues.
    error=ANY if IS_PSYCOPG else None,
)
text(
    "text: hidden in a query to XML",
    "SELECT query_to_xml('SELECT setseed(0.5)', true, true, '')",
    error=ANY,  # a server may be built without XML
)
for _name in ("local$", "local€"):
    text(f"a setting of {_name}", f"SET {_name}.x = '42'")
text(
    "€ before an E literal",
    "SELECT €E'\\'; SET app.user_id = $$42$$; --'",
    before='CREATE DOMAIN "€e" AS text',
    after='DROP DOMAIN "€e"',
)
text(
    "reload: standard_conforming_strings, from off to on",
    reload("standard_conforming_strings", "on"),
    before=lambda raw: _reload(
        raw, "ALTER SYSTEM SET standard_conforming_strings = off"
    ),
    after=_restored,
    until=18,
)
for _setting, _value in [
    # The order of day and month is the same: only what Django relies on changes.
    ("DateStyle", "SQL, MDY"),
    ("IntervalStyle", "iso_8601"),
    ("TimeZone", "Europe/Berlin"),
    ("client_encoding", "LATIN1"),
    ("standard_conforming_strings", "off"),
    ("bytea_output", "escape"),
]:
    text(
        f"reload: {_setting}",
        reload(_setting, _value),
        after=_restored,
    )
