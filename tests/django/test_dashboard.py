"""What the page of the pools makes of the workers' answers, and its signed tokens."""

from __future__ import annotations

import io
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.template import Engine
from django.test import Client, RequestFactory, override_settings
from django.urls import include, path, resolve, reverse
from django.utils.functional import SimpleLazyObject

from dbpool_mw import conf, decorators
from dbpool_mw.control import drain, orders
from dbpool_mw.control.client import Answer
from dbpool_mw.control.server import ControlServer
from dbpool_mw.dashboard import (
    access,
    actions,
    charts,
    limits,
    presentation,
    turn,
    views,
)
from dbpool_mw.dashboard.access import Access
from dbpool_mw.dashboard.actions import Did, Mistake, Target
from dbpool_mw.dashboard.limits import Known
from dbpool_mw.management.commands import dbpool_dashboard
from tests.control.fakes import FakeWorker, histogram, holder, pool, reply
from tests.documents import code_block

ALL = Access(holders=True, drain=True, cancel=True)


def answer(*pools: dict[str, Any], pid: int = 1, **extra: Any) -> Answer:
    path = Path(f"/tmp/{pid}-00000000.sock")
    return Answer(pid, path, reply=reply(*pools, **extra))


def silent(pid: int = 9) -> Answer:
    return Answer(pid, Path(f"/tmp/{pid}-00000000.sock"), error="no answer\x1b[2J")


def link(verb: str, **target: Any) -> str:
    return f"{verb}?{target}"


def page(*answers: Answer, may: Access = ALL) -> presentation.Page:
    return presentation.page(answers, may, link)


def table(name: str, *answers: Answer, may: Access = ALL) -> presentation.Table:
    shown = page(*answers, may=may)
    (found,) = [t for t in (*shown.first, *shown.more) if t.name == name]
    return found


def row(found: presentation.Table, at: int = 0) -> dict[str, str]:
    return {title: cell.text for title, cell in found.titled_rows[at][1]}


# --- Tables --------------------------------------------------------------------------


def test_the_pools_of_all_workers_are_added_up_and_ages_are_the_oldest() -> None:
    found = table(
        "pools",
        answer(pool(in_use=2, waiting=1, oldest_wait_seconds=1.0, in_transaction=1)),
        answer(
            pool(in_use=3, oldest_wait_seconds=2.5, in_transaction=2), pool("b"), pid=2
        ),
    )
    shown = row(found, 1)
    assert shown["Alias"] == "default"
    assert shown["In use"] == "5"
    assert shown["Waiting"] == "1"
    assert shown["Oldest wait"] == "2.5s"
    assert shown["In transaction"] == "3"
    assert [r.key for r in found.rows] == ["b", "default"]


def test_what_nobody_may_do_has_no_link_and_no_column() -> None:
    reader = table("pools", answer(pool()), may=Access())
    assert "Action" not in reader.columns
    operator = table("pools", answer(pool()))
    assert [a.text for a in operator.rows[0].cells[-1].actions] == [
        "Drain",
        "Recycle",
        "Pause",
    ]


def test_holders_and_waiters_need_their_permission() -> None:
    shown = page(answer(pool(), holders=[holder()]), may=Access(drain=True))
    names = {t.name for t in (*shown.first, *shown.more)}
    assert names & {"holders", "waiters", "routes"} == set()


def test_a_holder_is_shown_with_all_that_is_known() -> None:
    held = holder(
        id="1-2-3",
        route="shop:slow",
        in_transaction=True,
        statement="SELECT pg_sleep(?)",
        state="in use",
        leaked=True,
        stack=["views.py:3 in slow", "models.py:4 in sleep"],
    )
    found = table(
        "holders", answer(pool(), holders=[holder(seconds=0.5, id=None), held])
    )
    shown = row(found)
    assert shown["Request"] == "GET /slow/"
    assert shown["Route"] == "shop:slow"
    assert shown["In transaction"] == "yes"
    assert shown["Runs now"] == "SELECT pg_sleep(?)"
    assert shown["Marks"] == "leaked"
    cells = dict(found.titled_rows[0][1])
    assert cells["Stack"].lines == held["stack"]
    assert [a.url for a in cells["Action"].actions] == ["cancel?{'hold': '1-2-3'}"]
    # Without an id nothing can name it.
    assert dict(found.titled_rows[1][1])["Action"].actions == []


