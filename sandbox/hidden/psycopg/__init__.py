"""Hide the real psycopg, so that Django runs on psycopg2.

For processes that have this folder's parent in ``PYTHONPATH``.
"""

raise ImportError("psycopg is hidden, because this process runs on psycopg2")
