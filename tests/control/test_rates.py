from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dbpool_mw.control.client import Answer
from dbpool_mw.control.rates import Rates, key_of
from tests.control.fakes import pool, reply


def answer(
    uptime: float, *pools: dict[str, Any], name: str = "7-0000000a.sock"
) -> Answer:
    return Answer(7, Path("/run/x") / name, reply=reply(*pools, uptime=uptime))


def silent() -> Answer:
    return Answer(7, Path("/run/x/7-0000000a.sock"), error="no answer")


def rates(*looks: Answer) -> list[list[float]]:
    """Return the rates of checkouts of each look's pools that have one."""
    watch = Rates(["checkouts", "opened"])
    return [[r["checkouts"] for r in watch.look([one]).values()] for one in looks]


def test_a_rate_is_what_a_counter_grew_by_in_the_workers_own_time() -> None:
    looks = answer(10.0, pool(checkouts=5)), answer(12.0, pool(checkouts=8))
    assert rates(*looks) == [[], [1.5]]


def test_every_pool_has_rates_of_its_own() -> None:
    watch = Rates(["checkouts"])
    watch.look([answer(1.0, pool(), pool(address="b"), pool("replica"))])
    after = answer(
        3.0, pool(checkouts=2), pool("replica", checkouts=4), pool(address="b")
    )
    found = watch.look([after])
    assert after.reply is not None
    assert [
        found[key_of(after, one)]["checkouts"] for one in after.reply["pools"]
    ] == pytest.approx([1, 2, 0])


@pytest.mark.parametrize(
    "after",
    [
        # Another process; one with the same pid and another socket.
        answer(0.5, pool(checkouts=1), name="8-0000000a.sock"),
        answer(0.5, pool(checkouts=900), name="7-0000000b.sock"),
        # The same socket, and a clock that began anew.
        answer(0.5, pool(checkouts=900)),
        answer(10.0, pool(checkouts=900)),
        # A pool that was closed and opened anew.
        answer(12.0, pool(checkouts=1)),
        answer(12.0, pool(checkouts=900, opened=0)),
    ],
)
def test_what_began_anew_has_no_rate_and_none_below_zero(after: Answer) -> None:
    before = answer(10.0, pool(checkouts=800, opened=3))
    assert rates(before, after) == [[], []]


def test_a_worker_that_was_silent_is_compared_with_its_last_answer() -> None:
    before, after = answer(10.0, pool()), answer(14.0, pool(checkouts=8))
    assert rates(before, silent(), silent(), after) == [[], [], [], [2.0]]


def test_workers_that_are_gone_are_forgotten() -> None:
    watch = Rates(["checkouts"])
    for number in range(1, 50):
        watch.look([answer(1.0, pool(), name=f"{number}-0000000a.sock")])
    assert len(watch._looks) == 1