def test_waiters_are_shown_the_longest_wait_first() -> None:
    waiter = {"alias": "default", "address": "x", "thread": "t", "method": "GET"}
    waiters = [
        {**waiter, "path": "/short/", "seconds": 0.1, "route": None},
        {**waiter, "path": "/long/", "seconds": 3.0, "route": "long"},
    ]
    found = table("waiters", answer(pool(), waiters=waiters))
    assert [row(found, at)["Request"] for at in (0, 1)] == ["GET /long/", "GET /short/"]


def test_the_settings_of_workers_that_differ_are_all_shown() -> None:
    settings = {"alias": "default", "address": "x"}
    found = table(
        "settings",
        answer(pool(), settings=[{**settings, "MAX_CONNS": 10, "TIMEOUT": 5.0}]),
        answer(pool(), settings=[{**settings, "MAX_CONNS": 20, "TIMEOUT": 5.0}], pid=2),
    )
    assert found.columns == ("Setting", "default")
    assert [row(found, at)["default"] for at in (0, 1)] == ["10 or 20", "5.0"]


def test_text_from_outside_is_made_printable_and_short() -> None:
    held = holder(path="/\x1b[2J" + "x" * 500, thread="a\nb")
    shown = row(table("holders", answer(pool(), holders=[held])))
    assert all(text.isprintable() and len(text) < 450 for text in shown.values())
    assert all(text.isprintable() for _, text in page(silent()).notices)


def test_many_rows_are_cut_and_counted() -> None:
    found = table("holders", answer(pool(), holders=[holder()] * 230))
    assert len(found.rows) == 200
    assert found.note == "30 more rows are not shown."


def test_what_needs_a_look_is_noticed() -> None:
    assert "No worker was found" in page().notices[0][1]
    shown = page(answer(pool(in_use=10, waiting=3)), silent())
    assert shown.notices == [
        ("error", r"Worker 9: no answer\x1b[2J"),
        (
            "warning",
            "default: every connection of worker 1 is in use, and 3 requests wait.",
        ),
    ]
    assert page(answer(pool(in_use=10))).notices == []


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([pool(in_use=9, connecting=1)], "default: every connection is in use"),
        ([pool(in_use=3)], "default: every connection of worker 1 is in use"),
        (
            [pool(in_use=10, state="draining")],
            "default: every connection of worker 1 is in use",
        ),
        ([pool("another")], "default: every connection is in use"),
        (
            [pool(address="tenant")],
            "default shop/app@db1:5432: every connection is in use",
        ),
    ],
)
def test_only_full_pools_are_said_to_be_full(others, said: str) -> None:
    full = answer(pool(in_use=10, waiting=1))
    (notice,) = page(full, answer(*others, pid=2)).notices
    assert notice == ("warning", f"{said}, and 1 request waits.")


EMPTY = ("orders", "pools", "recent", "holders", "waiters")


@pytest.mark.parametrize("name", EMPTY)
def test_of_workers_that_do_not_answer_no_table_says_that_nothing_is_so(
    name: str,
) -> None:
    for nobody in ([], [silent()]):
        assert table(name, *nobody).empty == "Not known: no worker answers."
    told = table(name, answer()).empty
    assert (
        table(name, answer(), silent()).empty == f"Of the workers that answer: {told}"
    )
    assert told.startswith(("No", "There are no"))


def test_an_order_counts_down_and_names_who_is_waited_for() -> None:
    paused = pool(state="paused", state_seconds_left=29.5, stale=2, in_use=1)
    holders = [holder(stale=True), holder(path="/new/"), holder("b", stale=True)]
    found = table("orders", answer(paused, holders=holders))
    cells = dict(found.titled_rows[0][1])
    assert cells["Ends in"].seconds == "29.5"
    assert cells["Old connections"].text == "2 left"
    assert cells["Waits for"].lines == [
        "GET /slow/ in thread ThreadPoolExecutor-0_1 for 1.2s",
        "1 being opened, cleaned or closed",
    ]
    assert [a.text for a in cells["Action"].actions] == ["Resume"]


def test_what_the_server_allows_is_said_or_that_nobody_knows() -> None:
    pools = presentation.by_alias([answer(pool(size=3, max=60)), answer(pool(max=50))])
    (unknown,) = limits.table(pools, 2, []).rows
    assert [cell.text for cell in unknown.cells[1:4]] == ["3", "110", "not known"]
    (known,) = limits.table(pools, 2, [Known("default", 97, False)]).rows
    assert known.cells[3].text == "97"
    assert known.kind == "dbp-error"
    (proxy,) = limits.table(pools, 2, [Known("default", 97, True)]).rows
    assert (proxy.cells[3].text, proxy.kind) == ("not known", "")


