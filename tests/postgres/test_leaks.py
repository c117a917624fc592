"""LEAK_AFTER shows where in the project's code the holder is."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw.binding import registry
from tests.core.fakes import InThread, until
from tests.postgres.conftest import Requests, ask

pytestmark = pytest.mark.usefixtures("fresh_wrappers")


def wait_in_the_project(reached: threading.Event, go_on: threading.Event) -> None:
    reached.set()
    go_on.wait(20)


@pytest.mark.parametrize("eager", [True, False])
def test_a_leak_is_logged_with_the_place_where_the_holder_is(
    requests: Requests, caplog: pytest.LogCaptureFixture, eager: bool
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def leaks(request: Any) -> HttpResponse:
        ask("SELECT 1")
        wait_in_the_project(reached, go_on)
        return HttpResponse("well")

    with override_settings(
        DBPOOL_MW_LEAK_AFTER=0.001, DBPOOL_MW_EAGER=("default",) if eager else ()
    ):
        # Called by the test's own code, which the stack begins with, as by a project's.
        serving = InThread(lambda: requests(leaks))
        assert reached.wait(20)
        (pool,) = registry.pools()

        def is_found() -> bool:
            pool.maintain()
            return bool(pool.stats()["leaked"] == 1)

        until(is_found)
        (holder,) = pool.holders()
        go_on.set()
        assert serving.result().status_code == 200
    (text,) = [each for each in caplog.messages if "is held for" in each]
    first, *stack = text.split("\n")
    assert first.endswith(", now here:")
    now, _, checkout = "\n".join(stack).partition("checked out here:")
    assert "in leaks" in now
    assert "in wait_in_the_project" in now
    assert "test_leaks.py" in checkout or eager
    assert bool(checkout) is not eager
    # Not from the thread's beginning on.
    assert "in _bootstrap" not in now
    assert any("in wait_in_the_project" in line for line in holder["stack"])
