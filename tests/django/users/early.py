"""A query that a project makes before its test database exists."""

import os
import threading
import warnings

from django.db import connection
from django.test import Client


def query(moment):
    """Query if ``moment`` is the one in the environment variable TEST_EARLY.

    TEST_EARLY is "ready" or "import". With "-thread" appended the query is made in
    another thread; with "-request" a request without queries is made instead, at whose
    start the middleware may connect.
    """
    wanted, _, where = os.environ.get("TEST_EARLY", "").partition("-")
    if wanted == moment:
        with warnings.catch_warnings():
            # Django warns of queries before all apps are ready.
            warnings.filterwarnings("ignore", "Accessing the database during app")
            if where == "thread":
                thread = threading.Thread(target=_query_and_leave)
                thread.start()
                thread.join()
            elif where == "request":
                assert Client().get("/plain/").content == b"plain"
                _note(connection.settings_dict["NAME"])
            else:
                _query()


def _query():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        (name,) = cursor.fetchone()
    _note(name)


def _query_and_leave():
    _query()
    if connection.Database.__name__ == "psycopg":
        # psycopg warns of a connection that its thread leaves open.
        connection.close()


def _note(name):
    """Append the name of the queried database to the file that the tests read."""
    with open(os.environ["TEST_EARLY_DONE"], "a", encoding="utf-8") as file:
        file.write(f"{name}\n")