# --- Charts --------------------------------------------------------------------------

COLUMNS = ["age", "in_use_peak", "idle", "waiting_peak", "wait_p95", "hold_p95"]


def history(*rows: list[Any], alias: str = "default") -> dict[str, Any]:
    return {
        "alias": alias,
        "address": "x",
        "interval": 1.0,
        "columns": COLUMNS,
        "rows": list(rows),
    }


def test_workers_are_added_up_point_by_point_and_times_are_the_longest() -> None:
    one = history([1.4, 2, 1, 0, 0.1, 1.0], [0.4, 3, 0, 0, None, 2.0])
    two = history([1.2, 1, 1, 0, 0.3, 0.5], [0.2, 1, 1, 4, 0.2, 0.1])
    found = charts.charts([answer(history=[one]), answer(history=[two], pid=2)])
    by_title = {chart.title: chart for chart in found}
    minute = by_title["default: connections, the last minute"]
    assert [(line.name, line.last) for line in minute.lines] == [
        ("most in use", "4"),
        ("idle", "1"),
        ("most waiting", "4"),
    ]
    assert minute.top == "4"
    assert "most in use now 4, at most 4" in minute.words
    times = by_title["default: wait and hold, 95th percentile, the last minute"]
    assert [line.last for line in times.lines] == ["200ms", "2.0s"]


def test_a_burst_of_two_seconds_ten_minutes_ago_is_seen() -> None:
    calm = [[age + 0.5, 1, 1, 0, 0.0, 0.1] for age in range(899, -1, -1)]
    for age in (600, 601):
        calm[899 - age][1] = 10
    found = charts.charts([answer(history=[history(*calm)])])
    (chart,) = [
        c for c in found if c.title.endswith("connections, the last quarter of an hour")
    ]
    assert chart.top == "10"
    points = chart.lines[0].points[0].split()
    assert len(points) == 150
    highest = [at for at, point in enumerate(points) if point.endswith(",2.0")]
    assert highest == [49]


def test_a_sample_that_comes_late_leaves_no_hole() -> None:
    rows = [[age, 5, 0, 0, 0.0, 0.0] for age in (4.1, 3.05, 2.01, 0.99, 0.01)]
    (chart, *_) = charts.charts([answer(history=[history(*rows)])])
    assert len(chart.lines[0].points) == 1
    assert len(set(chart.lines[0].points[0].split()[-4:])) == 4
    assert {p.split(",")[1] for p in chart.lines[0].points[0].split()} == {"2.0"}


def test_the_work_for_a_line_grows_with_its_length_and_no_faster() -> None:
    def quickest(length: int) -> float:
        """Return the CPU time of the quickest of five lines."""
        found = history(*([age + 0.5, 1, 1, 0, 0.0, 0.1] for age in range(length)))
        times = []
        for _ in range(5):
            began = time.process_time()
            charts._series([found], ["in_use_peak"], length, 6)
            times.append(time.process_time() - began)
        return min(times)

    # Four times the length; sixteen times the time if it were quadratic.
    assert quickest(4 * 900) < 9 * quickest(900)


def test_where_nothing_is_known_no_line_is_drawn() -> None:
    (chart, *_) = charts.charts([answer(history=[history()])])
    assert [line.points for line in chart.lines] == [[], [], []]
    assert charts.charts([answer(pool())]) == []


def test_the_page_says_which_aliases_have_charts_and_how_many_have_none() -> None:
    names = [f"base{number:02}" for number in range(1, 9)]
    few = answer(history=[history(alias=name) for name in (*names[:5], "default")])
    assert charts.note([few]) == ""
    many = [few, answer(history=[history(alias=name) for name in names], pid=2)]
    assert charts.note(many) == (
        "Charts of default, base01, base02, base03, base04, base05; "
        "3 more aliases have none."
    )
    titles = [chart.title for chart in charts.charts(many)]
    assert len(titles) == 6 * 4
    assert all(title.startswith("default: ") for title in titles[:4])
    context = {"charts": charts.charts(many), "charts_note": charts.note(many)}
    templates = Path(charts.__file__).parent.parent / "templates"
    engine = Engine(dirs=[str(templates)])
    shown = engine.render_to_string("dbpool_mw/dashboard/charts.html", context)
    assert shown.startswith('<p class="dbp-note">Charts of default, ')


