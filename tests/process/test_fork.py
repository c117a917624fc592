"""A fork gives the child an empty house."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.process.servers import ROOT, wait_until


def sockets(pid: int) -> set[str]:
    """Give the sockets that a process has open, by their inodes."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def test_preload_with_a_query_at_import_shares_no_connection(project):
    project.extra["TEST_QUERY_AT_IMPORT"] = "1"
    with project.gunicorn("--preload", "--threads", "2", workers=2) as server:
        at_import = set(project.backends())
        seen = {}

        def both_served():
            answer = server.get("/facts/")
            seen.setdefault(answer["pid"], set()).add(answer["backend"])
            return len(seen) == 2

        wait_until(both_served, "both workers served a request")
        first, second = seen.values()
        assert not first & second
        # Not the one that the master opened before it forked.
        assert len(first | second | at_import) > len(first | second)


SCRIPT = """
import os, sys, threading
import django
django.setup()
from django.db import connections
from django.test import RequestFactory
from dbpool_mw import conf, process, wrapper

def backend():
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]

wrapper.enter(None, ("default",), False)
parent = backend()
(pool,) = process.pools()
locked, go_on = threading.Event(), threading.Event()

def hold_the_lock():
    with pool._lock:
        locked.set()
        go_on.wait(30)

thread = threading.Thread(target=hold_the_lock)
thread.start()
locked.wait(30)
read, write = os.pipe()
pid = os.fork()
if not pid:
    # The parent's lock is held for ever here; the child has one of its own.
    assert process.pools() == []
    assert connections["default"].connection is None
    wrapper.enter(None, ("default",), False)
    child = backend()
    wrapper.leave()
    assert process.pools()[0].stats()["opened"] == 1
    os.write(write, str(child).encode())
    process.close()
    os._exit(0)
_, status = os.waitpid(pid, 0)
go_on.set()
thread.join()
assert status == 0, status
assert int(os.read(read, 100)) != parent
# The child's end closed nothing of ours.
assert backend() == parent
wrapper.leave()
assert pool.stats()["idle"] == 1
print("well")
"""


def test_a_fork_with_the_lock_held_elsewhere_starts_afresh(project):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT],
        cwd=ROOT,
        env=project.environ,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.stdout == "well\n", done.stderr
