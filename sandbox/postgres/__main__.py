"""Run a command with a private PostgreSQL."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from sandbox.postgres import PostgresMissing, PostgresServer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command with a server and return the command's exit code."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.postgres")
    parser.add_argument("--env", default="SANDBOX_DSN", help="the variable for the DSN")
    parser.add_argument("command", nargs="+", help="what to run, after --")
    options = parser.parse_args(arguments)
    if os.environ.get(options.env):
        return _run(options.command, dict(os.environ))
    try:
        with PostgresServer() as server:
            return _run(options.command, {**os.environ, options.env: server.dsn()})
    except PostgresMissing as error:
        print(error, file=sys.stderr)
        return 1


def _run(command: list[str], environment: dict[str, str]) -> int:
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    # The terminal sends Ctrl-C to the command as well: wait until the command ends.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
