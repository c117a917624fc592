"""The settings and views of docs/getting-started.rst and docs/requests.rst."""

from __future__ import annotations

import types
from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import RequestFactory, override_settings
from django.urls import path

from dbpool_mw import conf, decorators
from tests.documents import code_block, sections

STARTED = "docs/getting-started.rst"
REQUESTS = "docs/requests.rst"


def names_of(block: str) -> dict[str, Any]:
    """Run a block, and return the names that it assigned."""
    names: dict[str, Any] = {"__name__": "project"}
    exec(block, names)
    return {name: value for name, value in names.items() if name[:2] != "__"}


def reported() -> set[str]:
    """Return the ids of what the checks of dbpool_mw find."""
    ids = {message.id or "" for message in run_checks()}
    return {each for each in ids if each.startswith("dbpool_mw.")}


def test_the_checks_miss_nothing_in_the_settings() -> None:
    names = names_of(code_block(STARTED, "INSTALLED_APPS"))
    with override_settings(**names):
        assert reported() == set()
        with override_settings(MIDDLEWARE=[]):
            assert reported() != set()


def test_the_alias_is_larger_and_no_other() -> None:
    names = names_of(code_block(STARTED, "DBPOOL_MW_POOLS"))
    with override_settings(**names):
        assert conf.config_for("default").max_conns == 20
        assert conf.config_for("replica").max_conns == 10


def test_the_table_has_the_defaults() -> None:
    table = sections(STARTED)["Choose the size"]
    rows = [line.split() for line in table.splitlines() if line.startswith("``DBPOOL")]
    assert len(rows) == 8
    for name, default, *_ in rows:
        assert repr(conf.value(name.strip("`").removeprefix(conf.PREFIX))) == (
            default.replace('"', "'")
        )


@pytest.mark.parametrize("setting", ["DBPOOL_MW_EAGER", "DBPOOL_MW_EXEMPT"])
def test_the_settings_for_requests_are_valid(setting: str) -> None:
    names = names_of(code_block(REQUESTS, "DBPOOL_MW_EAGER"))
    with override_settings(**{setting: names[setting]}):
        assert conf.general()
        found = conf.for_request()
    assert found != conf.for_request()


def test_the_views_are_exempt() -> None:
    names = names_of(code_block(REQUESTS, "no_pool"))
    urls = types.ModuleType("urls")
    urls.urlpatterns = [  # type: ignore[attr-defined]
        path("health/", names["health"]),
        path("Health/", names["Health"].as_view()),
        path("other/", names["View"].as_view()),
    ]
    decorators.forget_urls()
    try:
        with override_settings(ROOT_URLCONF=urls):
            exempt = {
                each: decorators.needs_no_pool(RequestFactory().get(each))
                for each in ("/health/", "/Health/", "/other/")
            }
    finally:
        decorators.forget_urls()
    assert exempt == {"/health/": True, "/Health/": True, "/other/": False}
