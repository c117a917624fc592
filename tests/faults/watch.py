"""Look all the while how many connections the pools have at the server."""

from __future__ import annotations

import threading
from pathlib import Path

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


def connected_to(port: int) -> set[int]:
    """Return the clients' ports of the connections to a port of this machine.

    One that its client has closed is none of them, even if the server is yet to notice.
    """
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, state = line.split()[1:4]
        if state == "01" and int(remote.partition(":")[2], 16) == port:
            found.add(int(local.partition(":")[2], 16))
    return found


class Watch:
    """A thread that looks again and again, while servers come and go.

    ``most`` is the largest number of connections that were open at the same moment.
    Behind a proxy they are counted before it: it passes an end on a little later.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        #: Set, the remains of workers that ended don't count: the server takes a moment
        #: to notice, and doesn't while it runs a query.
        self.only_connected = False
        self.most = 0
        self.looks = 0
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
                self._note(len(connected_to(int(proxy))))
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
                self._note(len(found))
                if self._done.wait(INTERVAL):
                    return

    def _note(self, number: int) -> None:
        self.most = max(self.most, number)
        self.looks += 1
