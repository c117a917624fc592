"""What the next request finds of the state that a request left, for each RESET.

With DBPOOL_MW_TEST_WRITE_DOCS=1 the run writes its measurements into the documents;
without it, they have to agree with them. docs/sessions.rst has what is the same on both
libraries, docs/drivers.rst what is different.
"""

from __future__ import annotations

import pytest
from django.db import connection, connections, transaction
from django.db.backends.signals import connection_created
from django.http import HttpResponse
from django.test import override_settings

from tests.documents import WRITE, code_block, table, write_table, written_table
from tests.library import IS_PSYCOPG, LIBRARY
from tests.postgres.conftest import ask, stats
from tests.postgres.states import STATES, kept, prepare, run_step, setting
from tests.vocabulary import close_all, since_psycopg_32

DOCUMENT = "docs/sessions.rst"
DRIVERS = "docs/drivers.rst"
MODES = ("auto", "always", "never")

RESET = ("cleaned, 1", "cleaned, 1", "**stays**, 0")
SENT = ("cleaned, 2", "cleaned, 2", "**stays**, 0")
UNSEEN = ("**stays**, 0", "cleaned, 1", "**stays**, 0")
NOTHING = ("nothing to clean, 0", "nothing to clean, 1", "nothing to clean, 0")
MEMORY = ("cleaned, 0", "cleaned, 1", "cleaned, 0")
HEARD = ("cleaned, 1", "cleaned, 1", "cleaned, 0")
ROLLED_BACK = ("cleaned, 1", "cleaned, 2", "cleaned, 1")
CLOSED = ("closed", "closed", "closed")

COPY_OUT = "``COPY … TO`` broken off"
UNREAD = "a notification not read"
COPY_LEFT, STREAM_LEFT = "``copy()`` left open", "``stream()`` left open"
#: What psycopg 3.1 doesn't have, and what is cancelled: while it cancels, the proxy in
#: this process stops.
SINCE_32 = [COPY_OUT, UNREAD, COPY_LEFT, STREAM_LEFT] if IS_PSYCOPG else []

#: For each RESET: what the next request finds, and the round trips of the checkin.
EXPECTED = {
    "nothing": NOTHING,
    "``SET LOCAL``": NOTHING,
    "``SET statement_timeout``": RESET,
    "``SET search_path``": RESET,
    "``SET TimeZone``": RESET,
    "``SET app.user_id``": RESET,
    "``SET ROLE``": RESET,
    "``SET SESSION AUTHORIZATION``": RESET,
    "``set_config(…, false)``": RESET,
    "the same, within a function": UNSEEN,
    "read only, by SQL": RESET,
    "isolation level, by SQL": RESET,
    "deferrable, by SQL": RESET,
    "``SET client_encoding``": RESET,
    "``autocommit = False``": MEMORY,
    "the same, and a query": ROLLED_BACK,
    "``BEGIN``": ROLLED_BACK,
    "``BEGIN``, and an error": ROLLED_BACK,
    "temporary table": RESET,
    "advisory lock of the session": RESET,
    "``LISTEN``": RESET,
    "``PREPARE``": RESET,
    "``setseed()``": ("closed", "closed", "**stays**, 0"),
    "``DECLARE … WITH HOLD``": RESET,
    "named cursor ``WITH HOLD``, kept": CLOSED,
    "named cursor, kept": CLOSED,
    "``.iterator()`` broken off, kept": CLOSED,
    "``.iterator()`` broken off, dropped": NOTHING,
    "``COPY … FROM`` broken off": NOTHING,
    "a query cancelled": NOTHING,
}

#: The same of what one library offers, or does in its own way.
DIFFERENCES = {
    ("``read_only = True``", "psycopg"): MEMORY,
    ("``readonly = True``", "psycopg2"): SENT,
    ("``isolation_level = …``", "psycopg"): MEMORY,
    ("``isolation_level = …``", "psycopg2"): SENT,
    ("``deferrable = True``", "psycopg"): MEMORY,
    ("``deferrable = True``", "psycopg2"): SENT,
    (COPY_OUT, "psycopg"): NOTHING,
    (COPY_OUT, "psycopg2"): CLOSED,
    ("``set_client_encoding(…)``", "psycopg2"): SENT,
    ("``row_factory = …``", "psycopg"): MEMORY,
    ("``cursor_factory = …``", "psycopg"): MEMORY,
    ("a loader registered", "psycopg"): MEMORY,
    ("``TypeInfo.register(…)``", "psycopg"): MEMORY,
    ("``add_notice_handler(…)``", "psycopg"): MEMORY,
    ("``add_notify_handler(…)``", "psycopg"): MEMORY,
    ("``prepare_threshold = 0``", "psycopg"): MEMORY,
    (UNREAD, "psycopg"): HEARD,
    ("``pipeline()`` left open", "psycopg"): CLOSED,
    ("``transaction()`` left open", "psycopg"): CLOSED,
    (COPY_LEFT, "psycopg"): CLOSED,
    (STREAM_LEFT, "psycopg"): CLOSED,
    ("a statement by ``pgconn``", "psycopg"): UNSEEN,
    ("a statement by ``wait()``", "psycopg"): UNSEEN,
}
OF_LIBRARY = {
    state: expected
    for (state, library), expected in DIFFERENCES.items()
    if library == LIBRARY
}


