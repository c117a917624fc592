"""A process that ends a server and removes its directory after its owner's end."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

# Reads process ids until the owner's end of the pipe closes. The last id is the server
# to end; an empty line says that no server runs. Where nobody reaps the server, kill -0
# succeeds on the zombie, so the script also looks whether the pid file is gone.
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
    """Remove a directory, and end the server in it, when this process has ended.

    A separate process does that, so it works after kill -9 too. A forked child has to
    call ``detach``.
    """

    def __init__(self, directory: Path) -> None:
        read_end, self._write_end = os.pipe()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", SCRIPT, "watchdog", str(directory)],
            cwd="/",
            stdin=read_end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(read_end)

    def tell(self, pid: int | None) -> None:
        """Name the process to end; None when no server runs."""
        os.write(self._write_end, b"\n" if pid is None else b"%d\n" % pid)

    def release(self, seconds: float) -> None:
        """End the server and remove the directory now; wait up to ``seconds`` for it.

        Raises subprocess.TimeoutExpired.
        """
        os.close(self._write_end)
        self._process.wait(seconds)

    def detach(self) -> None:
        """Leave the watchdog to the parent of this forked process."""
        # The watchdog acts when every process has closed the write end of the pipe.
        os.close(self._write_end)
        # The watchdog is no child of this process, so waiting for it would fail.
        self._process.returncode = 0