# --- Actions -------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "1e9", "x", "0.5"])
def test_a_pause_needs_a_sensible_end(text: str) -> None:
    with pytest.raises(Mistake):
        actions.seconds_of("pause", {"seconds": text})


@pytest.mark.parametrize("hold", ["x", "1-2", "1-2-3-4", "٣-2-3"])
def test_a_hold_is_named_by_its_id(hold: str) -> None:
    with pytest.raises(Mistake, match="names no hold"):
        actions.target_of("cancel", {"hold": hold})


def test_what_another_host_has_shown_is_not_done_here(monkeypatch) -> None:
    shown = {"alias": "default", "host": actions.here()}
    assert actions.target_of("drain", shown).words.endswith(f" on {shown['host']}")
    done = Did("drain", actions.target_of("drain", shown), [])
    monkeypatch.setattr(platform, "node", lambda: "the-other")
    for verb, fields in (("drain", shown), ("cancel", {"hold": "1-2-3", **shown})):
        with pytest.raises(Mistake, match="and the-other got it: nothing was done"):
            actions.target_of(verb, fields)
    under = answer(pool(state="draining"))
    heading, lines = actions.progress(done, [under], "", holders=True)
    assert heading == "Not known"
    assert f"on {shown['host']}: this is an answer of the-other" in lines[0]


def test_a_drain_may_have_no_end_and_a_recycle_has_none() -> None:
    assert actions.seconds_of("drain", {"seconds": ""}) is None
    assert actions.seconds_of("drain", {"seconds": "60"}) == 60
    assert actions.seconds_of("recycle", {"seconds": "60"}) is None


@pytest.mark.parametrize("pid", ["x", "-1", "1.5", "٣", "12345678901"])
def test_a_worker_is_named_by_a_number(pid: str) -> None:
    with pytest.raises(Mistake):
        actions.target_of("drain", {"pid": pid})


def progress(
    verb: str,
    target: Target,
    answers: list[Answer],
    problem: str = "",
    *,
    lacks: Sequence[str] = (),
    holders: bool = True,
) -> tuple[str, list[str]]:
    did = Did(verb, target, lacks)
    return actions.progress(did, answers, problem, holders=holders)


@pytest.mark.parametrize(
    ("verb", "answers", "heading", "said"),
    [
        ("drain", [answer(pool(state="draining"))], "Done", "done"),
        ("drain", [answer(pool(state="draining", stale=2))], "Under way", "2 connec"),
        ("drain", [answer(pool())], "Ended", "not in force in worker 1"),
        ("drain", [answer(pool()), silent()], "Ended", "Worker 9 doesn't answer"),
        ("recycle", [answer(pool(stale=1))], "Under way", "waits for 1 connection."),
        ("recycle", [answer(pool())], "Done", "done"),
        ("recycle", [silent()], "Not known", "doesn't answer"),
        ("recycle", [answer(pool()), silent()], "Not known", "not known of every"),
        ("resume", [answer(pool(state="paused"))], "Under way", "paused still"),
        ("resume", [answer(pool())], "Done", "every pool runs"),
        ("resume", [silent()], "Not known", "doesn't answer"),
        ("drain", [], "Not known", "no worker was found"),
    ],
)
def test_progress_is_what_the_workers_say_last(
    verb: str, answers: list[Answer], heading: str, said: str
) -> None:
    found, lines = progress(verb, Target("default"), answers)
    assert found == heading
    assert said in " ".join(lines)


#: The number of a process that there can't be.
NOBODY = 2**31 - 1


@pytest.mark.parametrize(
    ("target", "answers", "problem", "heading"),
    [
        (Target(pid=NOBODY), [], "", "Done"),
        (Target(pid=NOBODY), [], "it can't be trusted", "Not known"),
        # It goes on, and its socket is gone.
        (Target(pid=os.getpid()), [], "", "Not known"),
        (Target(hold=f"{NOBODY}-2-3"), [], "", "Done"),
        (Target(hold=f"{NOBODY}-2-3"), [], "it can't be trusted", "Not known"),
        (Target(hold="9-2-3"), [silent()], "", "Not known"),
        (Target(hold="9-2-3"), [answer(pool()), silent()], "", "Not known"),
        (Target(hold="9-2-3"), [answer(pool(), pid=9), silent(1)], "", "Done"),
        (Target(hold=f"{os.getpid()}-2-3"), [answer(pool())], "", "Not known"),
    ],
)
def test_nothing_is_done_in_a_worker_that_cannot_be_asked(
    target: Target, answers: list[Answer], problem: str, heading: str
) -> None:
    verb = "drain" if target.hold is None else "cancel"
    found, lines = progress(verb, target, answers, problem)
    assert found == heading
    assert ("has ended" in " ".join(lines)) == (heading == "Done")


