from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dbpool_mw.control import render
from dbpool_mw.control.client import Answer
from dbpool_mw.control.pool_table import pool_table
from dbpool_mw.core import metrics
from dbpool_mw.management.base import errors
from tests.control.fakes import histogram, holder, pool, reply


def answered(
    pid: int, *pools: dict[str, Any], suffix: str = "a", **changes: object
) -> Answer:
    path = Path(f"/run/x/{pid}-0000000{suffix}.sock")
    return Answer(pid, path, reply=reply(*pools, **changes))


def silent(pid: int, error: str = "no answer within 2 s") -> Answer:
    return Answer(pid, Path(f"/run/x/{pid}-0000000a.sock"), error=error)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0us"),
        (-1e-9, "0us"),
        (0.0000123, "12us"),
        (0.0009994, "999us"),
        (0.0009996, "1.0ms"),
        (0.0012, "1.2ms"),
        (0.00994, "9.9ms"),
        (0.00996, "10ms"),
        (0.34, "340ms"),
        (0.9994, "999ms"),
        (0.9996, "1.0s"),
        (2.54, "2.5s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (250, "4m10s"),
        (3599.6, "1h00m"),
        (11_100, "3h05m"),
        (86_400, "1d00h"),
        (187_200, "2d04h"),
    ],
)
def test_a_duration_has_a_short_text(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


@pytest.mark.parametrize("length", [0, 1_000_000])
def test_text_from_outside_is_escaped_and_shortened(length: int) -> None:
    evil = "/\x1b[2J\r\n\x07\u202e\udcff/ü" + "x" * length
    held = holder(path=evil, thread=evil, alias=evil, stack=[evil])
    answer = answered(
        7,
        pool(evil, state=evil, discarded={evil: 1, f"{evil}2": 1}, stale=3),
        command=evil,
        holders=[held, {**held, "stale": True}],
    )
    texts = [
        pool_table([answer, silent(8, evil)]),
        render.holders([answer]),
        *render.stale([answer, silent(8, evil)], 0.0),
        errors([silent(8, evil)]),
    ]
    for text in texts:
        lines = text.split("\n")
        assert len(lines) <= 5
        assert all(line.isprintable() for line in lines)
        assert max(map(len, lines)) < 1500
        assert "\\x1b[2J\\r\\n" in text
        assert "ü" in text


def test_holders_are_sorted_the_longest_first() -> None:
    text = render.holders(
        [
            answered(
                7, pool(), holders=[holder(id="7-1-3e9", path="/quick/", seconds=0.1)]
            ),
            answered(
                11,
                pool(),
                holders=[
                    holder(id="7-1-3e8", path=None, method=None, seconds=70, stale=True)
                ],
            ),
            silent(13),
        ]
    )
    header, first, second = text.splitlines()
    titles = "PID ALIAS ID BACKEND FOR STALE REQUEST ROUTE THREAD"
    assert header.split() == titles.split()
    assert first.split() == [
        *("11", "default", "7-1-3e8", "4242", "1m10s", "yes", "-", "slow/"),
        "ThreadPoolExecutor-0_1",
    ]
    assert second.split()[-5:-2] == ["-", "GET", "/quick/"]


def test_what_a_newer_worker_says_of_a_holder_has_its_columns() -> None:
    said = {
        "id": "7-3-12",
        "route": "shop:report",
        "in_transaction": True,
        "state": "cancelled",
        "statement": "SELECT pg_sleep(?)",
    }
    text = render.holders([answered(7, pool(), holders=[holder(**said)])])
    header, row, below = text.splitlines()
    titles = "PID ALIAS ID BACKEND FOR STATE IN TRANSACTION REQUEST ROUTE THREAD"
    assert header.split() == titles.split()
    assert row.split()[2] == "7-3-12"
    assert "cancelled" in row
    assert "shop:report" in row
    assert below == "    runs SELECT pg_sleep(?)"


def test_columns_of_holders_that_say_nothing_are_left_out() -> None:
    quiet = holder(id="", state="in use", stack=[], route=None, statement=None)
    text = render.holders([answered(7, pool(), holders=[quiet])])
    header = text.splitlines()[0].split()
    assert header == ["PID", "ALIAS", "BACKEND", "FOR", "REQUEST", "THREAD"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_holders_fit_the_terminal(width: int) -> None:
    long = holder(
        path="/" + "x" * 300,
        thread="t" * 100,
        id="12345-67-8901",
        leaked=True,
        state="cancelled",
        stack=["File " + "y " * 200],
        statement="SELECT " + "z " * 300,
    )
    text = render.holders([answered(12345, pool(), holders=[long, holder()])], width)
    assert max(map(len, text.splitlines())) <= width
    assert "GET /xxx" in text
    assert "1.2s" in text
    # By the id a hold is cancelled.
    assert "12345-67-8901" in text


def test_a_usual_terminal_shows_who_is_in_a_transaction() -> None:
    held = holder(id="12345-67-8901", path="/" + "x" * 300, in_transaction=True)
    text = render.holders([answered(12345, pool(), holders=[held])], 80)
    assert "IN TRANSACTION" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_stack_of_its_checkout_stands_below_a_leaked_connection() -> None:
    stack = ['  File "shop.py", line 7, in pay', "    \x1b[2Jcursor()"]
    leak = holder(seconds=70, leaked=True, stack=stack)
    text = render.holders([answered(7, pool(), holders=[leak, holder()])])
    _, first, *below, last = text.splitlines()
    assert first.split()[-5:-2] == ["yes", "GET", "/slow/"]
    assert below == ["    " + stack[0], "        \\x1b[2Jcursor()"]
    assert last.split()[-5:-2] == ["-", "GET", "/slow/"]


def test_without_holders_a_sentence_says_so() -> None:
    assert render.holders([answered(7, pool())]) == "No connection is in use."


def test_a_stale_connection_has_a_line_with_its_holder_and_start() -> None:
    lines = render.stale(
        [
            answered(
                7,
                pool(stale=2),
                holders=[
                    holder(seconds=2.0, stale=True, path="/report/"),
                    holder(path="/new/"),
                ],
            ),
            silent(8),
        ],
        1_700_000_000.0,
    )
    assert len(lines) == 3
    assert lines[0].startswith(
        "  worker 7: default: backend 4242, thread ThreadPoolExecutor-0_1, "
        "GET /report/, since "
    )
    assert lines[0].endswith("(2.0s)")
    assert lines[1] == "  worker 7: default: 1 being opened, cleaned or closed"
    assert lines[2] == "  worker 8: no answer within 2 s"


def test_workers_with_the_same_pid_are_named_by_their_sockets() -> None:
    answers = [answered(7, pool()), answered(7, pool(), suffix="b"), silent(8)]
    assert list(render.worker_names(answers).values()) == [
        "7-0000000a",
        "7-0000000b",
        "8",
    ]
    assert "7-0000000b" in pool_table(answers)


def test_the_json_document_has_the_documented_schema() -> None:
    waits = histogram(0.001, 0.003)
    data = render.document(
        "/run/x",
        [
            answered(7, pool(size=2, wait_seconds=waits), holders=[holder()]),
            answered(8, pool("replica", size=3)),
            silent(9),
        ],
    )
    assert data == json.loads(render.json_text(data))
    assert data["version"] == 1
    assert data["control_dir"] == "/run/x"
    assert data["bucket_bounds"] == list(metrics.BOUNDS)
    first, second, third = data["workers"]
    keys = {"pid", "command", "uptime", "maintenance_age", "pools", "holders"}
    assert set(first) == keys
    assert first["maintenance_age"] == 0.5
    assert first["holders"] == [holder()]
    found = first["pools"][0]["wait_seconds"]
    assert found["mean"] == pytest.approx(0.002)
    assert found["p95"] == 0.003
    assert found["buckets"] == waits["buckets"]
    assert first["pools"][0]["hold_seconds"]["mean"] is None
    assert "holders" not in second
    assert third == {
        "pid": 9,
        "command": None,
        "uptime": None,
        "maintenance_age": None,
        "pools": [],
        "error": "no answer within 2 s",
    }
    assert data["totals"]["size"] == 5
    assert data["totals"]["wait_seconds"]["p95"] == 0.003
    assert "alias" not in data["totals"]


def test_a_worker_whose_background_loop_is_stuck_is_named() -> None:
    stuck = answered(8, pool(), maintenance_age=75.0)
    fine = [answered(7, pool()), answered(9, maintenance_age=None), silent(10)]
    assert render.late(fine) == ""
    assert render.late([*fine, stuck]).startswith(
        "Worker 8: its background loop last ran 1m15s ago"
    )


def test_json_is_one_line_of_ascii() -> None:
    text = render.json_text({"path": "/ü\n\udcff"})
    assert text.isascii()
    assert "\n" not in text


def test_several_pools_of_one_alias_are_named_by_what_they_open() -> None:
    report = "shop/report@db1:5432"
    answers = [
        answered(
            7,
            pool(stale=1),
            pool(address=report, stale=2),
            pool("replica"),
            holders=[holder(address=report, stale=True), holder("replica")],
        )
    ]
    table = pool_table(answers)
    assert "  default shop/app@db1:5432  " in table
    assert f"  default {report} " in table
    assert "  replica  " in table
    assert f"default {report}" in render.holders(answers)
    lines = render.stale(answers, now=0)
    assert lines[0].startswith(f"  worker 7: default {report}: backend 4242")
    assert f"default {report}: 1 being opened" in lines[2]
    assert "default shop/app@db1:5432: 1 being opened" in lines[1]
