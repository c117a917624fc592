"""A process that loads the application and forks those that serve forks alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from tests.documents import ROOT

#: Loads the application as gunicorn's master with --preload does, and forks.
SCRIPT = """
import os, sys, threading
from django.conf import settings
settings.DBPOOL_MW_CONTROL_DIR = sys.argv[1]
from django.core.wsgi import get_wsgi_application
get_wsgi_application()
assert [t.name for t in threading.enumerate()][1:] == ["dbpool_mw-maintenance"]
for _ in range(3):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    assert threading.active_count() == 1
"""


@pytest.mark.skipif(
    sys.version_info < (3, 13),
    reason="Python 3.12 may count a thread that has just ended; older ones don't warn",
)
def test_python_does_not_warn_of_threads_where_the_children_serve():
    with tempfile.TemporaryDirectory() as directory:
        options = ["-W", "error::DeprecationWarning:__main__", "-c", SCRIPT]
        done = subprocess.run(
            [sys.executable, *options, directory],
            cwd=ROOT,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
            text=True,
            capture_output=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
