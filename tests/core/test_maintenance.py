"""The maintenance thread."""

from __future__ import annotations

import threading

from dbpool_mw.core.maintenance import Maintenance


class Pool:
    name = "default"

    def __init__(self, error=None):
        self.rounds = threading.Semaphore(0)
        self.error = error

    def maintain(self):
        self.rounds.release()
        if self.error is not None:
            raise self.error


def test_it_maintains_every_pool_and_survives_what_one_raises(caplog):
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
