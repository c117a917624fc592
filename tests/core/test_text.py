"""Text from outside: escaped, shortened, on one line."""

from __future__ import annotations

import pytest

from dbpool_mw.core.text import one_line, printable, shortened
from tests.core.fakes import HOSTILE


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_terminal_may_act_upon_is_escaped(text):
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    printable(text).encode()


def test_a_printable_text_stays_as_it_is():
    assert printable("/käse/日本/?a=1 b") == "/käse/日本/?a=1 b"
    assert shortened("/käse/", 6) == one_line("/käse/", 6) == "/käse/"
    assert printable("") == shortened("", 3) == one_line("") == ""


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("width", [3, 10, 200])
def test_a_long_text_is_cut_to_its_width_and_marked(text, width):
    for short in (shortened(text, width), one_line(text, width)):
        assert len(short) <= width
        assert short.isprintable()
    if len(text) > width:
        assert shortened(text, width).endswith("...")


def test_escapes_count_for_the_width():
    assert shortened("\n" * 5, 10) == "\\n" * 5
    assert shortened("\n" * 6, 10) == "\\n\\n\\n\\..."


def test_several_lines_become_one():
    assert one_line("  FATAL: no\n\tDETAIL:  none\r\n") == "FATAL: no DETAIL: none"
    assert one_line("\x1b[2J\nboo") == "\\x1b[2J boo"


def test_a_gap_without_end_is_not_searched_to_its_end():
    assert one_line("a" + "\n" * 1_000_000 + "b", 20) == "a"
