"""What a run writes into the documents: tables, between two comments of a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import wrap

#: Columns of a line of a document.
WIDTH = 96


def list_table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in reStructuredText, whose first row is the head."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        for column, cell in enumerate(row):
            bullet = "     - " if column else "   * - "
            lines += wrap(
                cell, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet)
            ) or [bullet.rstrip()]
    return lines


def write_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what is between two comments of a page. Raises ValueError without."""
    before, found_begin, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{page} lacks the line '{end if found_begin else begin}'.")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
