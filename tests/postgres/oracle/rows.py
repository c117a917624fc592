"""The form of the corpus: what one holder does in its session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: SQL for Django's cursor, or a function of the library's connection. What a function
#: returns is kept until the test has ended, as in a global of the application.
Step = str | Callable[[Any], object]


ANY = "any"


@dataclass(frozen=True)
class Row:
    """Something that a holder does.

    ``before`` and ``after`` are steps of an administrator, on a plain connection in
    autocommit, before the pool's connection is opened and after the test. ``error`` is
    the SQLSTATE, or the class, of the error that ends the steps; ANY: the server may
    refuse. ``since`` is the first version of PostgreSQL that can do it, ``until`` the
    last, as in 15.
    """

    name: str
    steps: tuple[Step, ...]
    before: Step = ""
    after: Step = ""
    error: str | type[Exception] | None = None
    since: int = 0
    until: int = 99


#: What the rows find in the database.
SCENERY = """
    CREATE TABLE o_table (a int PRIMARY KEY, b int);
    INSERT INTO o_table SELECT n, n FROM generate_series(1, 9) AS n;
    CREATE TABLE o_log (id serial, a int);
    CREATE TABLE o_child (a int REFERENCES o_table (a) DEFERRABLE);
    CREATE SEQUENCE o_sequence;
    CREATE ROLE o_role;
    CREATE FUNCTION o_event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
    CREATE FUNCTION o_login() RETURNS event_trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM set_config('session.user_id', '42', false),
            set_config('search_path', 'pg_catalog', false); END $$;
    CREATE FUNCTION o_notice() RETURNS int LANGUAGE plpgsql
        AS 'BEGIN RAISE NOTICE ''secret''; RETURN 1; END';
    CREATE FUNCTION o_become(name text) RETURNS text LANGUAGE sql
        AS $$ SELECT set_config('app.user_id', name, false) $$;
    CREATE FUNCTION o_seeds() RETURNS void LANGUAGE sql AS $$ SELECT setseed(0.5) $$;
    CREATE FUNCTION o_become_by_trigger() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM set_config('app.user_id', '42', false); RETURN NEW; END $$;
    CREATE TABLE o_triggers (a int);
    CREATE TRIGGER o_becomes BEFORE INSERT ON o_triggers FOR EACH ROW
        EXECUTE FUNCTION o_become_by_trigger();
    CREATE TABLE o_default (a int, b text DEFAULT o_become('42'));
    CREATE VIEW o_view AS SELECT set_config('app.user_id', '42', false);
    CREATE PROCEDURE o_procedure() LANGUAGE sql
        AS $$ SELECT set_config('app.user_id', '42', false) $$;
    CREATE PROCEDURE o_nothing() LANGUAGE sql AS '';
    CREATE FOREIGN DATA WRAPPER o_wrapper;
    CREATE SERVER o_elsewhere FOREIGN DATA WRAPPER o_wrapper;
    CREATE MATERIALIZED VIEW o_stored AS SELECT 1 AS a;
    CREATE EXTENSION dblink;
    CREATE EXTENSION hstore;
    CREATE EXTENSION isn;
    CREATE EXTENSION pg_trgm;
    CREATE EXTENSION postgres_fdw;
    CREATE EXTENSION tablefunc;
    CREATE SERVER o_here FOREIGN DATA WRAPPER postgres_fdw
        OPTIONS (host '{host}', port '{port}', dbname '{dbname}');
    CREATE USER MAPPING FOR CURRENT_USER SERVER o_here
        OPTIONS (user '{user}', password '{password}');
    CREATE FOREIGN TABLE o_foreign (a int) SERVER o_here OPTIONS (table_name 'o_table');
"""
