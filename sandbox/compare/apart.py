"""Call a function in a process of the subject's own: its settings, without a server."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from sandbox.compare.served import environment_of
from sandbox.compare.subjects import Subject
from sandbox.server import ROOT, ServerError


def call(
    subject: Subject,
    front: str,
    function: str,
    *arguments: object,
    connections: int,
    timeout: float,
    **variables: str,
) -> Any:
    """Return what a function returns in a process that runs Django as the subject.

    ``front`` is the address that the subject connects to, ``function`` the full name,
    ``connections`` how many its pool may open, and ``timeout`` the seconds after which
    the process is killed. What the function takes and returns has to be JSON. Raises
    ServerError with the end of what the process said.
    """
    module, name = function.rsplit(".", 1)
    command = [sys.executable, "-m", "sandbox.compare.inside", subject.worker]
    try:
        done = subprocess.run(
            [*command, module, name, json.dumps(arguments)],
            cwd=ROOT,
            env=environment_of(subject, front, connections) | variables,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise ServerError(f"did not end in {timeout:.0f} s") from None
    if done.returncode or not done.stdout:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ServerError(said[-1])
    return json.loads(done.stdout.splitlines()[-1])
