"""A worker process for tests: `python -m tests.control.worker DIRECTORY [UID]`.

It prints "ready" when its socket answers, then obeys the lines it reads from stdin.
Started by root it changes to UID after its imports, because that user may not be
allowed to read Python's files.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from dbpool_mw.control import protocol
from dbpool_mw.control.server import ControlServer
from tests.control.fakes import FakeWorker
from tests.control.query import ask_one


def main() -> None:
    for uid in map(int, sys.argv[2:]):
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    server = ControlServer(Path(sys.argv[1]), FakeWorker())
    server.start()
    # A server that answers has removed dead sockets: it removes none during the tests.
    assert server.path is not None
    assert ask_one(server.path, protocol.request("stats"), 10.0).reply is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "no more descriptors\n":
            lowest_free = os.open(os.devnull, os.O_RDONLY)
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        elif line == "more descriptors\n":
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        elif line == "fork\n":
            fork(server)
        elif line == "stop\n":
            server.stop()
        print("done", flush=True)


def fork(server: ControlServer) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            path = server.path
            # As an inherited atexit handler does.
            server.stop()
            status = 0 if path is not None and path.exists() else 2
        finally:
            os._exit(status)
    _, code = os.waitpid(child, 0)
    if code:
        raise RuntimeError(f"the child failed with status {code}")


if __name__ == "__main__":
    main()
