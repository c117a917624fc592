"""Processes that eventlet has patched are refused, once and clearly."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("eventlet") is None, reason="no eventlet: pip install --group test"
)

TEXT = "eventlet has patched Python, and a pool can't run in its greenlets."
INSTEAD = "Use gevent instead, or threads"

SCRIPT = """
import eventlet
eventlet.monkey_patch()
import django
django.setup()
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection
from dbpool_mw import pooled, stats

try:
    with pooled():
        connection.ensure_connection()
except ImproperlyConfigured as error:
    print("block:", error)
assert stats() == []
try:
    import tests.process.project.wsgi
except ImproperlyConfigured as error:
    print("server:", error)
call_command("check")
"""


def test_blocks_servers_and_the_check_say_what_to_use(project):
    done = project.run("-W", "ignore", "-c", SCRIPT)
    block, server = done.stdout.split("server:")
    assert block.startswith(f"block: {TEXT} {INSTEAD}")
    for text in (server, done.stderr):
        assert text.count(f"(dbpool_mw.E020) {TEXT}\n\tHINT: {INSTEAD}") == 1
    assert project.backends() == []


def test_a_celery_worker_refuses_to_start(project):
    apps = ["dbpool_mw", "dbpool_mw.contrib.celery", "django.contrib.contenttypes"]
    project.settings["INSTALLED_APPS"] = apps
    project.extra["TEST_BROKER"] = str(project.directory)
    words = ["-A", "tests.process.project.tasks", "worker", "--pool", "eventlet"]
    done = project.run("-W", "ignore", "-m", "celery", *words)
    assert done.returncode != 0
    assert f"ImproperlyConfigured: {TEXT} {INSTEAD}" in done.stderr
