"""The figures of the traffic during each fault.

With DBPOOL_MW_TEST_WRITE_DOCS=1 the run writes them into docs/reliability.rst, between
the two comments there.
"""

from __future__ import annotations

from tests.documents import table, write_table
from tests.faults.traffic import Traffic
from tests.faults.under import Under

DOCUMENT = "docs/reliability.rst"

HEADER = (
    "Fault",
    "Under",
    "Requests",
    "200",
    "503",
    "Other",
    "Longest",
    "Gap",
    "Connections",
)


class Figures:
    """The rows that the tests of a run add, and the table of these rows."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], tuple[str, ...]] = {}

    def add(self, fault: str, under: Under, traffic: Traffic) -> None:
        """Add a row: how the traffic was answered during a fault."""
        counts = traffic.counts
        other = {k: n for k, n in counts.items() if k not in (200, 503)}
        self.rows[fault, under.name] = (
            fault,
            under.name,
            str(counts.total()),
            str(counts[200]),
            str(counts[503]),
            ", ".join(f"{n} x {k}" for k, n in other.items()) or "0",
            f"{traffic.longest:.2f} s",
            f"{traffic.gap:.2f} s",
            f"{under.watch.most} of {under.limit}",
        )

    def table(self) -> str:
        """Return the rows as a reStructuredText table."""
        return table(HEADER, self.rows.values())

    def write(self) -> None:
        """Put the table into the document."""
        write_table(DOCUMENT, self.table())
