"""What a session is, told by the server and by the library, and what can change it.

Written from the manuals of PostgreSQL, psycopg and psycopg2 and from the server's
catalogs, not from dbpool_mw's own list of what changes a session: the two must not
agree by descent.
"""
