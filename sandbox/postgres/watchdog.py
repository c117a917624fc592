"""End a server and remove its directory when their owner is gone, kill -9 included."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

# Reads process ids until its owner's end of the pipe closes. The last one is alive;
# an empty line says that nothing is. A zombie still answers kill -0 where nobody
# reaps it, so a removed pid file counts as gone too.
SCRIPT = """
trap '' HUP INT TERM
pid=
while read -r line; do pid=$line; done
if [ -n "$pid" ] && kill -QUIT "$pid" 2>/dev/null; then
    n=0
    while kill -0 "$pid" 2>/dev/null && [ -e "$1/data/postmaster.pid" ]; do
        n=$((n + 1))
        if [ "$n" -gt 400 ]; then kill -KILL "$pid"; break; fi
        sleep 0.02
    done
fi
n=0
until rm -rf "$1" 2>/dev/null || [ "$n" -gt 100 ]; do n=$((n + 1)); sleep 0.05; done
"""


class Watchdog:
    """Watch over a directory and the server in it, from a process of its own.

    A process forked from the owner calls ``forget``.
    """

    def __init__(self, directory: Path) -> None:
        ours, self._lifeline = os.pipe()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", SCRIPT, "watchdog", str(directory)],
            cwd="/",
            stdin=ours,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(ours)

    def tell(self, pid: int | None) -> None:
        """Name the process that is to be ended, None when there is none any more."""
        os.write(self._lifeline, b"\n" if pid is None else b"%d\n" % pid)

    def release(self, seconds: float) -> None:
        """Have it do its work now, and wait that long for it.

        Raises subprocess.TimeoutExpired.
        """
        os.close(self._lifeline)
        self._process.wait(seconds)

    def forget(self) -> None:
        """Leave it to the process that forked this one."""
        # Held open, the pipe would keep it waiting for this process too.
        os.close(self._lifeline)
        # Not a child of ours to wait for.
        self._process.returncode = 0
