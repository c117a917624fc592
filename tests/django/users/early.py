"""A query that a project makes before there is a test database."""

import os
import threading
import warnings

from django.db import connection
from django.test import Client


def query(moment):
    """Query if it is this moment that the environment names, maybe in a thread.

    Or send a request, which makes no query and may still connect.
    """
    wanted, _, where = os.environ.get("TEST_EARLY", "").partition("-")
    if wanted == moment:
        with warnings.catch_warnings():
            # Django's, who discourages it.
            warnings.filterwarnings("ignore", "Accessing the database during app")
            if where == "thread":
                thread = threading.Thread(target=_query)
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


def _note(name):
    """Write the database's name to a file, which shows that it came so far."""
    with open(os.environ["TEST_EARLY_DONE"], "a", encoding="utf-8") as file:
        file.write(f"{name}\n")
