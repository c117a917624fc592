"""The documents for the one on call name everything that the package says."""

from __future__ import annotations

from tests import messages
from tests.documents import WRITE, table, write_table, written_table

LOGGING = "docs/logging.rst"


def test_the_table_of_messages_is_that_of_the_source():
    levels = {
        "exception": "ERROR",
        "warning": "WARNING",
        "info": "INFO",
        "debug": "DEBUG",
    }
    rows = [
        [levels[level], f"``{logger}``", f"``{text}``"]
        for level, logger, text in messages.logged()
    ]
    made = table(["Level", "Logger", "Message"], rows)
    if WRITE:
        write_table(LOGGING, made, "messages")
    assert written_table(LOGGING, "messages") == made
