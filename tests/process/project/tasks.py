"""A Celery app whose tasks use their connection in every way; its broker is files."""

import os
import tempfile
import time

from celery import Celery
from celery.signals import worker_init, worker_shutdown
from django.db import connection
from kombu.transport import filesystem

from tests.documents import code_block
from tests.library import IS_PSYCOPG
from tests.process.project.middleware import backend_pid

folder = os.environ["TEST_BROKER"]


class Channel(filesystem.Channel):
    """Kombu's channel, but a message appears in the folder only when it is complete."""

    def _put(self, queue, payload, **kwargs):
        with tempfile.TemporaryDirectory(dir=folder) as hidden:
            self.data_folder_out = hidden
            super()._put(queue, payload, **kwargs)
            for name in os.listdir(hidden):
                os.rename(os.path.join(hidden, name), os.path.join(folder, name))


filesystem.Transport.Channel = Channel
app = Celery("tests.process.project.tasks")
app.conf.update(
    broker_url="filesystem://",
    broker_transport_options={
        "data_folder_in": folder,
        "data_folder_out": folder,
        "control_folder": f"{folder}/control",
        "polling_interval": 0.05,
    },
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=1,
)
if not IS_PSYCOPG:
    exec(code_block("docs/tasks.rst", "patch_psycopg"))

if os.environ.get("TEST_PARENT_QUERIES"):
    # These receivers run after Celery's, which closes open connections.
    @worker_init.connect
    def queries_before_the_fork(**kwargs):
        note("before")

    @worker_shutdown.connect
    def queries_after_the_children(**kwargs):
        note("behind")


def note(what):
    """Insert an event, with this process and its backend, into the table."""
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


@app.task
def waits():
    """Keep the connection until a signal ends the task."""
    note("waits")
    while True:  # short sleeps: a signal just before a sleep doesn't end that sleep
        time.sleep(0.05)


@app.task(soft_time_limit=1)
def waits_a_second():
    waits()


@app.task(bind=True, max_retries=1)
def retries(self):
    note("tries")
    raise self.retry(countdown=0)


@app.task
def calls():
    """Call another task in place, which shares the connection."""
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
