"""The maintenance thread."""

from __future__ import annotations

import logging
import signal
import threading
from functools import partial
from queue import SimpleQueue

from dbpool_mw.core import background
from dbpool_mw.core.background import Maintenance, spawn


def test_a_thread_leaves_the_signals_of_other_processes_to_the_main_thread():
    masks = SimpleQueue()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert spawn(lambda: masks.put(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
    blocked = masks.get(timeout=20)
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1} <= blocked
    assert not {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE} & blocked
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


class Pool:
    name = "default"

    def __init__(self, error=None):
        self.rounds = threading.Semaphore(0)
        self.error = error

    def maintain(self):
        self.rounds.release()
        if self.error is not None:
            raise self.error


def test_every_pool_is_maintained_even_if_another_one_raises(caplog):
    bad, good = Pool(ValueError("broken")), Pool()
    maintenance = Maintenance(lambda: [bad, good], interval=0.001)
    maintenance.start()
    for _ in range(3):
        assert bad.rounds.acquire(timeout=20)
        assert good.rounds.acquire(timeout=20)
    maintenance.stop()
    assert "default: maintenance failed" in caplog.text
    assert "broken" in caplog.text
    assert not any(
        thread.name == "dbpool_mw-maintenance" for thread in threading.enumerate()
    )


def test_the_maintenance_thread_is_a_daemon_and_ends_with_stop():
    pool = Pool()
    maintenance = Maintenance(lambda: [pool], interval=0.001)
    maintenance.start()
    assert pool.rounds.acquire(timeout=20)
    (thread,) = (
        thread
        for thread in threading.enumerate()
        if thread.name == "dbpool_mw-maintenance"
    )
    assert thread.daemon
    maintenance.stop()
    assert not thread.is_alive()


def test_each_round_maintains_the_pools_there_are_by_then():
    pools = []
    asked = threading.Semaphore(0)

    def known_pools():
        asked.release()
        return list(pools)

    maintenance = Maintenance(known_pools, interval=0.001)
    maintenance.start()
    assert asked.acquire(timeout=20)
    late = Pool()
    pools.append(late)
    assert late.rounds.acquire(timeout=20)
    maintenance.stop()


def test_stop_waits_for_a_running_round_at_most_its_timeout():
    release = threading.Event()

    class Stuck(Pool):
        def maintain(self):
            super().maintain()
            release.wait(20)

    pool = Stuck()
    maintenance = Maintenance(lambda: [pool], interval=0.001)
    maintenance.start()
    assert pool.rounds.acquire(timeout=20)
    maintenance.stop(0.01)
    assert maintenance._thread.is_alive()
    release.set()
    maintenance.stop(20)
    assert not maintenance._thread.is_alive()


def test_a_log_handler_that_hangs_holds_up_no_pool_and_no_record_is_out_of_order():
    hangs, released, seen = threading.Event(), threading.Event(), SimpleQueue()

    class Hangs(logging.Handler):
        def emit(self, record):
            hangs.set()
            released.wait(20)
            seen.put((record.args[0], record.threadName))

    class Talks(Pool):
        said = 0

        def maintain(self):
            self.said += 1
            background.logger.warning("round %d", self.said)
            super().maintain()

    handler, pool = Hangs(), Talks()
    background.logger.addHandler(handler)
    maintenance = Maintenance(lambda: [pool], interval=0.001)
    try:
        maintenance.start()
        assert hangs.wait(20)
        for _ in range(5):
            assert pool.rounds.acquire(timeout=5)
        maintenance.stop()
        assert seen.empty()
        released.set()
        said = [seen.get(timeout=20) for _ in range(pool.said)]
        numbers = range(1, pool.said + 1)
        assert said == [(number, "dbpool_mw-maintenance") for number in numbers]
    finally:
        released.set()
        maintenance.stop()
        background.logger.removeHandler(handler)


def test_where_no_thread_can_be_started_calls_are_made_at_once(monkeypatch):
    monkeypatch.setattr(background, "spawn", lambda *_: False)
    made = []
    in_order = background.InOrder()
    for number in range(3):
        in_order(partial(made.append, number))
    assert made == [0, 1, 2]
