"""A fault of another file, on connections that use TLS."""

from __future__ import annotations

import pytest

from tests.conftest import aliases_at, fresh_databases
from tests.faults.conftest import small_project
from tests.faults.test_database import (
    test_terminated_backends_fail_only_the_queries_that_run as terminated,
)


@pytest.fixture
def project(tls_postgres, short_directory):
    """Give the project on a server that is reached by TLS."""
    with fresh_databases(tls_postgres) as databases, aliases_at(databases):
        yield small_project(databases, short_directory)


class NoFigures:
    def add(self, *row):
        """Leave the row out of the document."""


# Greenlets wait for a TLS connection's socket in another way than threads.
@pytest.mark.parametrize("under", ["gevent"], indirect=True)
def test_terminated_backends_fail_only_the_queries_that_run(under, project):
    terminated(under, project, NoFigures())
