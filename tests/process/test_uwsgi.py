"""uWSGI, which loads the application in one process and forks the others in C."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.process.projects import Project
from tests.process.servers import Server, wait_until

MODES = {
    "master": ["--master"],
    "no master": [],
    "hooks of Python": ["--master", "--py-call-uwsgi-fork-hooks"],
    "lazy": ["--master", "--lazy-apps"],
    "threads": ["--master", "--threads", "3"],
}


def ask_for(server: Server, number: int) -> tuple[str, int, int]:
    """Have a query select a value; return what came, the process and the backend."""
    sql = f"SELECT '{number}' FROM pg_sleep(0.01)"
    answer = server.get(f"/run/?sql={quote(sql)}")
    return answer["rows"][0][0], answer["pid"], answer["backend"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at_import", ["query", "request"])
def test_no_connection_is_shared_with_what_ran_at_import(project, mode, at_import):
    project.extra["TEST_AT_IMPORT"] = at_import
    with project.uwsgi(*MODES[mode], workers=3) as server:
        wait_until(lambda: len(project.pids()) == 3, "the commands see every worker")
        with ThreadPoolExecutor(9) as clients:
            answers = list(clients.map(lambda n: ask_for(server, n), range(90)))
        assert [value for value, _, _ in answers] == [str(n) for n in range(90)]
        workers = {pid for _, pid, _ in answers}
        assert set(project.pids()) >= workers
        for backend in {backend for _, _, backend in answers}:
            assert len({pid for _, pid, other in answers if other == backend}) == 1
        project.rest()
