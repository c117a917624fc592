"""What a thread did with its pools, as it is recorded for a while."""

from __future__ import annotations

import contextlib
import functools

import pytest
from django.db import connection, connections
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw.binding.binding import thread_state
from dbpool_mw.binding.usage import Usage
from tests.library import IS_PSYCOPG
from tests.postgres.conftest import ask, stats

pytestmark = pytest.mark.usefixtures("fresh_wrappers")


@pytest.fixture
def recorded(requests):
    """Give a function that records what a view does; returns the checkouts."""

    def record(view):
        usages = []

        def recording(request):
            usage = Usage()
            usages.append(usage)
            try:
                return view(request)
            finally:
                usage.stop()

        assert requests(functools.wraps(view)(recording)).status_code == 200
        (usage,) = usages
        return usage.as_list()

    return record


def answering(function):
    """Make a view of a function without arguments."""

    def view(request):
        function()
        return HttpResponse("well")

    return view


def test_a_clean_request_has_one_checkout_and_leaves_nothing(recorded):
    (only,) = recorded(answering(lambda: ask("SELECT 1")))
    assert only["alias"] == "default"
    assert (only["at_start"], only["goes_on"]) == (True, True)
    assert (only["outcome"], only["reason"]) == ("kept", "")
    assert only["hold_seconds"] > 0
    assert stats()["resets"] == 0


def test_each_checkout_has_its_hold_and_the_statement_that_caused_its_reset(recorded):
    def work():
        ask("SELECT 1")
        connection.close()
        ask("SET statement_timeout = 12345")
        ask("SET statement_timeout = 6789")
        connection.close()
        ask("CREATE TEMP TABLE mine (a int)")

    first, second, third = recorded(answering(work))
    assert [one["at_start"] for one in (first, second, third)] == [True, False, False]
    assert [one["goes_on"] for one in (first, second, third)] == [False, False, True]
    assert (first["outcome"], first["reason"]) == ("kept", "")
    # The first statement that changed the session.
    assert (second["outcome"], second["reason"]) == (
        "reset",
        "SET statement_timeout = 12345",
    )
    assert (third["outcome"], third["reason"]) == (
        "reset",
        "CREATE TEMP TABLE mine (a int)",
    )
    assert stats()["resets"] == 2
    assert stats()["checkouts"] == 3


def test_the_reason_is_that_of_this_hold(recorded):
    recorded(answering(lambda: ask("SET statement_timeout = 12345")))
    (only,) = recorded(answering(lambda: ask("SELECT set_config('a.b', 'x', false)")))
    assert only["reason"] == "SELECT set_config('a.b', 'x', false)"
    (clean,) = recorded(answering(lambda: ask("SELECT 1")))
    assert (clean["outcome"], clean["reason"]) == ("kept", "")


def test_a_statement_is_shown_on_one_line_and_shortened(recorded):
    (only,) = recorded(
        answering(lambda: ask("SET\n  application_name = '" + "x" * 5000 + "'"))
    )
    assert only["reason"].startswith("SET application_name = 'xxx")
    assert len(only["reason"]) <= 200


@pytest.mark.skipif(IS_PSYCOPG, reason="psycopg compares these at the checkin instead")
def test_an_attribute_that_was_set_is_named(recorded):
    def sets():
        connection.connection.isolation_level = 3

    def calls():
        connection.connection.set_session(readonly=True)

    (attribute,) = recorded(answering(sets))
    assert attribute["reason"] == "connection.isolation_level = ..."
    (call,) = recorded(answering(calls))
    assert call["reason"] == "connection.set_session()"


def test_what_closes_the_connection_is_told(recorded):
    def loads():
        with contextlib.suppress(Exception):
            ask("LOAD 'no_such_library'")

    (only,) = recorded(answering(loads))
    assert only["outcome"] == "closed"
    assert "LOAD 'no_such_library'" in only["reason"]


@pytest.mark.parametrize(
    ("mode", "dirty", "expected"),
    [
        ("always", False, ("reset", 'RESET is "always"')),
        ("always", True, ("reset", "SET statement_timeout = 1000")),
        ("never", True, ("kept", "")),
        (
            lambda connection, dirty: None,
            False,
            ("cleaned by RESET", "it is called at every checkin"),
        ),
        (
            lambda connection, dirty: None,
            True,
            ("cleaned by RESET", "SET statement_timeout = 1000"),
        ),
    ],
)
def test_the_outcome_is_that_of_the_setting_reset(recorded, mode, dirty, expected):
    statement = "SET statement_timeout = 1000" if dirty else "SELECT 1"
    with override_settings(DBPOOL_MW_RESET=mode):
        (only,) = recorded(answering(lambda: ask(statement)))
    assert (only["outcome"], only["reason"]) == expected


def test_other_aliases_are_recorded_too(requests, recorded):
    with override_settings(DBPOOL_MW_POOLS={}):
        first, second = recorded(answering(lambda: ask("SELECT 1", "replica")))
    assert (first["alias"], first["at_start"]) == ("default", True)
    assert (second["alias"], second["at_start"]) == ("replica", False)
    connections["replica"].close()


def test_a_recording_inside_of_another_leaves_it_alone(recorded):
    inner = []

    def work():
        usage = Usage()
        connection.close()
        ask("SELECT 1")
        usage.stop()
        inner.extend(usage.as_list())
        connection.close()
        ask("SELECT 1")

    outer = recorded(answering(work))
    assert len(inner) == 2
    assert len(outer) == 3
    assert [one["goes_on"] for one in inner] == [False, True]
    assert [one["goes_on"] for one in outer] == [False, False, True]


def test_nothing_is_recorded_after_the_end_and_nothing_is_kept(recorded):
    (only,) = recorded(answering(lambda: ask("SELECT 1")))
    hold = only["hold_seconds"]
    recorded(answering(lambda: ask("SELECT 1")))
    assert only["hold_seconds"] == hold
    for binding in thread_state.bindings.values():
        assert binding.held.usages == ()
        assert binding.held == []


def test_a_binding_that_nobody_records_holds_a_plain_list(requests):
    requests(answering(lambda: ask("SELECT 1")))
    assert {type(b.held) for b in thread_state.bindings.values()} == {list}


def test_a_hold_that_is_taken_from_its_binding_has_ended(recorded):
    def loses():
        binding = thread_state.bindings["default"]
        ((pool, entry, since),) = binding.held
        assert binding.let_go(entry, since)
        pool.discard(entry, "on purpose")

    (only,) = recorded(answering(loses))
    assert not only["goes_on"]


def test_a_hold_that_two_threads_return_has_ended_once(requests):
    usages = []

    def view(request):
        usage = Usage()
        (held,) = thread_state.bindings["default"].held
        usage.end(held)
        usage.end(held, goes_on=True)
        usage.stop()
        usages.append(usage)
        return HttpResponse("well")

    assert requests(view).status_code == 200
    assert [one["goes_on"] for one in usages[0].as_list()] == [False]