def test_progress_names_nobody_to_who_may_not_see_holders() -> None:
    under = answer(pool(state="draining", stale=1), holders=[holder(stale=True)])
    _, shown = progress("drain", Target(), [under])
    assert "GET /slow/" in " ".join(shown)
    _, shown = progress("drain", Target(), [under], holders=False)
    assert "GET /slow/" not in " ".join(shown)


@pytest.mark.parametrize(
    ("answers", "heading"),
    [
        ([answer(pool(state="draining"))], "Incomplete"),
        ([answer(pool())], "Incomplete"),
        ([answer(pool(state="draining", stale=1))], "Under way"),
        ([silent()], "Not known"),
    ],
)
def test_what_is_wanting_is_shown_and_nothing_is_done_then(
    answers: list[Answer], heading: str
) -> None:
    lacks = ["not confirmed by 7 (no answer)", "not kept for workers that start later"]
    found, lines = progress("drain", Target(), answers, lacks=lacks)
    assert found == heading
    assert lines[-2:] == [f"When it was sent: {lack}." for lack in lacks]


def test_what_was_done_is_told_by_a_token_that_nobody_forges(monkeypatch) -> None:
    done = Did("drain", Target("default", 7), ["not kept: " + "ä" * 5000])
    token = done.token
    assert len(token) < 1000
    again = actions.did_of(token)
    assert again is not None
    assert again[:2] == done[:2]
    assert again.lacks[0].startswith("not kept: ä")
    assert actions.did_of(token[:-1]) is None
    assert actions.did_of(access.link_token()) is None
    monkeypatch.setattr(actions, "OPEN_SECONDS", -1)
    assert actions.did_of(token) is None


def test_a_cancelled_hold_is_done_when_that_hold_has_ended() -> None:
    target = Target(hold="1-2-3")
    held = answer(pool(), holders=[holder(id="1-2-3")])
    (found, _) = progress("cancel", target, [held])
    assert found == "Under way"
    next_hold = answer(pool(), holders=[holder(id="1-2-4")])
    (found, _) = progress("cancel", target, [next_hold])
    assert found == "Done"


# --- Tokens --------------------------------------------------------------------------


def test_a_poll_token_gives_what_it_was_made_for_and_the_next_one() -> None:
    known = [["default", 97, False]]
    may, kept, following = access.of_poll(access.poll_token(ALL, known))
    assert (may, kept) == (ALL, known)
    assert access.of_poll(following)[:2] == (ALL, known)


def test_no_token_is_good_for_another_purpose() -> None:
    for wrong in (access.link_token(), "", "a:b:c"):
        with pytest.raises(access.Refused):
            access.of_poll(wrong)
    with pytest.raises(access.Refused):
        access.of_link(access.poll_token(ALL))
    with override_settings(SECRET_KEY="another"):
        other = access.poll_token(ALL)
    with pytest.raises(access.Refused, match="isn't known here"):
        access.of_poll(other)


def test_a_page_ends_when_it_has_been_open_too_long(monkeypatch) -> None:
    token = access.poll_token(ALL)
    monkeypatch.setattr(access, "OPEN_SECONDS", -1)
    with pytest.raises(access.Refused, match="for too long"):
        access.of_poll(token)


def test_a_page_ends_when_it_has_not_polled_for_long(monkeypatch) -> None:
    token = access.poll_token(ALL)
    monkeypatch.setattr(access, "POLL_SECONDS", -1)
    with pytest.raises(access.Refused, match="Load it again"):
        access.of_poll(token)


def test_a_link_lets_see_and_do_nothing() -> None:
    assert access.of_link(access.link_token()) == Access(holders=True)
    assert access.of_link(access.link_token(holders=False)) == Access()
    with pytest.raises(access.Refused, match="too old"):
        access.of_link(access.link_token(-1))


