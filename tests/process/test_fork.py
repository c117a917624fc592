"""A forked child starts without pools, and leaves its parent's connections alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.process.projects import Project
from tests.process.servers import ROOT, wait_until


def who_has(inode: str) -> set[int]:
    """Return the processes that have a socket open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(link) == f"socket:[{inode}]":
                found.add(int(link.parts[2]))
    return found


def socket_of(project: Project, backend: int) -> str:
    """Return the inode of the client's socket of a connection."""
    with project.session() as cursor:
        cursor.execute(
            "SELECT client_port FROM pg_stat_activity WHERE pid = %s", [backend]
        )
        (port,) = cursor.fetchone()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1].endswith(f":{port:04X}") and words[9] != "0":
            return words[9]
    raise AssertionError(f"no socket with port {port}")


@pytest.mark.parametrize("at_import", ["query", "request"])
@pytest.mark.parametrize("threads", ["1", "3"])
def test_preload_shares_no_connection_between_processes(project, at_import, threads):
    project.extra["TEST_AT_IMPORT"] = at_import
    with project.gunicorn("--preload", "--threads", threads, workers=2) as server:
        backends: dict[int, set[int]] = {}
        before = server.get("/at_import/")["at_import"]

        def both_served() -> bool:
            answer = server.get("/facts/")
            backends.setdefault(answer["pid"], set()).add(answer["backend"])
            return len(backends) == 2

        wait_until(both_served, "both workers served a request")
        project.rest()
        first, second = backends.values()
        assert before not in first | second
        assert not first & second
        for pid, of_worker in backends.items():
            for backend in of_worker:
                assert who_has(socket_of(project, backend)) == {pid}
        # The master's connection is still open, and the master still has its socket.
        assert before in project.backends()
        assert server.process.pid in who_has(socket_of(project, before))
        masters = [server.process.pid] if at_import == "request" else []
        assert project.pids() == sorted([*backends, *masters])


@pytest.mark.parametrize("at_import", ["query", "request"])
def test_workers_that_end_leave_the_masters_connection_and_socket(project, at_import):
    project.extra["TEST_AT_IMPORT"] = at_import
    with project.gunicorn("--preload", "--threads", "2") as server:
        answer = server.get("/at_import/")
        before, worker = answer["at_import"], answer["pid"]
        os.kill(worker, signal.SIGTERM)
        answer = wait_until(
            lambda: next(
                (a for a in [server.get("/at_import/")] if a["pid"] != worker), None
            ),
            "another worker serves",
        )
        assert answer["backend"] != before
        assert before in project.backends()
        if at_import == "request":
            assert server.process.pid in project.pids()
        assert server.stop() == 0
        wait_until(lambda: not project.backends(), "the connections are closed")
        assert not project.control.exists() or not list(project.control.iterdir())


SCRIPT = """
import os, sys, threading
import django
django.setup()
from django.db import connections
from django.test import RequestFactory
from dbpool_mw import conf
from dbpool_mw.binding import registry
from dbpool_mw.binding.requests import begin_request, end_request

def backend():
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]

begin_request(object(), ("default",), ("default",))
parent = backend()
(pool,) = registry.pools()
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
    # The parent's lock is held for ever in this copy; the child's pools have new locks.
    assert registry.pools() == []
    assert connections["default"].connection is None
    begin_request(object(), ("default",), ("default",))
    child = backend()
    end_request()
    assert registry.pools()[0].stats()["opened"] == 1
    os.write(write, str(child).encode())
    registry.close()
    os._exit(0)
_, status = os.waitpid(pid, 0)
go_on.set()
thread.join()
assert status == 0, status
assert int(os.read(read, 100)) != parent
# The child's end closed no connection of the parent.
assert backend() == parent
end_request()
assert pool.stats()["idle"] == 1
print("well")
"""


WORKER_SCRIPT = """
import multiprocessing
import django
django.setup()
from django.db import connections, transaction
from dbpool_mw.binding import registry
from dbpool_mw.binding.requests import begin_request, end_request

def backend():
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]

def work(_):
    begin_request(object(), ("default",), ("default",))
    try:
        return backend()
    finally:
        end_request()

begin_request(object(), ("default",), ("default",))
with transaction.atomic():
    parent = backend()
    with multiprocessing.get_context("fork").Pool(3) as pool:
        children = set(pool.map(work, range(30), chunksize=1))
    assert parent not in children, (parent, children)
    # The parent's transaction still works, on the same backend.
    assert backend() == parent
end_request()
assert registry.pools()[0].stats()["opened"] == 1
assert registry.pools()[0].stats()["discarded"] == {}
print("well")
"""


CHILD_SCRIPT = """
import multiprocessing
import django
django.setup()
from django.db import connections
from dbpool_mw.binding import registry
from dbpool_mw.binding.requests import begin_request, end_request
from dbpool_mw import pooled

def query():
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT 1")

def in_use():
    return [pool.stats()["in_use"] for pool in registry.pools()]

def work(_):
    with pooled():
        query()
        (held,) = in_use()
        (holder,) = registry.pools()[0].holders()
    return held, in_use(), holder["method"], connections["default"].connection is None

def children():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.map(work, range(2))

class Request:
    method, path = "GET", "/parent/"

given_back = [(1, [0], "pooled", True)] * 2
begin_request(Request(), ("default",), ("default",))
query()
assert children() == given_back, children()
end_request()
with pooled():
    query()
    assert children() == given_back, children()
    assert in_use() == [1]
assert in_use() == [0]
print("well")
"""


CURSOR_SCRIPT = """
import gc, os
import django
django.setup()
from django.db import InterfaceError, connection
from dbpool_mw import pooled

QUERY = "SELECT generate_series(1, 9)"

def rows(cursor):
    cursor.execute(QUERY)
    yield
    try:
        yield cursor.fetchall()
    finally:
        cursor.close()

def refused(function):
    try:
        function()
    except InterfaceError as error:
        return "given back" in str(error)
    return False

with pooled():
    named, plain = connection.chunked_cursor(), connection.cursor()
    read = rows(named)
    next(read)
    child = os.fork()
    if not child:
        done = refused(lambda: plain.execute("SELECT 1")) and refused(named.fetchone)
        # Its end, as of any iterator that the child forgets, closes the cursor.
        del read
        named.close()
        del named
        gc.collect()
        os._exit(0 if done else 1)
    assert os.waitpid(child, 0)[1] == 0, "the child used its parent's cursors"
    assert [value for value, in next(read)] == list(range(1, 10))
    read.close()
print("well")
"""


def test_a_child_can_not_use_or_close_the_cursors_of_its_parent(project):
    run(project, CURSOR_SCRIPT)


def run(project, script):
    """Run a script in a process of its own, and assert that all of it held."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
        cwd=ROOT,
        env=project.environ,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.stdout == "well\n", done.stderr


def test_a_block_in_a_child_of_a_request_returns_its_connection(project):
    run(project, CHILD_SCRIPT)


def test_children_leave_the_transaction_of_their_parent_alone(project):
    run(project, WORKER_SCRIPT)


def test_a_child_forked_while_a_thread_holds_the_lock_can_check_out(project):
    run(project, SCRIPT)
