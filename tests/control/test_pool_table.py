from __future__ import annotations

import re
import textwrap
from typing import Any

import pytest

from dbpool_mw.control import columns, render
from dbpool_mw.control.columns import COLUMNS, chosen
from dbpool_mw.control.pool_table import pool_table
from dbpool_mw.control.rates import key_of
from dbpool_mw.control.tables import Tone
from dbpool_mw.core import metrics
from tests.control.fakes import histogram, pool
from tests.control.test_render import answered, silent
from tests.documents import ROOT

H = {"count": 4, "sum": 2.0, "max": 1.5, "p50": 0.2, "p95": 1.2, "p99": 1.5}


def window(**changes: Any) -> dict[str, Any]:
    return {
        "seconds": 60.0,
        **dict.fromkeys(("checkouts", "timeouts", "refused"), 4),
        "in_use_peak": 9,
        "waiting_peak": 3,
        **{key: {**histogram(0.2, 0.2, 0.4, 1.2), **H} for key in metrics.HISTOGRAMS},
        **changes,
    }


def recent_pool(alias: str = "default", **changes: Any) -> dict[str, Any]:
    return pool(alias, recent={"60": window(), "900": window()}, **changes)


def without_recent() -> dict[str, Any]:
    return {key: value for key, value in pool().items() if key != "recent"}


def tone(text: str, tone: Tone) -> str:
    return f"<{tone}:{text}>"


def test_the_table_has_a_row_for_each_worker_and_alias_and_one_of_totals() -> None:
    text = pool_table(
        [
            answered(
                7,
                pool(size=3, in_use=1, idle=2, checkouts=12, opened=4),
                pool("replica", state="draining"),
            ),
            answered(11, pool(size=1, in_use=1, discarded={"idle": 2, "expired": 9})),
        ]
    )
    header, first, second, third, totals = text.splitlines()
    assert header.split()[:6] == ["PID", "ALIAS", "STATE", "SIZE", "USED", "IDLE"]
    assert " ".join(first.split()[:9]) == "7 default running 3 1 2 10 0 12"
    assert second.split()[:3] == ["7", "replica", "draining"]
    assert "expired:9 idle:2" in third
    assert third.endswith("12.5s  gunicorn: worker [shop]")
    assert totals.split()[:6] == ["total", "4", "2", "2", "30", "0"]


def test_columns_are_aligned_with_their_titles() -> None:
    text = pool_table(
        [answered(1, pool(size=1234)), answered(123456, pool("a_long_alias"))]
    )
    header, *rows = text.splitlines()
    end = header.index("SIZE") + len("SIZE")
    assert [row[:end].split()[-1] for row in rows] == ["1234", "0", "1234"]
    alias = header.index("ALIAS")
    assert [row[alias:].split()[0] for row in rows[:2]] == ["default", "a_long_alias"]


def test_a_single_row_has_no_totals() -> None:
    assert "total" not in pool_table([answered(7, pool())])


def test_wait_and_hold_show_mean_p95_and_max() -> None:
    held = histogram(*[0.001] * 99, 0.5)
    text = pool_table([answered(7, pool(hold_seconds=held))])
    p95 = render.duration(metrics.quantile(held, 0.95) or 0)
    assert f"6.0ms/{p95}/500ms" in text


def test_a_silent_worker_has_a_row_with_its_error() -> None:
    text = pool_table([silent(5), answered(7, pool())])
    header, first, second = text.splitlines()
    assert first.split(maxsplit=1) == ["5", "no answer within 2 s"]
    assert second[header.index("ALIAS") :].startswith("default")


def test_a_worker_without_a_pool_has_a_row_that_says_so() -> None:
    assert "no pool open (gunicorn" in pool_table([answered(7)])


def test_a_worker_without_a_pool_shows_the_orders_that_its_pools_will_follow() -> None:
    given = [
        {"verb": "pause", "aliases": None, "seconds_left": 58.4},
        {"verb": "resume", "aliases": ["replica"], "seconds_left": None},
    ]
    text = pool_table([answered(7, orders=given)])
    assert "no pool open; pause of all aliases, 58.4s left, resume of replica" in text


def test_a_long_command_is_cut() -> None:
    text = pool_table([answered(7, pool(), command="python " + "x" * 200)])
    assert "xxx..." in text.splitlines()[1]
    assert max(map(len, text.splitlines())) < 300


