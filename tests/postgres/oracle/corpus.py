"""All rows of the corpus, for the library that this process runs on."""

from __future__ import annotations

from tests.library import IS_PSYCOPG

from . import commands, functions, texts, ways

if IS_PSYCOPG:
    from . import psycopg_ways as own_ways
else:
    from . import psycopg2_ways as own_ways  # type: ignore[no-redef]

PARTS = (commands, functions, ways, own_ways, texts)
ROWS = {row.name: row for part in PARTS for row in part.ROWS}
