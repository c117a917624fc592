"""The clock jumps, the disk is full or read-only: requests are served as before."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.faults.test_workers import RESET
from tests.faults.under import MAX_CONNS
from tests.process.projects import Project
from tests.process.servers import wait_until

Break = Callable[[], AbstractContextManager[None]]

#: Runs a command without root's right to write to every file.
WITHOUT_OVERRIDE = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, right, 0, 0, 0):
        sys.exit("root can't drop its right to write to every file")
os.execv(sys.argv[1], sys.argv[1:])
"""

WARNING = "no control socket, so the commands won't see this process"


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    directory.chmod(0o500)
    yield
    directory.chmod(0o700)


@contextmanager
def full(directory: Path) -> Iterator[None]:
    files = [directory / f"file{number}" for number in range(20)]

    def fill() -> None:
        for file in files:
            file.touch()

    with pytest.raises(OSError, match="No space left"):
        fill()
    yield
    for file in files:
        file.unlink(missing_ok=True)


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """Mount a file system with room for some 20 files on a directory."""
    mount = ["mount", "-t", "tmpfs", "-o", "nr_inodes=20,mode=0700", "tmpfs"]
    try:
        done = subprocess.run([*mount, str(directory)], capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"a full disk has to be mounted: {error}")
    if done.returncode:
        pytest.skip(f"only root may mount a full disk: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture
def broken(request: pytest.FixtureRequest, project: Project) -> Iterator[Break]:
    """Give a context manager in which no file can be made in the control directory."""
    project.run_by = [sys.executable, "-c", WITHOUT_OVERRIDE]
    project.control.mkdir(mode=0o700)
    with small_disk(project.control) if request.param is full else nullcontext():
        yield lambda: request.param(project.control)


@pytest.mark.parametrize(
    ("under", "broken"),
    [
        ("gthread", read_only),
        ("gevent", read_only),
        ("uvicorn", read_only),
        ("gthread", full),
    ],
    indirect=True,
)
def test_workers_run_where_no_socket_can_be_made(
    under, project, figures, broken, request
):
    # At a reload the old workers finish while the new ones begin.
    under.allowed = 2 * MAX_CONNS
    under.watch.only_connected = True
    under.answers = False
    with ExitStack() as stack:
        stack.enter_context(broken())
        with under.traffic() as (server, traffic):
            wait_until(
                lambda: server.text().count(WARNING) >= under.workers,
                "every worker logs that the commands don't see it",
            )
            traffic.wait_for_200(100)
            assert project.manage("dbpool_stats").returncode == 3
            stack.close()
            if under.name != "uvicorn":
                # New workers open their sockets, and keep them when it is broken again.
                under.answers = True
                under.reload(server)
                stack.enter_context(broken())
                traffic.wait_for_200(100)
                assert project.stats()["max"] == under.workers * MAX_CONNS
            assert server.text().count(WARNING) == under.workers
    assert set(traffic.counts) <= {200, *RESET}
    how = request.node.callspec.params["broken"].__name__.replace("_", " ")
    figures.add(f"the control directory is {how}", under, traffic)


@pytest.mark.parametrize("under", ["gthread"], indirect=True)
def test_workers_serve_with_a_file_in_place_of_the_control_directory(under, project):
    project.control.write_text("in the way")
    under.answers = False
    with under() as server:
        for _ in range(10):
            assert server.get("/facts/").status == 200
        assert WARNING in server.text()
        assert project.manage("dbpool_stats").returncode == 3


def test_nothing_expires_when_the_clock_jumps_by_hours(under, project, figures):
    project.extra["TEST_CLOCK"] = "jumps"
    project.settings |= {
        "DBPOOL_MW_MAX_LIFETIME": 600,
        "DBPOOL_MW_MAX_IDLE": 600,
        "DBPOOL_MW_LEAK_AFTER": 60,
        "DBPOOL_MW_MAX_HOLD": 60,
        "DBPOOL_MW_CHECK_AFTER_IDLE": 60,
    }
    with under.traffic() as (server, traffic):
        seen = {server.get("/clock/")["ahead"]}
        wait_until(
            lambda: seen.add(server.get("/clock/")["ahead"]) or len(seen) == 3,
            "the clock was ahead, and behind, and right",
        )
        # Maintenance, which expires old connections, has a round each second.
        now = time.monotonic()
        wait_until(lambda: time.monotonic() > now + 2, "some rounds of maintenance")
        totals = project.totals()
        assert totals["opened"] == totals["size"]
        for name in ("checks", "timeouts", "leaked", "overdue", "connect_errors"):
            assert totals[name] == 0, name
    assert set(traffic.counts) == {200}
    figures.add("the clock jumps by 2 hours, both ways", under, traffic)
