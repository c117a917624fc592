"""How much of what is tried at random, or over and over, a run tries."""

from __future__ import annotations

import os

SOAK = float(os.environ.get("DBPOOL_MW_TEST_SOAK", "1"))


def soaked(number: int) -> int:
    """Give so many, or as many times more as DBPOOL_MW_TEST_SOAK says."""
    return max(1, round(number * SOAK))
