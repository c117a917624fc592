"""The driver for psycopg2."""
