"""The panel of django-debug-toolbar, without a toolbar."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("debug_toolbar", reason="pip install --group test")


@pytest.fixture
def panel():
    from dbpool_mw.contrib.debug_toolbar import PoolPanel

    toolbar = SimpleNamespace(
        stats={},
        server_timing_stats={},
        request_id="1",
        store=SimpleNamespace(save_panel=lambda *_: None),
    )
    return PoolPanel(toolbar, lambda request: None)


def finish(panel):
    panel.disable_instrumentation()
    panel.generate_stats(None, None)
    panel.generate_server_timing(None, None)


def test_it_may_be_enabled_and_disabled_twice(panel):
    panel.enable_instrumentation()
    usage = panel._usage
    panel.enable_instrumentation()
    assert panel._usage is usage
    panel.disable_instrumentation()
    finish(panel)
    assert panel.get_stats() == {
        "checkouts": [],
        "wait_ms": 0,
        "hold_ms": 0,
        "resets": 0,
    }
    assert panel.nav_subtitle == "0 checkouts, 0 resets"
    assert panel.get_server_timing_stats()["pool"]["value"] == 0


def test_one_that_was_never_enabled_records_nothing(panel):
    finish(panel)
    assert panel.get_stats() == {}
    assert panel.nav_subtitle == ""
    assert panel.get_server_timing_stats() == {}
