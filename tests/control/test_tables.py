from __future__ import annotations

import pytest

from dbpool_mw.control import tables
from dbpool_mw.control.tables import Cell, Column, Message, Row, Tone

COLUMNS = [
    Column("pid", "PID"),
    Column("alias", "ALIAS", is_text=True),
    Column("used", "USED"),
    Column("waiting", "WAITING"),
    Column("command", "COMMAND", is_text=True, least=8),
]


def row(**cells: str) -> Row:
    texts = {"pid": "7", "alias": "default", "used": "1", "waiting": "0"} | cells
    texts.setdefault("command", "gunicorn: worker [shop]")
    return Row({name: Cell(text) for name, text in texts.items()})


def test_numbers_stand_on_the_right_and_texts_on_the_left() -> None:
    lines = tables.table(COLUMNS, [row(), row(pid="123456", used="20")]).split("\n")
    assert lines == [
        "   PID  ALIAS    USED  WAITING  COMMAND",
        "     7  default     1        0  gunicorn: worker [shop]",
        "123456  default    20        0  gunicorn: worker [shop]",
    ]


@pytest.mark.parametrize("width", range(14, 60))
def test_the_most_important_columns_that_fit_are_shown(width: int) -> None:
    ranked = ["waiting", "used", "command"]
    text = tables.table(COLUMNS, [row()], width, ranked=ranked)
    header, line = text.split("\n")
    assert max(len(header), len(line)) <= width
    shown = header.split()
    assert shown[:2] == ["PID", "ALIAS"]
    wanted = [
        ("WAITING", 12 + 9),
        ("USED", 12 + 9 + 6),
        ("COMMAND", 12 + 9 + 6 + 10),
    ]
    # USED fits where WAITING doesn't: what is narrower takes the room.
    expected = {title for title, needed in wanted if needed <= width}
    if 12 + 6 <= width < 12 + 9:
        expected = {"USED"}
    assert set(shown[2:]) == expected


def test_a_text_is_cut_to_the_width_that_is_left() -> None:
    text = tables.table(COLUMNS, [row()], 44, ranked=["waiting", "used", "command"])
    assert text.split("\n")[1] == "  7  default     1        0  gunicorn: wo..."


def test_columns_that_were_asked_for_stand_in_several_tables() -> None:
    text = tables.table(COLUMNS, [row(), row(pid="8")], 30)
    first, second = text.split("\n\n")
    assert first.split("\n")[0].split() == ["PID", "ALIAS", "USED", "WAITING"]
    assert second.split("\n")[0].split() == ["PID", "ALIAS", "COMMAND"]
    assert all(len(line) <= 30 for line in text.split("\n"))


def test_a_message_is_wrapped_and_widens_no_column() -> None:
    text = "no answer within 2 s, and that for a long time already"
    lines = tables.table(COLUMNS, [Message("12345", text), row()], 40).split("\n")
    assert lines[1] == "12345  no answer within 2 s, and that"
    assert lines[2] == "       for a long time already"
    assert lines[3].startswith("    7  default")


def test_a_style_is_around_the_text_and_not_around_the_space() -> None:
    def paint(text: str, tone: Tone) -> str:
        return f"<{tone}:{text}>"

    cells = {**row().cells, "waiting": Cell("3", "warning")}
    text = tables.table(COLUMNS, [Row(cells)], paint=paint)
    assert "     1        <warning:3>  gunicorn" in text


def test_a_column_has_its_room_whatever_stands_in_it() -> None:
    columns = [*COLUMNS[:2], Column("wait", "WAIT", room=9)]
    cells = {"pid": Cell("7"), "alias": Cell("a"), "wait": Cell("-")}
    header, line = tables.table(columns, [Row(cells)]).split("\n")
    assert header == "PID  ALIAS       WAIT"
    assert line == "  7  a              -"


def test_wide_characters_take_two_columns_and_combining_ones_none() -> None:
    assert tables.len_shown("日本") == 4
    assert tables.len_shown("e\u0301") == 1
    assert tables.cut("日本語日本語", 9) == "日本語..."
    lines = tables.table(COLUMNS[:3], [row(alias="日本"), row()]).split("\n")
    assert lines[1] == "  7  日本        1"


def test_lines_below_a_row_keep_their_indent_when_they_are_wrapped() -> None:
    below = ["  File shop.py, line 7, in pay, and more of it"]
    text = tables.table(COLUMNS[:2], [row()._replace(below=below)], 30)
    assert text.split("\n")[2:] == [
        "      File shop.py, line 7, in",
        "      pay, and more of it",
    ]


@pytest.mark.parametrize("width", range(40))
@pytest.mark.parametrize("text", ["orders/<int:pk>/lines/<int:line>/", "注文" * 16])
def test_a_text_that_keeps_its_end_loses_its_middle(text: str, width: int) -> None:
    shown = tables.cut_inside(text, width)
    assert tables.len_shown(shown) <= width
    begin, more, end = shown.partition("...")
    if tables.len_shown(text) <= width:
        assert shown == text
    elif width >= 9:
        assert more
        assert begin
        assert text.startswith(begin)
        assert end
        assert text.endswith(end)
