"""Rows of the session oracle of which one hangs, for the test of the comparison."""

import time

from sandbox.compare import leaks


def rows(dsn: str, patience: int) -> tuple[list[str], int]:
    """Do three rows, of which the second never ends; return what `leaks.rows` does."""
    first, hanging, last = list(leaks.ROWS)[:3]
    leaks.ROWS = {name: leaks.ROWS[name] for name in (first, hanging, last)}
    act = leaks.act

    def hang(row, *arguments):
        if row is leaks.ROWS[hanging]:
            time.sleep(600)
        act(row, *arguments)

    leaks.act = hang
    return leaks.rows(dsn, 1, 0, patience)
