"""A signal whose handler raises in the middle of a query.

psycopg2 handles signals only when the server has answered.
"""

from __future__ import annotations

from tests.library import only_psycopg
from tests.process.servers import wait_until

INTERRUPTED = """
import signal
import django
django.setup()
from django.db import connection
from dbpool_mw import pooled
from dbpool_mw.binding import registry

class Limit(Exception):
    pass

def limit(number, frame):
    raise Limit

def limited():
    with pooled(), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        cursor.execute("SELECT pg_sleep(60)")

signal.signal(signal.SIGALRM, limit)
for _ in range(3):
    try:
        limited()
    except Limit:
        stats = registry.pools()[0].stats()
        print(stats["in_use"], stats["discarded"])
"""


@only_psycopg
def test_a_signal_ends_a_query_here_and_at_the_server(project):
    done = project.run("-c", INTERRUPTED)
    lines = "".join(f"0 {{'busy': {n}}}\n" for n in (1, 2, 3))
    assert done.stdout == lines, done.stderr
    wait_until(lambda: project.backends() == [], "the server ended the queries")
