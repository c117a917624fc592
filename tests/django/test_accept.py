"""Which Accept headers prefer JSON to HTML."""

from __future__ import annotations

import pytest

from dbpool_mw.binding.accept import prefers_json

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "application/json, text/plain, */*",  # axios
        "application/json, text/javascript, */*; q=0.01",  # jQuery
        "application/vnd.api+json",
        "application/problem+json, */*",
        "Application/JSON",
        "application/json, text/html",
        "text/html;q=0.8, application/json",
        "text/html; q=0.8 , application/json;charset=utf-8; q=0.9",
        "text/*, application/json",
        "text/plain, application/json;q=0.1",
        "application/*, text/html;q=0.5",
        "text/html;q=0, */*",
        "text/html;q=0, application/json;q=0.001",
    ],
)
def test_these_prefer_json(accept):
    assert prefers_json(accept)


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/plain",
        BROWSER,
        f"{BROWSER}, application/json;q=0.9",
        "text/html, application/json",
        "application/json;q=0.8, text/html;q=0.9",
        "application/json;q=0",
        "application/json;q=0, */*",
        "application/json;q=0.1, */*",
        "application/*;q=0.9, text/html",
        "text/html;q=nan, application/json;q=0.9",
        "text/html;q=9, application/json;q=0.9",
        "text/html;q=often, application/json;q=0.9",
        "application/jsonp, json, application, +json, ;q=1, ,,",
    ],
)
def test_these_do_not(accept):
    assert not prefers_json(accept)
