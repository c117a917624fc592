"""What the checks call an error, a server refuses to load, with the same text."""

from __future__ import annotations

import select
from types import ModuleType
from typing import Any

import pytest
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured, MiddlewareNotUsed
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.utils import load_backend
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw import checks, conf
from dbpool_mw.middleware import ConnectionPoolMiddleware
from tests.django.conftest import POSTGRESQL, SQLITE, Project, found

pytestmark = pytest.mark.usefixtures("defaults")

ENGINE = "dbpool_mw.backends.postgresql"
POOLED = {"ENGINE": ENGINE, "NAME": "shop"}


class Subclass(ConnectionPoolMiddleware):
    pass


def another_library(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DatabaseWrapper, "Database", ModuleType("pg8000"))


def no_library(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(conf, "vendor", lambda alias: None)
    patch.setattr("dbpool_mw.drivers.can_import", lambda: False)


def no_poll(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(select, "poll")


def no_app(patch: pytest.MonkeyPatch) -> None:
    patch.delitem(apps.app_configs, "dbpool_mw")


#: A wrong setting for the id of each error: settings, DATABASES, or what to replace.
WRONG: dict[str, Any] = {
    "unknown": {"DBPOOL_MW_MAX_CON": 5},
    "type": {"DBPOOL_MW_ENABLED": "False"},
    "range": {"DBPOOL_MW_TIMEOUT": -1},
    "order": {"DBPOOL_MW_MIN_CONNS": 11},
    "pools": {"DBPOOL_MW_POOLS": ["default"]},
    "exempt": {"DBPOOL_MW_EXEMPT": "/health/"},
    "view": {"DBPOOL_MW_UNAVAILABLE_VIEW": "no.such.view"},
    "control_dir": {"DBPOOL_MW_CONTROL_DIR": "run"},
    "alias": {"DBPOOL_MW_POOLS": {"defualt": {}}},
    "engine": {"local": SQLITE, "DBPOOL_MW_POOLS": {"local": {}}},
    "no_library": no_library,
    "no_driver_for_library": another_library,
    "native_pool": {"default": {**POSTGRESQL, "OPTIONS": {"pool": True}}},
    "conn_max_age": {"default": {**POSTGRESQL, "CONN_MAX_AGE": 60}},
    "twice": {
        "default": {**POOLED, "OPTIONS": {"MAX_CONNS": 2}},
        "DBPOOL_MW_POOLS": {"default": {"MAX_CONNS": 3}},
    },
    "other_pool_engine": {"default": {**POSTGRESQL, "ENGINE": "dbpool.db.backends.x"}},
    "other_pool_option": {"default": {**POSTGRESQL, "OPTIONS": {"MAX_CONNS": 2}}},
    "no_app": no_app,
    "middleware_twice": {"MIDDLEWARE": [checks.MIDDLEWARE, f"{__name__}.Subclass"]},
    "platform": no_poll,
    "eager": {"DBPOOL_MW_EAGER": "default"},
    "eager_alias": {"DBPOOL_MW_EAGER": ("defualt",)},
    "token": {"DBPOOL_MW_METRICS_TOKEN": "secret"},
}


@pytest.fixture(params=WRONG)
def error(
    request: pytest.FixtureRequest,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Give the only message of the checks, which is an error."""
    wrong = WRONG[request.param]
    if not isinstance(wrong, dict):
        wrong(monkeypatch)
        wrong = {}
    overrides = {key: value for key, value in wrong.items() if key.isupper()}
    project(**{key: value for key, value in wrong.items() if key not in overrides})
    with override_settings(**overrides):
        conf.reset_cache()
        (message,) = (message for message in found() if message.level >= 40)
        assert message.id == checks.IDS[request.param]
        yield message


def test_there_is_a_wrong_setting_for_every_error():
    assert list(WRONG) == [code for code, id in checks.IDS.items() if ".E" in id]


def test_the_middleware_and_every_handler_refuse_it_with_the_text_of_the_check(error):
    for load in (
        lambda: ConnectionPoolMiddleware(lambda request: HttpResponse()),
        WSGIHandler,
        ASGIHandler,
        checks.refuse_errors,  # again: what was refused stays refused
    ):
        with pytest.raises(ImproperlyConfigured) as caught:
            load()
        assert f"({error.id}) {error.msg}\n\tHINT: {error.hint}" in str(caught.value)


def test_a_connection_of_an_engine_refuses_it_with_the_text_of_the_check(error):
    if error.id in (checks.IDS["no_library"], checks.IDS["no_driver_for_library"]):
        pytest.skip("without the library there is no ENGINE")
    engine = load_backend(ENGINE).DatabaseWrapper
    wrapper = engine(DatabaseWrapper({}, "default").settings_dict, "default")
    with pytest.raises(ImproperlyConfigured) as caught:
        wrapper.connect()
    assert f"({error.id}) {error.msg}\n\tHINT: {error.hint}" in str(caught.value)


def test_a_silenced_error_is_accepted(error):
    with override_settings(SILENCED_SYSTEM_CHECKS=[error.id]):
        checks.refuse_errors()


def test_all_errors_are_in_one_refusal(project: Project):
    project(default={**POSTGRESQL, "CONN_MAX_AGE": 60})
    with (
        override_settings(DBPOOL_MW_MAX_CON=1, DBPOOL_MW_TIMEOUT="5"),
        pytest.raises(ImproperlyConfigured) as caught,
    ):
        WSGIHandler()
    for code in ("unknown", "type", "conn_max_age"):
        assert f"({checks.IDS[code]}) " in str(caught.value)


def test_a_warning_is_no_reason_to_refuse(project: Project):
    with override_settings(MIDDLEWARE=[]):
        assert [message.id for message in found()] == [checks.IDS["no_middleware"]]
        checks.refuse_errors()


def test_settings_that_were_accepted_are_looked_at_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
):
    checks.refuse_errors()
    with monkeypatch.context() as patch:
        patch.setattr("dbpool_mw.checks.refusal.check_settings", None)
        checks.refuse_errors()
    with (
        override_settings(DBPOOL_MW_MAX_CON=1),
        pytest.raises(ImproperlyConfigured, match="DBPOOL_MW_MAX_CON is not a setting"),
    ):
        checks.refuse_errors()


def test_switched_off_no_server_refuses_what_check_still_reports(project: Project):
    project(default={**POSTGRESQL, "CONN_MAX_AGE": 60})
    with override_settings(
        DBPOOL_MW_ENABLED=False, DBPOOL_MW_MAX_CON=1, DBPOOL_MW_POOLS="default"
    ):
        WSGIHandler()
        with pytest.raises(MiddlewareNotUsed, match="DBPOOL_MW_ENABLED is False"):
            ConnectionPoolMiddleware(lambda request: HttpResponse())
        reported = {message.id for message in found()}
        assert reported == {checks.IDS["unknown"], checks.IDS["pools"]}


def test_a_test_that_takes_the_app_away_may_load_the_middleware(project: Project):
    with override_settings(INSTALLED_APPS=["django.contrib.contenttypes"]):
        assert not apps.is_installed("dbpool_mw")
        WSGIHandler()
        checks.refuse_errors()
    apps.set_available_apps(["django.contrib.contenttypes"])
    try:
        conf.reset_cache()
        checks.refuse_errors()
    finally:
        apps.unset_available_apps()