WORKERS = [
    answered(pid, *(recent_pool(alias) for alias in ("default", "replica")))
    for pid in (12615, 12617, 12618)
]


@pytest.mark.parametrize("ranked", [columns.RANKED, columns.RANKED_WATCH])
@pytest.mark.parametrize("width", [40, 80, 100, 132, 200, 400])
def test_the_table_fits_the_terminal(width: int, ranked: tuple[str, ...]) -> None:
    text = pool_table(WORKERS, ranked=ranked, width=width)
    lines = text.splitlines()
    assert len(lines) == 1 + 6 + 1
    assert max(map(len, lines)) <= width
    if width >= 80:
        for title in ("STATE", "USED", "MAX", "WAITING", "WAIT "):
            assert title in lines[0]
    narrower = pool_table(WORKERS, ranked=ranked, width=width - 1)
    assert len(narrower.splitlines()[0].split()) <= len(lines[0].split())


def test_a_paused_pool_fits_80_characters_too() -> None:
    paused = recent_pool(state="paused", state_seconds_left=299.2)
    text = pool_table([answered(12615, paused), answered(12616, paused)], width=80)
    assert "paused, 4m59s left" in text
    assert max(map(len, text.splitlines())) <= 80


def test_pools_with_long_names_fit_the_terminal_too() -> None:
    addresses = [f"shop/{user}@database.example.com:5432" for user in ("app", "report")]
    answers = [answered(7, *(recent_pool(address=one) for one in addresses))]
    text = pool_table(answers, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"default shop/app@data\w*\.\.\.  running", text)
    assert "WAITING" in text
    assert f"default {addresses[1]}" in pool_table(answers, width=200)


def test_every_figure_of_a_report_can_be_asked_for() -> None:
    for metric in metrics.METRICS:
        assert metric.key in COLUMNS
        one = recent_pool()
        if metric.kind != "histogram" and not metric.label:
            one[metric.key] = 87654
        else:
            one[metric.key] = (
                histogram(75.0) if metric.kind == "histogram" else {"idle": 87654}
            )
        text = pool_table([answered(7, one)], names=chosen([metric.key]))
        header, row = text.splitlines()
        assert metric.title in header
        assert re.search("87654|1m15s/1m15s/1m15s|1d00h", row), metric.key


def test_the_recent_figures_are_shown_where_the_worker_has_them() -> None:
    new = pool_table([answered(7, recent_pool())])
    assert "WAIT 15m" in new
    assert "500ms/1.2s/1.5s" in new
    assert "WAIT 15m" not in pool_table([answered(7, without_recent())])
    names = chosen(["wait_seconds_60s", "in_use_peak_15m", "timeouts_60s"])
    header, row = pool_table([answered(7, recent_pool())], names=names).splitlines()
    assert re.split("  +", header.strip()) == (
        ["PID", "ALIAS", "WAIT 60s M/P95/MAX", "USED PEAK 15m", "TIMEOUTS 60s"]
    )
    assert row.split() == ["7", "default", "500ms/1.2s/1.5s", "9", "4"]
    old = pool_table([answered(7, without_recent())], names=names)
    assert old.splitlines()[1].split() == ["7", "default", "-", "-", "-"]


def test_the_totals_of_rates_are_those_that_are_known() -> None:
    first, second = answered(7, pool()), answered(8, pool())
    keys = [metric.key for metric in columns.COUNTERS]
    known = {key_of(first, pool()): dict.fromkeys(keys, 0.25)}
    names = chosen(["checkouts/s,timeouts/s"])
    lines = pool_table([first, second], names=names, rates=known).splitlines()
    assert [line.split()[2:] for line in lines[1:3]] == [["0.25", "0.25"], ["-", "-"]]
    assert lines[3].split() == ["total", "0.25", "0.25"]
    nothing = pool_table([first, second], names=names)
    assert nothing.splitlines()[3].split() == ["total", "-", "-"]


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0, "0"), (0.001, "<0.01"), (0.02, "0.02"), (1.25, "1.2"), (1234.5, "1234")],
)
def test_a_rate_has_a_short_text(rate: float, text: str) -> None:
    answer = answered(7, pool())
    keys = [metric.key for metric in columns.COUNTERS]
    known = {key_of(answer, pool()): dict.fromkeys(keys, rate)}
    names = chosen(["checkouts/s"])
    row = pool_table([answer], names=names, rates=known).splitlines()[1]
    assert row.split()[-1] == text


