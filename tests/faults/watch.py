"""Look all the while how many connections the pools have at the server."""

from __future__ import annotations

import socket
import struct
import threading

import psycopg2

from tests.process.projects import OURS, Project
from tests.process.servers import wait_until

#: Seconds between two looks.
INTERVAL = 0.01

COUNTED = """
    SELECT client_port FROM pg_stat_activity
    WHERE datname IN (%s, %s) AND backend_type = 'client backend'
    AND application_name <> %s
"""


# Of linux/netlink.h, sock_diag.h and tcp_states.h.
_SOCK_DIAG, _BY_FAMILY, _REQUEST_DUMP = 4, 20, 0x301
_ERROR, _DONE = 2, 3
_ESTABLISHED = 1 << 1


def connected_to(port: int) -> set[int]:
    """Return the clients' ports of the connections to a port of this machine.

    One that its client has closed is none of them, even if the server is yet to notice.
    The kernel is asked for just these: /proc/net/tcp has every socket that was closed
    in the last minute as well, and after some tests a look at it takes seconds.
    """
    found = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        wanted = struct.pack("=BBxxI", socket.AF_INET, socket.IPPROTO_TCP, _ESTABLISHED)
        wanted += bytes(48)  # any address
        head = struct.pack("=IHHII", 16 + len(wanted), _BY_FAMILY, _REQUEST_DUMP, 0, 0)
        kernel.send(head + wanted)
        while True:
            answer = kernel.recv(65536)
            while answer:
                length, kind = struct.unpack_from("=IH", answer)
                if kind == _DONE:
                    return found
                assert kind != _ERROR, answer
                local, remote = struct.unpack_from("!HH", answer, 20)
                if remote == port:
                    found.add(local)
                answer = answer[(length + 3) // 4 * 4 :]


class Watch:
    """A thread that looks again and again, while servers come and go.

    ``most`` is the largest number of connections that were open at the same moment. A
    look takes some time, in which one may end and another begin: only those that two
    looks have seen were open between them. Behind a proxy they are counted before it:
    it passes an end on a little later.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        #: Set, the remains of workers that ended don't count: the server takes a moment
        #: to notice, and doesn't while it runs a query.
        self.only_connected = False
        self.most = 0
        self.looks = 0
        self._seen: set[int] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        wait_until(lambda: self.looks, "somebody watches")
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(20)

    def _watch(self) -> None:
        proxy = self.project.options.get("default", {}).get("PORT")
        while not self._done.wait(INTERVAL):
            if proxy is not None:
                self._note(connected_to(int(proxy)))
                continue
            try:
                self._watch_the_server()
            except psycopg2.Error:
                # It is gone just now: nobody is connected.
                continue

    def _watch_the_server(self) -> None:
        databases = self.project.databases
        with self.project.session() as cursor:
            while True:
                cursor.execute(COUNTED, [databases.default, databases.replica, OURS])
                found = {port for (port,) in cursor.fetchall()}
                if self.only_connected:
                    found &= connected_to(databases.server.port)
                self._note(found)
                if self._done.wait(INTERVAL):
                    return

    def _note(self, found: set[int]) -> None:
        self.most = max(self.most, len(found & self._seen))
        self._seen = found
        self.looks += 1
