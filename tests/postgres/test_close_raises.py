"""An ENGINE whose close() raises keeps no connection of another alias in use."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw.binding import registry
from tests.postgres.conftest import Requests, ask


class Broken(Exception):
    pass


@pytest.mark.parametrize("method", ["close", "_close"])
@pytest.mark.parametrize("closes_first", [False, True])
def test_the_other_aliases_return_at_the_latest_at_the_threads_next_request(
    requests: Requests,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    closes_first: bool,
) -> None:
    engine: Any = type(connections["default"])
    original = getattr(engine, method)
    broken = ["default"]

    def close(self: Any) -> None:
        if closes_first:
            original(self)
        if self.alias in broken:
            broken.remove(self.alias)
            raise Broken
        if not closes_first:
            original(self)

    def view(request: Any) -> HttpResponse:
        return HttpResponse(f"{ask('SELECT 1')} {ask('SELECT 2', 'replica')}")

    with override_settings(DBPOOL_MW_POOLS={}, DBPOOL_MW_MAX_CONNS=1):
        monkeypatch.setattr(engine, method, close)
        # "_close" of an ENGINE has nothing to close here, and what it raises is lost.
        raises = method == "close"
        try:
            assert requests(view).content == b"1 2"
        except Broken:
            assert raises
        else:
            assert not raises
        assert requests(view).content == b"1 2"
        for pool in registry.pools():
            figures = pool.stats()
            assert (figures["in_use"], figures["idle"]) == (0, 1)
