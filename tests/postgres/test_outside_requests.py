"""The examples of docs/outside-requests.rst do what the text says."""

from __future__ import annotations

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings

from dbpool_mw import conf
from dbpool_mw.binding import registry
from tests.documents import ROOT, code_blocks
from tests.postgres.conftest import ask, forget_wrappers, stats

DOCUMENT = "docs/outside-requests.rst"


class Cart:
    """The model of the examples."""

    class objects:
        @staticmethod
        def count():
            return ask("SELECT count(*) FROM pg_stat_activity", "replica")

        @staticmethod
        async def acount():
            return await sync_to_async(ask)("SELECT 1")

    class items:
        @staticmethod
        def count():
            return ask("SELECT 7")


@pytest.fixture
def names(fresh_wrappers):
    """Run the code blocks in their order; return the names that they define."""
    seen = []
    names = {
        "Cart": Cart,
        "expire_carts": lambda: seen.append((ask("SELECT 1"), stats()["in_use"])),
        "send_mails": lambda: seen.append(stats()["in_use"]),
        "seen": seen,
    }
    for block in code_blocks(DOCUMENT):
        exec(block, names)
    return names


def test_a_block_gives_back_at_its_end(names):
    names["nightly"]()
    assert names["seen"] == [(1, 1), 0]


def test_a_decorated_function_uses_the_alias_named(names):
    assert names["report"]() > 0
    assert [pool.name for pool in registry.pools()] == ["replica"]
    assert stats("replica")["in_use"] == 0


def test_coroutines_in_one_block_share_one_checkout(names):
    assert asyncio.run(names["consume_all"]("abc")) == [1, 1, 1]
    assert stats()["checkouts"] == 1
    assert stats()["in_use"] == 0


def test_threads_on_the_engine_give_back_by_close_old_connections(names, monkeypatch):
    database = names["DATABASES"]["default"]
    for key in ("ENGINE", "OPTIONS"):
        monkeypatch.setitem(settings.DATABASES["default"], key, database[key])
    conf.reset_cache()
    forget_wrappers()
    try:
        assert names["price_all"]([Cart] * 200) == [7] * 200
        assert stats()["checkouts"] == 200
        assert stats()["opened"] <= stats()["max"] == 20
        assert stats()["in_use"] == stats()["reclaimed"] == 0
    finally:
        monkeypatch.undo()
        conf.reset_cache()
        forget_wrappers()


def test_the_postgis_engine_is_the_one_named():
    assert "dbpool_mw.backends.postgis" in (ROOT / DOCUMENT).read_text()