@pytest.mark.parametrize("name", ["csp_nonce", "_csp_nonce"])
def test_the_nonce_of_django_and_of_django_csp_is_used(name: str) -> None:
    request = RequestFactory().get("/")
    assert access.nonce(request) == ""
    setattr(request, name, SimpleLazyObject(lambda: "abc"))
    assert access.nonce(request) == "abc"


def test_who_waits_too_long_for_the_one_connection_gets_an_answer(monkeypatch) -> None:
    monkeypatch.setattr(turn, "_LEAST_SECONDS", 0.01)
    monkeypatch.setattr(
        access, "message", lambda *said: HttpResponse(said[3], status=said[1])
    )

    def ask(request: HttpRequest) -> HttpResponse:
        connection.ensure_connection()
        return _response(200)

    asking = access.outside(ask)
    knowing = access.outside(lambda request: _response(200))
    with override_settings(DBPOOL_MW_TIMEOUT=0.01), turn._turn:
        refused = asking(RequestFactory().get("/"))
        assert knowing(RequestFactory().get("/")).status_code == 200
    assert refused.status_code == 503
    assert refused.content == b"Another request for this page is being served."


def _response(status: int) -> Any:
    return HttpResponse(status=status)


# --- docs/dashboard.rst --------------------------------------------------------------


def test_the_routes_of_the_document_need_neither_users_nor_the_admin() -> None:
    urls = ModuleType("urls_of_the_document")
    exec(code_block("docs/dashboard.rst", "# urls.py"), vars(urls))
    with override_settings(ROOT_URLCONF=urls):
        assert reverse("dbpool_mw:dashboard") == "/dbpool/"
        found = resolve("/dbpool/poll/").func
        assert decorators.needs_no_pool(RequestFactory().get("/dbpool/poll/"))
    decorators.forget_urls()
    assert found.login_required is False
    assert "replica" in found._non_atomic_requests


@pytest.mark.parametrize("namespace", ["dbpool_mw", "pools"])
def test_the_page_works_among_the_urls_of_another_app(namespace: str) -> None:
    urls = ModuleType("nested_urls")
    pages = [path("pool/", include("dbpool_mw.urls", namespace=namespace))]
    urls.urlpatterns = [path("ops/", include((pages, "ops")))]  # type: ignore[attr-defined]
    engine = "django.template.backends.django.DjangoTemplates"
    with override_settings(
        ROOT_URLCONF=urls,
        DBPOOL_MW_CONTROL_DIR=False,
        TEMPLATES=[{"BACKEND": engine, "APP_DIRS": True}],
    ):
        response = Client().get(f"/ops/pool/link/{access.link_token()}/")
        assert response.status_code == 200
        assert b'data-poll="/ops/pool/poll/"' in response.content
        printed = io.StringIO()
        call_command("dbpool_dashboard", stdout=printed, stderr=io.StringIO())
        assert printed.getvalue().startswith("/ops/pool/link/")


def test_a_poll_that_reaches_another_host_says_so(monkeypatch) -> None:
    urls = ModuleType("urls_of_a_host")
    urls.urlpatterns = [path("dbpool/", include("dbpool_mw.urls"))]  # type: ignore[attr-defined]
    engine = "django.template.backends.django.DjangoTemplates"
    monkeypatch.setattr(platform, "node", lambda: "one")
    with override_settings(
        ROOT_URLCONF=urls,
        DBPOOL_MW_CONTROL_DIR=False,
        TEMPLATES=[{"BACKEND": engine, "APP_DIRS": True}],
    ):
        page = Client().get(f"/dbpool/link/{access.link_token()}/").content.decode()
        (token,) = re.findall('data-token="([^"]+)"', page)
        for host in ("one", "the-other", "one"):
            monkeypatch.setattr(platform, "node", lambda host=host: host)
            found = Client().get("/dbpool/poll/?charts=1", headers={views.TOKEN: token})
            token, parts = found.json()["token"], found.json()["parts"]
            assert f"<strong>{host}</strong>" in parts["live"]
            is_elsewhere = host == "the-other"
            said = "This is an answer of the-other, and the page was opened on one"
            assert (said in parts["live"]) == is_elsewhere
            assert ("charts" not in parts) == is_elsewhere


# --- What goes wrong -----------------------------------------------------------------


@pytest.fixture
def worker() -> Iterator[tuple[FakeWorker, Path]]:
    """Give a worker that answers, and its control directory."""
    with tempfile.TemporaryDirectory(prefix="dbpool-", dir="/tmp") as name:
        directory, fake = Path(name) / "control", FakeWorker()
        server = ControlServer(directory, fake)
        server.start()
        yield fake, directory
        server.stop()


