"""The database library that the tests run on: psycopg2, or psycopg (3).

Django takes psycopg where it can be imported, and a process has one of the two for all
aliases. Both are installed, and the variable DBPOOL_MW_TEST_LIBRARY names the one to
test. For psycopg2, a module that can't be imported hides the other one, in this process
and, by PYTHONPATH, in those that the tests start.
"""

from __future__ import annotations

import os
import sys

import pytest

from sandbox.server import HIDDEN, ROOT

VARIABLE = "DBPOOL_MW_TEST_LIBRARY"
LIBRARY = os.environ.setdefault(VARIABLE, "psycopg2")
IS_PSYCOPG = LIBRARY == "psycopg"

#: What PYTHONPATH must begin with in a process that runs on the same library.
PATHS = [str(ROOT), *([] if IS_PSYCOPG else [str(HIDDEN)])]
PYTHONPATH = os.pathsep.join(PATHS)

#: What Django's cursor raises on a connection that was closed.
CLOSED = "OperationalError" if IS_PSYCOPG else "InterfaceError"

only_psycopg2 = pytest.mark.skipif(
    IS_PSYCOPG, reason="about what psycopg2 has and psycopg doesn't"
)
only_psycopg = pytest.mark.skipif(
    not IS_PSYCOPG, reason="about what psycopg has and psycopg2 doesn't"
)


def choose() -> None:
    """Have this process run on the library; called before Django is imported."""
    if LIBRARY not in ("psycopg", "psycopg2"):
        raise pytest.UsageError(f"{VARIABLE} is psycopg or psycopg2, not {LIBRARY!r}")
    if "psycopg" in sys.modules and not IS_PSYCOPG:
        raise pytest.UsageError("psycopg was imported before it could be hidden")
    sys.path[:0] = PATHS
    own = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([PYTHONPATH, *([own] if own else [])])
