"""What others wrote, on its way through a pool into logs and errors."""

from __future__ import annotations

import logging
import threading

import pytest

from dbpool_mw.core.background import Maintenance
from dbpool_mw.core.errors import ConnectFailed, PoolError, PoolTimeout
from tests.core.fakes import HOSTILE, DriverError, Holder, InThread, make_pool, use


class Hostile(Holder):
    """A holder whose request and thread have a name that somebody else chose."""

    def describe(self):
        return {"thread": self.name, "method": self.name, "path": self.name}


@pytest.fixture(params=HOSTILE, ids=range(len(HOSTILE)))
def text(request):
    return request.param


@pytest.fixture
def lines(caplog):
    """Give the lines of what was logged, as Python's own formatter writes them."""
    caplog.set_level(logging.INFO)

    def formatted():
        formatter = logging.Formatter()
        return "\n".join(map(formatter.format, caplog.records)).split("\n")

    return formatted


def assert_harmless(*texts):
    assert texts
    for text in texts:
        assert text.isprintable()
        assert len(text) < 10_000


def test_the_holders_in_an_error_are_printable_and_short(text):
    pool, _, _ = make_pool(max_conns=6)
    for _ in range(6):
        pool.checkout(Hostile(text))
    with pytest.raises(PoolTimeout) as raised:
        pool.checkout(Hostile(text))
    assert " and 1 more" in str(raised.value)
    assert_harmless(str(raised.value), raised.value.summary, raised.value.details)
    for holder in pool.holders():
        assert max(len(holder[key]) for key in ("thread", "method", "path")) <= 200


def test_a_leak_shows_its_holder_on_one_line_and_the_frames_below(text, lines):
    pool, _, clock = make_pool(leak_after=30)
    pool.checkout(Hostile(text))
    clock.advance(31)
    pool.maintain()
    assert sum("a connection is held for 31.0 s" in line for line in lines()) == 1
    assert len(lines()) < 100
    assert_harmless(*lines())


def test_frames_with_an_odd_name_are_printable(text, lines):
    pool, _, clock = make_pool(leak_after=30)
    # Python refuses these two in the name of a file.
    name = text.replace("\0", "").encode(errors="ignore").decode()
    code = compile("pool.checkout(holder)", name, "exec")
    exec(code, {"pool": pool, "holder": Holder()})
    clock.advance(31)
    pool.maintain()
    assert_harmless(*lines())
    (holder,) = pool.holders()
    assert all(line.isprintable() for line in holder["stack"])


def test_what_is_logged_of_a_holder_is_one_printable_line(text, lines):
    pool, driver, clock = make_pool(max_hold=10)
    pool.checkout(Hostile(text))
    clock.advance(11)
    pool.maintain()
    assert driver.aborted
    before = len(lines())
    pool.reclaim(pool.checkout(Hostile(text)))
    use(pool, Hostile(text), transaction="open")
    found = lines()
    assert sum("cancelling" in line for line in found[:before]) == 1
    assert sum("reclaimed" in line for line in found) == 1
    assert sum("rolled back" in line for line in found) == 1
    assert len(found) < 10
    assert_harmless(*found)


def test_an_entry_that_nobody_held_any_more_is_logged_on_one_printable_line(
    text, lines
):
    pool, _, _ = make_pool()
    holder = Hostile(text)
    pool.checkout(holder)
    holder.has_it = False
    for _ in range(2):
        InThread(pool.maintain).result()
    assert any("nobody held any more" in line for line in lines())
    assert_harmless(*lines())


def test_a_servers_error_is_one_printable_line_wherever_it_stands(text, lines):
    pool, driver, _ = make_pool(min_conns=1, max_conns=1)
    driver.connect_error = ConnectFailed("default", "pool 'default': no", text)
    pool.maintain()
    (refill,) = (line for line in lines() if "can't refill" in line)
    assert_harmless(refill)
    with pytest.raises(PoolError) as raised:
        pool.checkout(Holder())
    assert_harmless(str(raised.value), *raised.value.args[1:])
    driver.connect_error = DriverError(text)
    pool.maintain()
    assert_harmless(*lines())


def test_a_failed_reset_is_logged_with_its_error_on_one_printable_line(text, lines):
    pool, driver, _ = make_pool()
    driver.reset_error = DriverError(text)
    use(pool, dirty=True)
    assert sum("could not clean" in line for line in lines()) == 1
    assert sum("DriverError" in line for line in lines()) == 1
    assert_harmless(*lines())


def test_failed_maintenance_is_logged_with_its_error_on_one_printable_line(text, lines):
    failed = threading.Event()

    class Pool:
        name = text

        def maintain(self):
            if failed.is_set():
                return
            failed.set()
            raise RuntimeError(text)

    maintenance = Maintenance(lambda: [Pool()], interval=0.001)
    maintenance.start()
    assert failed.wait(10)
    maintenance.stop(10)
    assert sum("RuntimeError:" in line for line in lines()) == 1
    assert_harmless(*lines())
