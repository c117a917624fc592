"""Hide the real psycopg, so that Django runs on psycopg2: see ``tests.library``."""

raise ImportError("psycopg is hidden, because these tests run on psycopg2")
