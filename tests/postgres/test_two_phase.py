"""A request that leaves a two-phase transaction leaves nothing to the next request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import pytest
from django.db import connection
from django.http import HttpResponse
from django.test import override_settings

from tests.library import IS_PSYCOPG
from tests.postgres.conftest import Requests, ask, stats

NAME = "dbpool_mw_left"
#: Each transaction needs another name.
branches = count()


def is_ready(raw: Any) -> bool:
    """Tell whether the library knows of no two-phase transaction."""
    if IS_PSYCOPG:
        return raw._tpc is None
    return bool(raw.status == 1)  # STATUS_READY


def begin() -> None:
    connection.set_autocommit(False)
    raw = connection.connection
    raw.tpc_begin(raw.xid(1, NAME, str(next(branches))))


def insert() -> None:
    ask("INSERT INTO prepared_rows VALUES (1)")


def begin_and_insert() -> None:
    begin()
    insert()


def prepare() -> None:
    begin_and_insert()
    connection.connection.tpc_prepare()


def commit() -> None:
    prepare()
    connection.connection.tpc_commit()


def prepare_by_sql() -> None:
    ask("BEGIN")
    insert()
    ask(f"PREPARE TRANSACTION '{NAME}'")


#: What a request does, and how many transactions are prepared then.
LEFT: list[tuple[Callable[[], None], int]] = [
    (begin, 0),
    (begin_and_insert, 0),
    (prepare, 1),
    (commit, 0),
    (prepare_by_sql, 1),
]


@pytest.fixture
def table(requests: Requests) -> Iterator[None]:
    """Make a table, and roll back what is prepared at the end."""
    if ask("SHOW max_prepared_transactions") == "0":
        pytest.skip("the server named by the environment prepares no transactions")
    ask("CREATE TABLE prepared_rows (number int)")
    yield
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("SELECT gid FROM pg_prepared_xacts")
        for (name,) in cursor.fetchall():
            cursor.execute("ROLLBACK PREPARED %s", [name])
    ask("DROP TABLE prepared_rows")


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("reset", ["auto", "always", "never"])
def test_the_next_request_begins_without_a_transaction(
    requests: Requests, reset: str
) -> None:
    def view(step: Callable[[], None], request: object) -> HttpResponse:
        connection.ensure_connection()
        step()
        return HttpResponse()

    def next_one(request: object) -> HttpResponse:
        assert connection.get_autocommit()
        connection.ensure_connection()
        assert is_ready(connection.connection)
        insert()
        return HttpResponse(ask("SELECT count(*) FROM pg_prepared_xacts"))

    with override_settings(DBPOOL_MW_RESET=reset, DBPOOL_MW_MAX_CONNS=1):
        left = 0
        for step, prepared in LEFT:
            assert requests(partial(view, step)).status_code == 200
            left += prepared
            answer = requests(next_one)
            assert answer.status_code == 200
            assert int(answer.content) == left
            assert (stats()["in_use"], stats()["size"]) == (0, 1)
