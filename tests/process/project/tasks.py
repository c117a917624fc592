"""A Celery app with a broker of files; its tasks do anything to their connection."""

import os

from celery import Celery
from django.db import connection

from tests.documents import code_block
from tests.process.project.middleware import backend_pid

folder = os.environ["TEST_BROKER"]

app = Celery("tests.process.project.tasks")
app.conf.update(
    broker_url="filesystem://",
    broker_transport_options={
        "data_folder_in": folder,
        "data_folder_out": folder,
        "control_folder": f"{folder}/control",
    },
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=1,
)
if os.environ.get("TEST_PSYCOGREEN"):
    exec(code_block("docs/tasks.rst", "patch_psycopg"))


def note(what):
    """Write down that something happened, and on which connection."""
    backend = backend_pid()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO events (pid, backend, what) VALUES (%s, %s, %s)",
            [os.getpid(), backend, what],
        )


@app.task
def notes(what):
    note(what)


@app.task
def holds(key):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock_shared(%s)", [key])
    note("held")


@app.task
def fails():
    note("fails")
    raise ValueError("on purpose")


@app.task
def exits():
    note("exits")
    raise SystemExit("on purpose")


@app.task(bind=True, max_retries=1)
def retries(self):
    note("tries")
    raise self.retry(countdown=0)


@app.task
def calls():
    """Run another task in place, which shares the connection."""
    before = backend_pid()
    notes.apply(args=["inner"])
    note("same" if backend_pid() == before else "another")


@app.task
def leaves_session():
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 12345")
    note("left")


@app.task
def looks():
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        note(f"timeout {cursor.fetchone()[0]}")


@app.task(time_limit=1)
def too_long():
    note("begins")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(3)")
