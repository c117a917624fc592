"""What is left of a request's session for the next one: docs/sessions.rst, measured.

With DBPOOL_MW_TEST_WRITE_DOCS=1 the run writes the table there; without, it compares.
"""

from __future__ import annotations

import os
import re

import pytest
from django.http import HttpResponse
from django.test import override_settings

from tests.documents import ROOT
from tests.postgres.conftest import stats
from tests.postgres.test_round_trips import wire as wire
from tests.postgres.test_session import CHANGES, left_open, picture

DOCUMENT = ROOT / "docs" / "sessions.rst"
BEGIN, END = ".. table: begin", ".. table: end"
MODES = ("auto", "always", "never")
HEADER = ("A request did", *MODES)


def documented():
    """Return the table's rows: by what a request did, what each mode makes of it."""
    table = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    cells = [re.split(r" {2,}", line.strip()) for line in table.splitlines()]
    rows = [each for each in cells if len(each) == len(HEADER) and "=" not in each[0]]
    return {name: dict(zip(MODES, found, strict=True)) for name, *found in rows[1:]}


def written(rows):
    """Return the table as reStructuredText."""
    lines = [HEADER, *((name, *map(found.get, MODES)) for name, found in rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([rule, text[0], rule, *text[1:], rule])


@pytest.fixture(scope="module")
def measured():
    """Collect what the tests measure; write it where that is wanted."""
    rows = {}
    yield rows
    if os.environ.get("DBPOOL_MW_TEST_WRITE_DOCS") == "1":
        head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        table = f"{BEGIN}\n\n{written(rows)}\n\n{END}"
        DOCUMENT.write_text(head + table + rest.partition(END)[2], encoding="utf-8")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_left_and_what_it_costs(name, mode, requests, wire, measured):
    pictures = []

    def look(request):
        pictures.append(picture())
        return HttpResponse()

    def change(request):
        CHANGES[name]()
        # What comes from here on is sent to give the connection back.
        wire.messages.clear()
        return HttpResponse()

    with override_settings(DBPOOL_MW_RESET=mode):
        for view in (look, change):
            assert requests(view).status_code == 200
        trips = len([each for each in wire.messages if each == b"Q"])
        gone = stats()["opened"] - stats()["size"]
        assert requests(look).status_code == 200
        assert stats()["in_use"] == 0
        left_open.clear()
    cleaned = pictures[0] == pictures[1]
    if name == "nothing":
        what = "nothing to clean"
        assert cleaned
        assert not gone
    else:
        what = "closed" if gone else "cleaned" if cleaned else "**stays**"
    found = what if gone else f"{what}, {trips}"
    # Whatever the table says, nothing may stay where sessions are reset.
    assert cleaned or mode == "never"
    assert trips == 0 or name != "nothing" or mode == "always"
    measured.setdefault(name, {})[mode] = found
    if os.environ.get("DBPOOL_MW_TEST_WRITE_DOCS") != "1":
        assert documented()[name][mode] == found


def test_the_table_has_every_row_once():
    if os.environ.get("DBPOOL_MW_TEST_WRITE_DOCS") != "1":
        assert list(documented()) == list(CHANGES)
