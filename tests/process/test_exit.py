"""The end of a process: nothing is printed or left that plain Django doesn't."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.process.projects import Project

BEGINNING = """
import sys, threading, time
import django
django.setup()
from django.db import connection
from dbpool_mw import pooled

def query():
    with pooled(), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
"""

DAEMONS = """
done = [threading.Event() for _ in range(3)]
def work(event):
    while True:
        query()
        event.set()
for event in done:
    threading.Thread(target=work, args=[event], daemon=True).start()
for event in done:
    assert event.wait(20)
"""

#: The first checkout comes when the main thread has ended.
LATE = """
def work():
    threading.main_thread().join()
    query()
    print("served")
threading.Thread(target=work).start()
"""

#: The first checkout comes when the pools were closed at the exit.
AT_EXIT = """
import atexit
from dbpool_mw.binding import registry
def late():
    query()
    print("served")
query()
# What is registered last runs first.
atexit.unregister(registry.close_at_exit)
atexit.register(late)
atexit.register(registry.close_at_exit)
"""


@pytest.mark.parametrize(
    ("script", "said"), [(DAEMONS, ""), (LATE, "served\n"), (AT_EXIT, "served\n")]
)
def test_threads_that_query_while_the_process_ends_print_and_leave_nothing(
    project: Project, script: str, said: str
) -> None:
    project.settings["LOGGING"] = {}
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-c", BEGINNING + script],
            env=project.environ,
            text=True,
            capture_output=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
        left = list(project.control.glob("*")) if project.control.exists() else []
        assert [path.name for path in left if path.suffix == ".sock"] == []
