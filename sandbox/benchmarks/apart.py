"""Run a benchmark in a process of its own: a process runs Django on one library only.

``python -m sandbox.benchmarks.apart MODULE ROUNDS OPERATIONS`` sets Django up, calls
``measure()`` of that module, and writes the pickled result to its standard output.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from importlib import import_module

from sandbox.benchmarks.figures import Part
from sandbox.server import ROOT, ServerError


def measure(module: str, env: dict[str, str], rounds: int, operations: int) -> Part:
    """Return what a module of this folder measures, in the environment ``env``.

    Raises ServerError when the process fails; it says why on its standard error.
    """
    command = [sys.executable, "-m", __name__, module, str(rounds), str(operations)]
    done = subprocess.run(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, start_new_session=True
    )
    if done.returncode:
        raise ServerError(f"the benchmark {module} ended with code {done.returncode}")
    part: Part = pickle.loads(done.stdout)
    return part


def main(module: str, rounds: str, operations: str) -> None:
    """Measure, and write the result for ``measure`` in the process that waits."""
    import django

    django.setup()
    # These modules read the settings when they are imported.
    benchmark = import_module(f"sandbox.benchmarks.{module}")
    part = benchmark.measure(os.environ["SANDBOX_DSN"], int(rounds), int(operations))
    sys.stdout.buffer.write(pickle.dumps(part))


if __name__ == "__main__":
    main(*sys.argv[1:])
