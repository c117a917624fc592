"""gunicorn's hook of docs/servers.rst opens connections before the first request."""

from __future__ import annotations

import pytest

from tests.documents import code_block
from tests.process.projects import GEVENT, Project
from tests.process.servers import ServerEnded, wait_until

HOOK = code_block("docs/servers.rst", "post_worker_init")


@pytest.fixture
def warmed(project: Project) -> Project:
    """Give the project with a gunicorn.conf.py that warms each worker up."""
    project.settings["DBPOOL_MW_MIN_CONNS"] = 2
    return project


@pytest.mark.parametrize(
    ("options", "configuration"), [(["--preload", "--threads", "3"], ""), ([], GEVENT)]
)
def test_each_worker_has_its_connections_before_its_first_request(
    warmed, options, configuration
):
    with warmed.gunicorn(
        *options, workers=2, configuration=configuration + HOOK
    ) as server:
        wait_until(lambda: warmed.totals()["size"] == 4, "each worker is warm")
        assert len(warmed.pids()) == 2
        before = set(warmed.backends())
        assert len(before) == 4
        for _ in range(6):
            assert server.get("/facts/")["backend"] in before
        assert set(warmed.backends()) == before


def test_a_worker_that_gets_no_connection_says_so_and_does_not_boot(warmed):
    warmed.options["default"] = {"PORT": "1"}
    hook = HOOK.replace("timeout=10", "timeout=0.5")
    with (
        pytest.raises(ServerEnded) as caught,
        warmed.gunicorn(configuration=hook),
    ):
        pass
    log = str(caught.value)
    assert "pool 'default': 0 of 2 connections were open within 0.5 s" in log
    assert "Worker failed to boot" in log
