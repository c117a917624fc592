"""Ask one worker, or all workers in a control directory, as the commands do."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from dbpool_mw.control import client, paths
from dbpool_mw.control.client import Answer


def ask_one(path: Path, request: Mapping[str, Any], timeout: float) -> Answer:
    """Ask the worker at a socket; wait at most `timeout` seconds."""
    return client.ask([path], request, timeout)[0]


def ask_all(
    directory: Path,
    request: Mapping[str, Any],
    timeout: float,
    pids: Container[int] | None = None,
) -> list[Answer]:
    """Ask every worker in a directory (only `pids`, if given); answers come by pid.

    Waits at most `timeout` seconds for all of them together. Workers that have ended
    have no answer. A directory that doesn't exist has no workers.
    """
    try:
        paths.check_directory(directory)
    except paths.ControlDirMissing:
        return []
    found = [
        path
        for path in paths.discover(directory)
        if pids is None or paths.pid_of(path) in pids
    ]
    answers = client.ask(found, request, timeout)
    return [answer for answer in answers if not answer.gone]
