"""How many random or repeated cases a run tries."""

from __future__ import annotations

import os

SOAK = float(os.environ.get("DBPOOL_MW_TEST_SOAK", "1"))


def soaked(number: int) -> int:
    """Return ``number`` times the factor DBPOOL_MW_TEST_SOAK, which is 1 by default."""
    return max(1, round(number * SOAK))