def test_more_rows_than_a_terminal_has_are_counted_and_the_totals_stay() -> None:
    lines = pool_table(WORKERS, width=80, height=4).splitlines()
    assert len(lines) == 1 + 4 + 1
    assert lines[4].split(maxsplit=1) == (
        ["...", "3 more rows; choose with --alias and --pid"]
    )
    assert lines[5].split()[0] == "total"
    assert "60" in lines[5]
    assert len(pool_table(WORKERS, height=6).splitlines()) == 1 + 6 + 1


def test_what_is_wrong_is_painted() -> None:
    bad = recent_pool(
        state="paused", in_use=10, waiting=3, timeouts=2, size=10, checkouts=7
    )
    text = pool_table([answered(7, bad), silent(8)], paint=tone)
    assert "<error:paused>" in text
    assert "<warning:10>" in text
    assert "<warning:3>" in text
    assert "<warning:2>" in text
    assert "<error:no answer within 2 s>" in text
    assert text.count("<") == 5
    fine = pool_table([answered(7, recent_pool(checkouts=7, in_use=9))], paint=tone)
    assert "<" not in fine
    names = chosen(["timeouts_60s", "timeouts/s"])
    answer = answered(7, bad)
    rates = {key_of(answer, bad): dict.fromkeys(bad, 1.0)}
    text = pool_table([answer], names=names, rates=rates, paint=tone)
    assert text.count("<error:") == 2


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["waiting,checkouts"], ["waiting", "checkouts"]),
        ([" checkouts , waiting,", "waiting"], ["checkouts", "waiting"]),
        (["USED", "Connect Errors"], ["in_use", "connect_errors"]),
        (["alias,pid,command"], ["command"]),
        (["all"], list(COLUMNS)[2:]),
        (["state,all"], list(COLUMNS)[2:]),
    ],
)
def test_columns_are_chosen_by_name_or_title(
    texts: list[str], names: list[str]
) -> None:
    assert chosen(texts) == ["pid", "alias", *names]


@pytest.mark.parametrize("text", ["wating", "", ",", "waiting;checkouts", "\x1b[2J"])
def test_an_unknown_column_is_an_error_that_lists_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match="There is no column") as caught:
        chosen([text])
    said = str(caught.value)
    assert ("did you mean waiting?" in said) == (text == "wating")
    assert set(re.findall(r"[\w/]+", said)) >= {"all", *COLUMNS}
    assert all(line.isprintable() for line in said.split("\n"))
    assert max(map(len, said.split("\n"))) <= 80


def test_no_two_columns_have_the_same_title() -> None:
    titles = [each.column.title for each in COLUMNS.values()]
    assert len(set(titles)) == len(titles)


def test_the_columns_of_a_table_exist() -> None:
    assert set(columns.RANKED) | set(columns.RANKED_WATCH) <= set(COLUMNS)
    shown = {metric.key for metric in metrics.METRICS if metric.column}
    assert shown <= set(columns.RANKED)


@pytest.mark.parametrize("document", ["README.rst", "docs/commands.rst"])
def test_the_example_is_what_a_terminal_of_80_characters_shows(document: str) -> None:
    waits = [
        {"count": 100, "sum": 120.0, "p95": 4.1, "max": 4.9},
        {"count": 100, "sum": 0.0085, "p95": 1e-5, "max": 0.012},
        {"count": 100, "sum": 0.0079, "p95": 1e-5, "max": 0.0098},
    ]
    answers = []
    for pid, used, idle, waiting, timeouts, wait in zip(
        (12615, 12617, 12618), (10, 1, 0), (0, 3, 4), (30, 0, 0), (2, 0, 0), waits,
        strict=True,
    ):  # fmt: skip
        one = window()
        one["wait_seconds"] |= wait
        figures = {"in_use": used, "idle": idle, "waiting": waiting, "size": 0}
        report = pool(recent={"60": one, "900": one}, timeouts=timeouts, **figures)
        answers.append(answered(pid, report))
    text = (ROOT / document).read_text(encoding="utf-8")
    _, _, rest = text.partition("    $ python manage.py dbpool_stats\n")
    shown = textwrap.dedent(rest.partition("\n\n")[0]).splitlines()
    made = pool_table(answers, width=80).splitlines()
    assert shown[:-1] == made[:-1]
    # The percentile of several pools depends on more than fits here.
    assert shown[-1].split()[:-1] == made[-1].split()[:-1]
