"""Rows whose changes reach the next holder: to be mended, or seen by no pool.

Rows are of commands, functions, ways and texts, by their names.
"""

from __future__ import annotations

BOTH = ("auto", "always")
AUTO = ("auto",)
ALWAYS = ("always",)

#: Cause: rows that fail today, and the modes of RESET. Each mend removes its rows.
KNOWN: dict[str, dict[str, tuple[str, ...]]] = {
    "notices stay on a connection that isn't reset": {
        "ALTER EXTENSION": AUTO,
        "CREATE SUBSCRIPTION": AUTO,
        "SET ROLE: LOCAL": AUTO,
        "SET SESSION AUTHORIZATION: LOCAL": AUTO,
        "SET: SET LOCAL app.user_id = '42'": AUTO,
        "a notice of DROP IF EXISTS": AUTO,
        "a notice of a function": AUTO,
        "a notice of a transaction's statement": AUTO,
        "check_constraints()": AUTO,
        "notices = None": AUTO,
        "notices appended to": AUTO,
        "pg_log_backend_memory_contexts(integer)": AUTO,
        "pg_rotate_logfile()": AUTO,
    },
    "DISCARD ALL unloads no library": {
        "CREATE FUNCTION: loads a library": BOTH,
        "LOAD": BOTH,
        "text: LOAD after another statement": BOTH,
        "text: LOAD of a path": BOTH,
        "text: LOAD quoted otherwise": BOTH,
    },
    "nested comments aren't read": {
        "CREATE TABLE: CREATE /* a /* b */ c */ TEMP TABLE x (a int)": AUTO,
    },
    "an identifier with Unicode escapes isn't read": {
        'CREATE TABLE: CREATE TABLE U&"pg\\005ftemp".x (a int)': AUTO,
        "text: by U&": AUTO,
        "text: by U& and its own escape": AUTO,
    },
    "psycopg2's SET datestyle is undone by DISCARD ALL": {
        "DateStyle of the database: a reset": BOTH,
        "DateStyle of the database: another": BOTH,
        "DateStyle of the database: nothing": ALWAYS,
    },
    "a setting's prefix is taken for SET LOCAL and its like": {
        "SET CONSTRAINTS: a setting's prefix": AUTO,
        "SET TRANSACTION: a setting's prefix": AUTO,
        "SET: SET local local.user_id = '42'; SET local.user_id = '42'": AUTO,
        "SET: SET local.user_id = '42'": AUTO,
    },
    "DISCARD ALL doesn't undo setseed(), nor SET seed, which is the same": {
        "SET: SET LOCAL SEED TO 0.5": BOTH,
        "SET: SET SEED TO 0.5": BOTH,
        "SET: SET seed = 0.5": BOTH,
        "text: SET seed quoted": BOTH,
        "text: set_config of seed": BOTH,
        "text: set_config of seed, local": BOTH,
        "text: setseed by U&": BOTH,
    },
    "an UPDATE of pg_settings isn't noticed": {
        "UPDATE: pg_settings": AUTO,
        "UPDATE: pg_settings, ONLY": AUTO,
        "UPDATE: pg_settings, after a comment": AUTO,
        "UPDATE: pg_settings, by U&": AUTO,
        "UPDATE: pg_settings, qualified": AUTO,
        "UPDATE: pg_settings, quoted": AUTO,
        "UPDATE: pg_settings, with an alias": AUTO,
    },
    "a cursor that the connection didn't make isn't seen": {
        "a cursor made by a class of the application's": AUTO,
        "a cursor made by its class: CREATE TEMP TABLE x (a int)": AUTO,
        "a cursor made by its class: SELECT pg_advisory_lock(4711)": AUTO,
        "a cursor made by its class: SELECT setseed(0.5)": BOTH,
        "a cursor made by its class: SET app.user_id = '42'": AUTO,
        "a method of psycopg2's class on a tracked cursor": AUTO,
        "a named cursor made by its class": AUTO,
    },
    "type casters of the connection stay": {
        "binary_types changed": BOTH,
        "register_composite()": BOTH,
        "register_default_json()": BOTH,
        "register_default_jsonb()": BOTH,
        "register_hstore()": BOTH,
        "register_range()": BOTH,
        "register_type()": BOTH,
        "register_type() of bytes": BOTH,
        "register_type(UNICODE)": BOTH,
        "register_uuid()": BOTH,
        "string_types changed": BOTH,
        "string_types cleared": BOTH,
    },
    "the text is judged without its parameters": {
        "execute: AsIs": AUTO,
        "execute: AsIs after SELECT": AUTO,
        "execute: AsIs by name": BOTH,
        "execute: AsIs within": AUTO,
        "execute: a parameter that quotes itself": AUTO,
        "execute: a second statement by AsIs": AUTO,
    },
    "the function isn't known to change a setting": {
        "isn_weak(boolean)": AUTO,
    },
    "a list that replaced psycopg2's own stays": {
        "notices = UserList()": BOTH,
        "notices replaced by a list that is kept": BOTH,
        "notices replaced, and a notice": BOTH,
        "notifies replaced by a list that is kept": BOTH,
    },
    "notifies stay on a connection that isn't reset": {
        "notifies appended to": AUTO,
    },
    "DISCARD ALL ends no backup": {
        "pg_backup_start(text,boolean)": BOTH,
    },
    "DISCARD ALL drops no temporary replication slot": {
        "pg_copy_logical_replication_slot(name,name,boolean)": BOTH,
        "pg_copy_logical_replication_slot(name,name,boolean,name)": BOTH,
        "pg_copy_physical_replication_slot(name,name,boolean)": BOTH,
        "pg_create_logical_replication_slot(name,name,boolean,boolean,boolean)": BOTH,
        "pg_create_physical_replication_slot(name,boolean,boolean)": BOTH,
        "text: a slot by named arguments": BOTH,
    },
    "the session follows a reload of a setting that Django relies on": {
        "reload: DateStyle": BOTH,
        "reload: TimeZone": AUTO,
    },
    "psycopg2's own encoding stays": {
        "set_client_encoding('LATIN1')": BOTH,
        "set_client_encoding('SQL_ASCII')": BOTH,
    },
}

