"""No thread is to be had: requests are served, what is missing is said and tried."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.http import HttpResponse

from dbpool_mw import conf
from dbpool_mw.binding import registry
from dbpool_mw.control import protocol
from tests.control.query import ask_all
from tests.postgres.conftest import Requests, ask, stats
from tests.process.servers import wait_until


class Threads:
    """Refuses to start the package's own threads, by the beginning of their names."""

    def __init__(self) -> None:
        self.refused: tuple[str, ...] = ("dbpool_mw",)
        self.tries = 0
        self._start = threading.Thread.start

    def start(self, thread: threading.Thread) -> None:
        if thread.name.startswith(self.refused):
            self.tries += 1
            raise RuntimeError("can't start new thread")
        self._start(thread)


@pytest.fixture
def threads(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> Iterator[Threads]:
    """Refuse every thread of the package, until the test says otherwise."""
    registry.close()
    wait_until(lambda: not running(), "the threads of other tests have ended")
    threads = Threads()
    monkeypatch.setattr(threading.Thread, "start", lambda thread: threads.start(thread))
    yield threads
    threads.refused = ("none",)
    registry.close()


def get(requests: Requests) -> int:
    return requests(lambda request: HttpResponse(str(ask("SELECT 1")))).status_code


def running() -> set[str]:
    names = (thread.name for thread in threading.enumerate())
    return {name for name in names if name.startswith("dbpool_mw")}


def due() -> None:
    """Have what could not start be due again."""
    registry._state.maintenance_due = min(registry._state.maintenance_due, 1.0)
    if registry._state.control is None:
        registry._state.control_due = 0.0


def answers() -> int:
    directory = conf.control_dir()
    assert directory is not None
    found = ask_all(directory, protocol.request("stats"), 10)
    # The tests may run in several processes at once.
    return len([a for a in found if a.reply is not None and a.pid == os.getpid()])


def test_requests_are_served_and_later_ones_try_again(
    requests: Requests, threads: Threads, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dbpool_mw")
    assert [get(requests) for _ in range(3)] == [200] * 3
    assert running() == set()
    # One of maintenance, one of the control socket.
    assert threads.tries == 2
    assert caplog.text.count("no maintenance thread: until there is one") == 1
    assert caplog.text.count("no control socket") == 1
    due()
    assert get(requests) == 200
    assert threads.tries == 4
    # Said once.
    assert caplog.text.count("no maintenance thread") == 1
    threads.refused = ("none",)
    due()
    assert get(requests) == 200
    assert {"dbpool_mw-maintenance", "dbpool_mw-control"} <= running()
    assert "the maintenance thread runs now" in caplog.text
    assert answers() == 1
    tries = threads.tries
    assert get(requests) == 200
    assert threads.tries == tries
    assert stats()["opened"] == 1


@pytest.mark.parametrize("missing", ["maintenance", "control"])
def test_one_of_the_two_threads_may_be_missing_and_comes_by_itself(
    missing: str, requests: Requests, threads: Threads
) -> None:
    threads.refused = (f"dbpool_mw-{missing}",)
    assert get(requests) == 200
    (there,) = {"maintenance", "control"} - {missing}
    assert running() == {f"dbpool_mw-{there}"}
    assert answers() == (1 if there == "control" else 0)
    threads.refused = ("none",)
    due()
    if missing == "control":
        registry._state.maintain()
    else:
        assert get(requests) == 200
    assert running() >= {"dbpool_mw-maintenance", "dbpool_mw-control"}
    assert answers() == 1


def test_checkouts_do_the_work_of_a_missing_maintenance_thread(
    requests: Requests, threads: Threads
) -> None:
    assert get(requests) == 200
    (pool,) = registry.pools()
    # No thread can close it now.
    pool.recycle()
    assert pool.stats()["size"] == 1
    due()
    assert get(requests) == 200
    assert pool.stats()["discarded"] == {"recycled": 1}
    assert pool.stats()["size"] == 1
    assert running() == set()


def test_a_checkout_that_waits_for_a_slow_start_of_threads_holds_up_no_other(
    requests: Requests, threads: Threads
) -> None:
    started, may_go = threading.Event(), threading.Event()
    found: list[Any] = []

    def start(thread: threading.Thread) -> None:
        if thread.name == "dbpool_mw-maintenance":
            started.set()
            assert may_go.wait(20)
        threads._start(thread)

    threads.start = start  # type: ignore[method-assign]
    first = threading.Thread(target=lambda: found.append(get(Requests())))
    first.start()
    assert started.wait(20)
    assert get(requests) == 200
    may_go.set()
    first.join(20)
    assert running() >= {"dbpool_mw-maintenance", "dbpool_mw-control"}
