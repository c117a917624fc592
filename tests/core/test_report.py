"""Reports made from a copy of a pool's state."""

from __future__ import annotations

import pytest

from dbpool_mw.core import report
from dbpool_mw.core.config import PoolConfig
from dbpool_mw.core.entry import BUSY, CONNECTING, IDLE, IN_USE
from dbpool_mw.core.metrics import PoolMetrics
from dbpool_mw.core.report import Hold, Snapshot, holder_text
from dbpool_mw.core.stack import capture
from tests.core.fakes import Holder


def hold(seconds, name="someone", leaked=False):
    return Hold(
        "1-2-3",
        seconds,
        Holder(name),
        backend_pid=1000,
        stale=False,
        leaked=leaked,
        cancelled=False,
        in_transaction=False,
        statement=None,
        stack=capture(),
    )


def stats(*states, state="running", held=0, waiting=0):
    snapshot = Snapshot(state, states, held, 0, waiting, PoolMetrics().as_dict())
    return report.stats("default", "app", PoolConfig(), snapshot)


def test_entries_are_counted_by_their_state():
    figures = stats(IDLE, IN_USE, IN_USE, BUSY, CONNECTING, IDLE, waiting=4)
    assert figures["size"] == 6
    assert (figures["idle"], figures["connecting"]) == (2, 1)
    assert figures["waiting"] == 4


def test_a_connection_being_cleaned_or_closed_counts_as_in_use():
    assert stats(IN_USE, BUSY)["in_use"] == 2


def test_a_hold_that_has_not_ended_counts_as_a_checkout():
    assert stats(IN_USE, IN_USE, held=2)["checkouts"] == 2


def test_the_longest_hold_is_reported_first():
    holds = [hold(1, "a"), hold(30, "b"), hold(2, "c")]
    rows = report.holders("default", holds)
    assert [row["path"] for row in rows] == ["/b/", "/c/", "/a/"]
    assert {row["alias"] for row in rows} == {"default"}


def test_only_a_leak_is_reported_with_its_stack():
    quick, leaked = report.holders("default", [hold(1, leaked=True), hold(0)])[::-1]
    assert quick["stack"] == []
    assert any("in hold" in line for line in leaked["stack"])


@pytest.mark.parametrize(
    ("holder", "text"),
    [
        ({}, "unknown"),
        ({"thread": "T1"}, "thread T1"),
        ({"thread": "T1", "method": "GET", "path": "/a/"}, "GET /a/ in thread T1"),
        ({"thread": "T1", "seconds": 2.04}, "thread T1 for 2.0 s"),
        ({"path": None, "method": None, "thread": None}, "unknown"),
    ],
)
def test_a_holder_is_named_by_what_its_description_has(holder, text):
    assert holder_text(holder) == text


def test_an_explanation_has_counts_state_failures_and_holders():
    rows = report.holders("default", [hold(number) for number in range(7)])
    text = report.explain(stats(IN_USE, state="paused"), rows, 3, "refused")
    assert text.startswith("1 in use, 0 idle and 0 connecting of at most 10, 0 waiting")
    assert ", the pool is paused; 3 failed connects, the last: refused; " in text
    assert text.endswith(" and 2 more")


def test_an_explanation_without_failures_and_holders_has_the_counts_only():
    text = report.explain(stats(), [], 0, "")
    assert text == "0 in use, 0 idle and 0 connecting of at most 10, 0 waiting"
