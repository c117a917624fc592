"""A statement is shown with its code and names, and without what is a value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbpool_mw.core.text import STATEMENT
from dbpool_mw.drivers.postgresql.masking import shown
from tests.soak import soaked


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("SELECT 1", "SELECT ?"),
        ("SELECT -1.5e-3, .5, 0x1F, 1_000", "SELECT -?-?, ?, ?, ?"),
        ("SELECT t1.c2 FROM t1", "SELECT t1.c2 FROM t1"),
        ('SELECT "User"."Id" FROM "User"', 'SELECT "User"."Id" FROM "User"'),
        ('SELECT "a""B" FROM "$x$"', 'SELECT "a""B" FROM "$x$"'),
        ("SELECT 'it''s', E'it\\'s', U&'x', B'1'", "SELECT ?, E?, U&?, B?"),
        ("DO $$ BEGIN x; END $$", "DO ?"),
        ("SELECT $a$ ' $a$, 'b'", "SELECT ?, ?"),
        ("SELECT 1 -- why\n FROM a /* b /* c */ */ WHERE c", "SELECT ? FROM a WHERE c"),
        ("SELECT %s, %(name)s, %b", "SELECT %s, %(name)s, %b"),
        ("SELECT %s12, %(a1)s34", "SELECT %s?, %(a1)s?"),
        ("SELECT 'a'\n'b'", "SELECT ?"),
        ("  \n ", ""),
        ("", ""),
        # What PostgreSQL executes nothing of, and what depends on the session.
        ("SELECT 'abc", "SELECT ..."),
        ('select "abc', "select ..."),
        ("SELECT 'a\\', 'b'", "SELECT ..."),
        ("'abc", " ..."),
        ("SELECT '\\'", "SELECT ..."),
        ("SELECT a\x1b[2J", "SELECT a\\x1b[?"),
    ],
)
def test_code_and_names_are_shown_and_values_are_not(statement: str, text: str) -> None:
    assert shown(statement) == text


LONG = "x" * (5 * STATEMENT)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (f"SELECT 'a', '{LONG}', 2", "SELECT ?, ? ..."),
        (f"SELECT 'a', E'{LONG}\\', 2", "SELECT ?, E? ..."),
        (f"SELECT 1 /* {LONG} */", "SELECT ? ..."),
        (f"SELECT 1 /* /* {LONG} */ */", "SELECT ? ..."),
        (f"SELECT 1 -- {LONG}", "SELECT ? ..."),
        (f"DO $a$ {LONG} $a$", "DO ? ..."),
        (f"DO $$ {LONG} $$", "DO ? ..."),
        (f"SELECT '{LONG}", "SELECT ? ..."),
    ],
)
def test_a_long_value_is_cut_as_one(statement: str, text: str) -> None:
    assert shown(statement) == text


def test_long_code_is_cut_to_the_length_that_is_shown() -> None:
    text = shown("SELECT " + ", ".join(f'"column_{n}"' for n in range(2000)))
    assert len(text) == STATEMENT
    assert text.startswith('SELECT "column_0", "column_1", ')
    assert text.endswith("...")


def test_names_whose_letters_change_their_length_show_nothing_else() -> None:
    assert shown("SELECT 'İİİİ', \"Ä\", 'secret', \"Name\"") == (
        'SELECT ?, "ä", ?, "name"'
    )
    assert shown("SELECT \"İ\" FROM 'secret'") == 'SELECT "i̇" FROM ?'


# --- No value, wherever it stands -----------------------------------------------------

SECRET = "hunter2"
NUMBER = "4929123412341234"

filling = st.text(
    st.one_of(st.sampled_from("'\"$-/*\\%;, \nEexé\x00\u202eİ"), st.characters()),
    max_size=12,
)


def quoted(text: str) -> str:
    return text.replace("'", "''")


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def commented(text: str) -> str:
    return text.replace("*/", "").replace("/*", "").rstrip("/*").lstrip("/*")


secrets = st.one_of(
    st.builds(lambda a, b: f"'{quoted(a)}{SECRET}{quoted(b)}'", filling, filling),
    st.builds(lambda a, b: f"E'{escaped(a)}{SECRET}{escaped(b)}'", filling, filling),
    st.builds(
        lambda a, b: f"$x${a}{SECRET}{b} $x$".replace("$x$$x$", "$x$ $x$"),
        filling.map(lambda text: text.replace("$", "")),
        filling.map(lambda text: text.replace("$", "")),
    ),
    st.builds(
        lambda a, b: f"$${a}{SECRET}{b}$$",
        filling.map(lambda text: text.replace("$", "")),
        filling.map(lambda text: text.replace("$", "")),
    ),
    st.builds(
        lambda a: f"-- {a}{SECRET}\n", filling.map(lambda text: "".join(text.split()))
    ),
    st.builds(lambda a: f"/* {commented(a)}{SECRET} */", filling),
    st.builds(lambda a: f"/* /* {commented(a)} */ {SECRET} */", filling),
    st.sampled_from([NUMBER, f"-{NUMBER}", f".{NUMBER}", f"{NUMBER}.{NUMBER}e5"]),
)
CODE = ["SELECT FROM", '"Name"', '"a""b"', "x1", "=", ",", "(", ")", "%s", "%(a)s"]
CODE += ["ARRAY[", "]", "::text", ";", "é", "\n", "IN (%s, %s)", "U&", "->>"]
codes = st.sampled_from(CODE)
paddings = st.one_of(st.just(0), st.integers(0, 4 * STATEMENT + 50))


@settings(max_examples=soaked(600), deadline=None, derandomize=True, database=None)
@given(st.lists(st.one_of(codes, secrets, secrets), min_size=1, max_size=25), paddings)
def test_no_secret_in_a_literal_a_number_or_a_comment_is_ever_shown(
    pieces: list[str], padding: int
) -> None:
    statement = "SELECT " + "x" * padding + " " + " ".join(pieces)
    text = shown(statement)
    assert SECRET not in text
    assert NUMBER not in text
    assert text.isprintable()
    assert len(text) <= STATEMENT


@settings(max_examples=soaked(300), deadline=None, derandomize=True, database=None)
@given(st.text(max_size=60), paddings)
def test_any_text_is_shown_printable_and_short(text: str, padding: int) -> None:
    seen = shown("x" * padding + text)
    assert seen.isprintable()
    assert len(seen) <= STATEMENT