def tables(found):
    """Return each document, its table's name, and the table.

    What is not in ``found``, such as the rows of the other library, is as expected.
    """
    figures = [
        [state, *found.get(state, expected)] for state, expected in EXPECTED.items()
    ]
    differences = [
        [
            state,
            library,
            *(found.get(state, expected) if library == LIBRARY else expected),
        ]
        for (state, library), expected in DIFFERENCES.items()
    ]
    return [
        (DOCUMENT, "figures", table(("A request did", *MODES), figures)),
        (
            DRIVERS,
            "differences",
            table(("A request did", "Library", *MODES), differences),
        ),
    ]


@pytest.fixture(scope="module")
def measured():
    """Collect the measurements; write them into the document if that is asked for."""
    found = {}
    yield found
    if WRITE and len(found) == len(STATES) * len(MODES):
        rows = {state: [found[state, mode] for mode in MODES] for state in STATES}
        for document, name, text in tables(rows):
            write_table(document, text, name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[since_psycopg_32] if name in SINCE_32 else [])
        for name in STATES
    ],
)
def test_the_next_request_finds_what_the_table_says(
    name, mode, requests, databases, wire, measured
):
    prepare(databases)
    leave, observe = STATES[name]
    seen = []

    def observes(request):
        seen.append(run_step(observe))
        return HttpResponse()

    def leaves(request):
        run_step(leave)
        seen.append(run_step(observe))
        wire.messages.clear()
        return HttpResponse()

    with override_settings(DBPOOL_MW_RESET=mode):
        requests(observes)
        requests(leaves)
        # Query and Sync: what the client waits for an answer after.
        trips = [message for message in wire.messages if message in (b"Q", b"S")]
        opened = stats()["opened"]
        requests(observes)
        closed = stats()["opened"] > opened
    close_all(kept)
    fresh, left, found = seen
    if closed:
        assert found == fresh
        assert not trips
        measured[name, mode] = "closed"
    else:
        outcome = "cleaned" if found == fresh else "**stays**"
        if left == fresh == found:
            outcome = "nothing to clean"
        measured[name, mode] = f"{outcome}, {len(trips)}"
    assert measured[name, mode] == {**EXPECTED, **OF_LIBRARY}[name][MODES.index(mode)]


@pytest.mark.skipif(WRITE, reason="this run writes the document")
@pytest.mark.parametrize(("document", "name", "text"), tables({}))
def test_the_document_has_the_table_that_the_tests_expect(document, name, text):
    assert written_table(document, name) == text


def test_each_state_has_its_row():
    assert sorted({**EXPECTED, **OF_LIBRARY}) == sorted(STATES)


def test_the_documented_reset_function_undoes_what_auto_does_not_see(
    requests, databases, wire
):
    prepare(databases)
    names = {}
    exec(code_block(DOCUMENT, "def forget_user"), names)
    leave, observe = STATES["the same, within a function"]
    seen = []

    def view(request):
        seen.append(ask(observe))
        ask(leave)
        wire.messages.clear()
        return HttpResponse()

    with override_settings(DBPOOL_MW_RESET=names["forget_user"]):
        for _ in range(3):
            requests(view)
            assert wire.messages == [b"Q"]
    assert seen == [""] * 3


@pytest.fixture
def receiver():
    def created(connection, **signal):
        with connection.cursor() as cursor:
            cursor.execute("SET app.user_id = 'nobody'; SET lock_timeout = 4321")

    connection_created.connect(created, dispatch_uid="test")
    yield
    connection_created.disconnect(dispatch_uid="test")


@pytest.fixture
def role(databases):
    options = connections.settings["default"]["OPTIONS"] = {"assume_role": "pg_monitor"}
    yield options
    connections["default"].close()
    connections.settings["default"]["OPTIONS"] = {}


SET_UP = {
    "TimeZone": ("UTC", "SET TimeZone = 'Asia/Tokyo'"),
    "role": ("pg_monitor", "RESET ROLE"),
    "app.user_id": ("nobody", "SET app.user_id = '42'"),
    "lock_timeout": ("4321ms", "RESET ALL"),
}


@pytest.mark.usefixtures("receiver", "role")
@pytest.mark.parametrize("mode", ["auto", "always"])
@pytest.mark.parametrize("name", SET_UP)
def test_settings_made_by_django_and_receivers_hold_after_a_reset(name, mode, requests):
    expected, change = SET_UP[name]
    seen = []

    def view(request):
        seen.append(ask(setting(name)))
        ask(change)
        assert ask(setting(name)) != expected
        return HttpResponse()

    with override_settings(DBPOOL_MW_RESET=mode):
        for _ in range(3):
            assert requests(view).status_code == 200
        assert seen == [expected] * 3
        assert stats()["opened"] == 1


def test_a_session_that_changed_nothing_is_not_reset(requests):
    def view(request):
        with transaction.atomic():
            ask("SELECT 1")
            ask("SET LOCAL statement_timeout = 5")
            with transaction.atomic():
                ask("SELECT count(*) FROM pg_class")
        with connection.cursor() as cursor:
            cursor.executemany("SELECT %s", [(1,), (2,)])
        connection.check_constraints()
        return HttpResponse()

    for _ in range(3):
        requests(view)
    assert stats()["resets"] == stats()["rollbacks"] == 0
    assert stats()["discarded"] == {}
    assert stats()["opened"] == 1


def test_a_named_cursor_read_to_its_end_needs_no_reset(requests):
    def view(request):
        cursor = connections["default"].chunked_cursor()
        cursor.execute("SELECT generate_series(1, 5)")
        assert len(cursor.fetchall()) == 5
        cursor.close()
        return HttpResponse()

    for _ in range(2):
        requests(view)
    assert stats()["opened"] == 1
    assert stats()["resets"] == 0
    assert stats()["discarded"] == {}
