"""The driver for psycopg 3."""
