"""Count the pools' connections at the server, a hundred times a second."""

from __future__ import annotations

import socket
import struct
import threading

import psycopg2

from tests.process.projects import APPLICATION_NAME, Project
from tests.process.servers import wait_until

#: Seconds between two counts.
INTERVAL = 0.01

COUNTED = """
    SELECT client_port FROM pg_stat_activity
    WHERE datname IN (%s, %s) AND backend_type = 'client backend'
    AND application_name <> %s
"""


# Constants of linux/netlink.h, sock_diag.h and tcp_states.h.
_SOCK_DIAG, _BY_FAMILY, _REQUEST_DUMP = 4, 20, 0x301
_ERROR, _DONE = 2, 3
_ESTABLISHED = 1 << 1


def connected_to(port: int) -> set[int]:
    """Return the clients' ports of the connections to a port of this machine.

    A connection that its client has closed isn't among them, even if the server hasn't
    noticed yet. The kernel is asked for established connections only: /proc/net/tcp
    also lists every socket closed in the last minute, and reading it may take seconds.
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
    """A thread that counts the connections again and again.

    ``most`` is the largest number of connections that were open at the same moment. A
    count takes some time, in which one connection may end and another begin: only
    connections that two counts have seen were open at the moment between them. With a
    proxy the connections to the proxy are counted, because the proxy passes the end of
    a connection on a little later.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        #: Whether connections of workers that ended are left out: PostgreSQL takes a
        #: moment to notice their end, and doesn't notice it while it runs a query.
        self.only_connected = False
        self.most = 0
        self.counts = 0
        self._seen: set[int] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        wait_until(lambda: self.counts, "the first count")
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
                # PostgreSQL is down: there are no connections.
                continue

    def _watch_the_server(self) -> None:
        databases = self.project.databases
        with self.project.session() as cursor:
            while True:
                names = [databases.default, databases.replica, APPLICATION_NAME]
                cursor.execute(COUNTED, names)
                found = {port for (port,) in cursor.fetchall()}
                if self.only_connected:
                    found &= connected_to(databases.server.port)
                self._note(found)
                if self._done.wait(INTERVAL):
                    return

    def _note(self, found: set[int]) -> None:
        self.most = max(self.most, len(found & self._seen))
        self._seen = found
        self.counts += 1