#: What docs/sessions.rst says that no pool sees: rows, and modes of RESET.
NOT_SEEN: dict[str, dict[str, tuple[str, ...]]] = {
    "``ALTER ROLE`` or ``ALTER DATABASE … SET``, for its own sessions": {
        "ALTER DATABASE: of the own database": BOTH,
        "ALTER ROLE: of the own role": BOTH,
    },
    "values of a sequence (``currval()``, ``lastval()``), also by ``INSERT``": {
        "COPY: FROM": AUTO,
        "INSERT: into a serial column": AUTO,
        "WITH: INSERT into a serial column": AUTO,
        "copy_expert(), FROM into a serial column": AUTO,
        "currval(regclass)": AUTO,
        "lastval()": AUTO,
        "nextval(regclass)": AUTO,
        "setval(regclass,bigint)": AUTO,
        "setval(regclass,bigint,boolean)": AUTO,
    },
    "a change within a function, trigger, view or column default": {
        "EXPLAIN: ANALYZE a view that sets": AUTO,
        "INSERT: with a default": AUTO,
        "INSERT: with a trigger": AUTO,
        "SELECT: a function that sets": AUTO,
        "SELECT: a view that sets": AUTO,
        "TABLE: a view that sets": AUTO,
        "callproc('o_become')": AUTO,
        "copy_expert(), FROM with a trigger": AUTO,
    },
    "a query of a foreign table: its server's connection stays open": {
        "IMPORT FOREIGN SCHEMA": BOTH,
        "SELECT: from a server of postgres_fdw": BOTH,
        "postgres_fdw_disconnect_all()": BOTH,
    },
    "attributes added to psycopg2's connection object": {
        "an attribute of the application's own": BOTH,
    },
}
