"""Ask every worker of this host for its figures, from inside one of them or elsewhere.

No database is asked. A worker may ask itself: its control thread answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dbpool_mw.control import client, paths, protocol
from dbpool_mw.control.client import Answer

#: Seconds that all workers together have for their answers.
SECONDS = 1.0


def survey(directory: Path, timeout: float = SECONDS, **flags: Any) -> list[Answer]:
    """Return an answer of each worker that has a socket in the control directory.

    `flags` are those of `protocol.request`, such as `holders=True`. Waits at most
    `timeout` seconds for all workers together; one that hasn't answered by then has an
    answer with an `error`. Workers that have ended are left out. The list is empty if
    there is none. Raises ControlDirError for a directory that can't be trusted or read.
    """
    try:
        paths.check_directory(directory)
        sockets = paths.discover(directory)
        answers = client.ask(sockets, protocol.request("stats", **flags), timeout)
    except paths.ControlDirMissing:
        return []
    return [answer for answer in answers if not answer.gone]