def act(directory: Path, verb: str = "drain", **target: Any) -> Did:
    return actions.act(directory, verb, Target(**target), None, "ann")


def test_an_order_that_is_not_kept_or_not_confirmed_says_so(
    worker, monkeypatch
) -> None:
    fake, directory = worker
    assert act(directory, alias="default").lacks == []
    assert fake.verbs == ["drain"]

    def keep(*_: Any) -> None:
        raise orders.OrdersError("the disk is full")

    monkeypatch.setattr(orders, "keep", keep)
    unkept = "not kept for workers that start later: the disk is full"
    assert act(directory).lacks == [unkept]
    monkeypatch.setattr(
        actions.drain,
        "send",
        lambda verb, *_, **__: drain.Progress(verb, [], [silent(7)], []),
    )
    none, silence, _ = act(directory, "recycle").lacks
    assert none == "confirmed by no worker"
    assert silence.startswith("not confirmed by 7 (no answer")
    monkeypatch.setattr(
        actions.drain, "send", lambda verb, *_, **__: drain.Progress(verb, [], [], [])
    )
    with pytest.raises(Mistake, match="No worker was found; not kept"):
        act(directory)


def test_an_order_that_no_worker_gets_is_kept_and_says_so(tmp_path) -> None:
    assert act(tmp_path / "none").lacks == ["confirmed by no worker"]
    assert (tmp_path / "none" / "orders.json").exists()
    with pytest.raises(Mistake, match="There is no such worker"):
        act(tmp_path / "none", pid=NOBODY)


def test_an_alias_that_no_settings_name_may_be_a_workers(worker) -> None:
    fake, directory = worker
    fake.pools[0]["alias"] = "of another release"
    assert act(directory, alias="of another release").lacks == []
    with pytest.raises(Mistake, match="No worker has a pool of nobodys"):
        act(directory, alias="nobodys")
    assert "drain" not in fake.verbs[2:]


def test_a_directory_that_cannot_be_trusted_is_a_mistake(worker) -> None:
    directory = worker[1]
    directory.chmod(0o777)
    with pytest.raises(Mistake, match="No worker could be asked"):
        act(directory, "cancel", hold="1-2-3")
    with override_settings(DBPOOL_MW_CONTROL_DIR=str(directory)):
        assert "may be written by others" in views.asked(ALL)[1]
    directory.chmod(0o700)


def test_a_hold_of_a_silent_worker_is_not_said_to_have_ended(
    monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(actions, "survey", lambda *_, **__: [silent()])
    with pytest.raises(Mistake, match=r"9 doesn't answer.* Nothing was cancelled"):
        act(tmp_path, "cancel", hold="9-2-3")
    monkeypatch.setattr(actions, "survey", lambda *_, **__: [answer(pool(), pid=9)])
    with pytest.raises(Mistake, match=r"has ended.* Nothing was cancelled"):
        act(tmp_path, "cancel", hold="9-2-3")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"error": "the process is gone", "gone": True}, "has ended just now"),
        ({"reply": reply(cancelled=[], unknown=["1-2-3"])}, "has ended just now"),
    ],
)
def test_a_cancel_that_came_too_late_is_said_to_have_done_nothing(
    monkeypatch, tmp_path, changes, said
) -> None:
    held = answer(pool(), holders=[holder(id="1-2-3")])
    monkeypatch.setattr(actions, "survey", lambda *_, **__: [held])
    late = Answer(1, held.path, **changes)
    monkeypatch.setattr(actions.client, "ask", lambda *_: [late])
    with pytest.raises(Mistake, match=said):
        act(tmp_path, "cancel", hold="1-2-3")


def test_a_cancel_that_was_not_confirmed_is_perhaps_done(monkeypatch, tmp_path) -> None:
    held = answer(pool(), holders=[holder(id="1-2-3")])
    monkeypatch.setattr(actions, "survey", lambda *_, **__: [held])
    mute = Answer(1, held.path, error="no answer")
    monkeypatch.setattr(actions.client, "ask", lambda *_: [mute])
    did = act(tmp_path, "cancel", hold="1-2-3")
    assert did.lacks == ["not confirmed by 1 (no answer)"]


