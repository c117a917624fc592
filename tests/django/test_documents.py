"""The documents for the one on call name everything that the package says."""

from __future__ import annotations

import io
import logging
import logging.config
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from dbpool_mw.core.metrics import METRICS
from dbpool_mw.core.report import explain
from tests import messages
from tests.documents import (
    DOCUMENTS,
    ROOT,
    WRITE,
    blocks_of,
    code_block,
    sections,
    table,
    write_table,
    written_table,
)

LOGGING = "docs/logging.rst"
TROUBLES = "docs/troubleshooting.rst"

LEVELS = {
    "exception": "ERROR",
    "warning": "WARNING",
    "info": "INFO",
    "debug": "DEBUG",
}

#: Exceptions without an entry. Nobody meets them, as the package or Django catches
#: them; or argparse and the protocol say all there is to say.
UNLISTED = {
    "ArgumentTypeError",
    "AttributeError",
    "BadMessage",
    "Http404",
    "MiddlewareNotUsed",
    # The page shows these to who has asked for something, with what to do.
    "Busy",
    "Mistake",
    "Refused",
    "OSError",
    "ValueError",
}
#: The assertions for tests of a project say themselves what to do.
UNLISTED_FILES = {"test.py"}
#: A text that is made apart from its exception.
MADE_APART = {"… belongs to uid …, this process runs as …"}


def entries() -> set[str]:
    """Return the messages that have an entry: items whose head is nothing else."""
    literal = r"``((?:(?!``).)+)``"
    head = re.compile(rf"- {literal}(?:,\s+{literal})*", re.DOTALL)
    text = (ROOT / TROUBLES).read_text(encoding="utf-8")
    return {
        messages.one_line(found)
        for paragraph in text.split("\n\n")
        if head.fullmatch(paragraph)
        for found in re.findall(literal, paragraph, re.DOTALL)
    }


def test_every_logger_is_in_the_table_of_loggers() -> None:
    head = (ROOT / LOGGING).read_text(encoding="utf-8").split("\nSet-up\n")[0]
    assert set(re.findall(r"^``(dbpool_mw\S*)``", head, re.M)) == messages.loggers()


def test_the_table_of_messages_is_that_of_the_source() -> None:
    rows = [
        [LEVELS[level], f"``{logger}``", f"``{text}``"]
        for level, logger, text in messages.logged()
    ]
    made = table(["Level", "Logger", "Message"], rows)
    if WRITE:
        write_table(LOGGING, made, "messages")
    assert written_table(LOGGING, "messages") == made


@pytest.fixture
def shown() -> Iterator[io.StringIO]:
    """Configure logging by the document's example, and give what it shows."""
    names: dict[str, Any] = {}
    exec(code_block(LOGGING, "LOGGING ="), names)
    stream = names["LOGGING"]["handlers"]["console"]["stream"] = io.StringIO()
    logger = logging.getLogger("dbpool_mw")
    before = logger.handlers[:], logger.level, logger.propagate
    logging.config.dictConfig(names["LOGGING"])
    yield stream
    logger.handlers[:], logger.level, logger.propagate = before


def test_the_example_shows_the_warnings_of_both_loggers(shown: io.StringIO) -> None:
    for name in sorted(messages.loggers()):
        logging.getLogger(name).warning("a warning")
        logging.getLogger(name).info("an event")
    lines = shown.getvalue().splitlines()
    assert [line.partition(f" {os.getpid()} ")[2] for line in lines] == [
        "WARNING dbpool_mw.control: a warning",
        "WARNING dbpool_mw.pool: a warning",
    ]


def test_every_warning_and_error_in_the_log_has_an_entry() -> None:
    loud = {
        one.text
        for one in messages.logged()
        if LEVELS[one.level] in ("ERROR", "WARNING")
    }
    assert loud - entries() == set()


def test_every_error_that_a_user_meets_has_an_entry() -> None:
    met = {
        one.text
        for one in messages.raised()
        if one.kind not in UNLISTED and one.file not in UNLISTED_FILES
    }
    assert (met | MADE_APART) - entries() == set()


def test_no_entry_is_of_a_message_that_is_gone() -> None:
    said = {one.text for one in (*messages.logged(), *messages.raised())}
    assert entries() - said - MADE_APART == set()


def test_every_figure_has_its_row_and_its_column() -> None:
    text = sections(TROUBLES)["Where to look in dbpool_stats"]
    text = text.partition("\n``discarded`` counts")[0]
    rows = re.findall(r"^``(\w+)`` +(.*?)  ", text, re.MULTILINE)
    assert rows == [(metric.key, metric.column or "") for metric in METRICS]


def test_the_line_of_the_example_is_one_that_is_logged() -> None:
    pool = {
        "in_use": 10,
        "idle": 0,
        "connecting": 0,
        "max": 10,
        "waiting": 4,
        "state": "running",
    }
    holders = [
        {
            "method": "GET",
            "path": "/report/",
            "thread": f"ThreadPoolExecutor-0_{number}",
            "seconds": seconds,
        }
        for number, seconds in [(3, 41.5), (1, 40.2), (0, 39.0), (5, 38.9), (2, 30.1)]
    ]
    text = explain(pool, holders * 2, 0, "")
    example = messages.one_line(sections(TROUBLES)["My requests get 503"])
    shown, _, rest = text.partition(", GET /report/ in thread ThreadPoolExecutor-0_0")
    assert f"no connection within {5.0:g} s; {shown}" in example
    assert rest.endswith(" and 5 more")


#: Where every example mounts the URLs of the package, which have a page at their root.
MOUNT = "dbpool/"
_ROUTE = re.compile(r"""path\(\s*["']([^"']*)["'],\s*(.*)""")


def routes(text: str) -> set[tuple[str, bool]]:
    """Return each route in a text, and whether it is an include of the package's."""
    return {
        (route, "dbpool_mw.urls" in target) for route, target in _ROUTE.findall(text)
    }


def test_no_example_mounts_the_pages_where_another_has_something_else() -> None:
    every = {r for path in DOCUMENTS for r in routes(path.read_text(encoding="utf-8"))}
    assert {route for route, is_ours in every if is_ours} == {MOUNT}
    assert [route for route, is_ours in every if route == MOUNT and not is_ours] == []


def test_who_reads_of_the_include_reads_of_all_that_it_brings() -> None:
    pages = [f"/{MOUNT}{name}" for name in ("", "metrics", "livez", "readyz")]
    shown = 0
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if any(is_ours for block in blocks_of(text) for _, is_ours in routes(block)):
            shown += 1
            text = text.replace("\n", " ")
            missing = [page for page in pages if not re.search(rf"{page}[ `]", text)]
            assert missing == [], path
    assert shown >= 4


def test_no_address_of_the_pages_is_of_another_prefix() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    found = re.findall(r"path: /([\w/]+/)?(livez|readyz|metrics)\b", text)
    assert {prefix for prefix, _ in found} == {MOUNT}
    assert {page for _, page in found} == {"livez", "readyz", "metrics"}