def test_a_worker_without_a_pool_and_a_holder_without_an_id_are_shown() -> None:
    assert row(table("workers", answer()))["Alias"] == "no pool open yet"
    assert table("workers", silent()).rows[0].kind == "dbp-error"


def test_routes_are_added_up_those_that_hold_most_first() -> None:
    def times(count: int, total: float) -> dict[str, Any]:
        return {"count": count, "sum": total, "max": total, "p95": total}

    def route(name: str, total: float) -> dict[str, Any]:
        holds, waits = times(2, total), times(2, 0.0)
        return {"alias": "default", "name": name, "holds": holds, "waits": waits}

    found = table(
        "routes",
        answer(pool(), routes=[route("quick", 0.5), route("slow", 2.0)]),
        answer(pool(), routes=[route("slow", 3.0)], pid=2),
    )
    assert [row(found, at)["Route"] for at in (0, 1)] == ["slow", "quick"]
    assert row(found)["Holds"] == "4"
    assert row(found)["Held in all"] == "5.0s"
    assert row(found)["Longest hold"] == "3.0s"


def test_recent_figures_are_those_of_all_workers_and_their_longest_times() -> None:
    times = {**histogram(0.1, 0.8, 0.9), "p50": 0.1, "p95": 0.8, "p99": 0.9}
    none = {**histogram(), "p50": None, "p95": None, "p99": None}
    window = {
        **{"seconds": 60.0, "checkouts": 3, "timeouts": 1, "refused": 0},
        **{"in_use_peak": 2, "waiting_peak": 1},
        **{"wait_seconds": times, "hold_seconds": none, "connect_seconds": none},
    }
    quick = {**window, "wait_seconds": {**times, "p95": 0.2}}
    found = table(
        "recent",
        answer(pool(recent={"60": window, "900": window})),
        answer(pool(recent={"60": quick, "900": quick}), pid=2),
    )
    shown = row(found)
    assert (shown["Time"], shown["Checkouts"]) == ("last minute", "6")
    assert (shown["Most in use"], shown["Wait p95"]) == ("4", "800ms")
    assert shown["Hold p95"] == "-"
    without = pool()
    without.pop("recent", None)
    assert presentation._recent([answer(without)]).rows == []


@pytest.mark.parametrize("did", ["", "nonsense", "drain&alias=default"])
def test_a_page_opened_after_no_action_shows_no_progress(did: str) -> None:
    request = RequestFactory().get(f"/?did={did}")
    assert views._progress(request, ALL, [answer(pool())]) is None


def test_who_may_not_see_holders_is_not_told_of_a_cancelled_one() -> None:
    token = Did("cancel", Target(hold=f"{NOBODY}-2-3"), []).token
    request = RequestFactory().get(f"/?did={token}")
    assert views._progress(request, ALL, [])[0] == "Done"
    assert views._progress(request, Access(cancel=True), [])[0] == "Confirmed"
    assert views._progress(request, Access(holders=True), []) is None


def test_a_history_of_other_columns_draws_nothing() -> None:
    other = {**history(), "columns": ["age", "other"], "rows": [[0.5, 1]]}
    (chart, *_) = charts.charts([answer(history=[other])])
    assert [line.points for line in chart.lines] == [[], [], []]


def test_wrong_settings_and_unknown_aliases_break_no_page() -> None:
    with override_settings(DBPOOL_MW_POOLS=[]):
        conf.reset_cache()
        limits.remember()
    conf.reset_cache()
    pools = presentation.by_alias([answer(pool("of another release"))])
    assert limits.table(pools, 1, []).rows[0].cells[3].text == "not known"


def test_what_needs_no_session_works_in_a_project_without_them() -> None:
    served = access.from_memory(lambda request: _response(200))
    assert served(RequestFactory().get("/")).status_code == 200


@pytest.mark.parametrize(
    "words",
    [
        ["shop.example"],
        ["https://shop.example/path"],
        ["--valid", "86401"],
        ["ftp://x"],
    ],
)
def test_the_command_refuses_what_makes_no_link(words: list[str]) -> None:
    with pytest.raises(CommandError):
        call_command("dbpool_dashboard", *words)


def test_the_command_ends_quietly_when_nobody_reads_its_output(monkeypatch) -> None:
    written = []
    monkeypatch.setattr(dbpool_dashboard, "_path", lambda token: "/x/")
    monkeypatch.setattr(
        dbpool_dashboard, "write", lambda stream, text: written.append(text)
    )
    call_command("dbpool_dashboard")
    assert written == ["/x/"]
