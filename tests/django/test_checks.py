from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from django.core.checks import Error, Tags, Warning
from django.core.checks.registry import CheckRegistry
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db.backends.postgresql.base import DatabaseWrapper
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import include, path, re_path

from dbpool_mw import checks, conf
from dbpool_mw.checks.order import MAKES_NO_QUERY
from tests.django.conftest import POSTGRESQL, SQLITE, Project, advice, found, only
from tests.library import IS_PSYCOPG, LIBRARY, PYTHONPATH

NUMBERS = [key for key in conf.general() if key != "RESET"]
OTHER_MIDDLEWARE = "django.contrib.sessions.middleware.SessionMiddleware"
SECURITY = "django.middleware.security.SecurityMiddleware"

pytestmark = pytest.mark.usefixtures("defaults")


def busy(request: HttpRequest, exception: Exception) -> HttpResponse:
    return HttpResponse(status=503)


def takes_a_request(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


async def busy_async(request: HttpRequest, exception: Exception) -> HttpResponse:
    return HttpResponse(status=503)


class Busy:
    async def __call__(self, request: HttpRequest, exception: Exception) -> object:
        return HttpResponse(status=503)


not_callable = 503
BUSY_ASYNC = Busy()
busy_partly = partial(busy_async)


def test_a_project_without_problems_gets_no_message(project: Project) -> None:
    project(replica=POSTGRESQL, local=SQLITE)
    with override_settings(
        DBPOOL_MW_POOLS={"default": {"MAX_CONNS": 20}, "replica": None},
        DBPOOL_MW_EAGER=["default"],
        DBPOOL_MW_EXEMPT=["/health/"],
        DBPOOL_MW_UNAVAILABLE_VIEW=f"{__name__}.busy",
        DBPOOL_MW_CONTROL_DIR=Path("/run/shop"),
        DBPOOL_MW_WORKERS=4,
        DBPOOL_MW_MAX_IDLE=None,
    ):
        assert found() == []


def test_every_id_is_unique_and_documented() -> None:
    assert len(set(checks.IDS.values())) == len(checks.IDS)
    text = (Path(__file__).parents[2] / "docs" / "settings.rst").read_text()
    assert [check_id for check_id in checks.IDS.values() if check_id not in text] == []
    assert [key for key in conf.KEYS if f"{conf.PREFIX}{key}" not in text] == []


def test_an_unknown_setting_is_an_error_that_suggests_the_right_name() -> None:
    with override_settings(DBPOOL_MW_MAX_CONN=5):
        message = only("unknown")
    assert isinstance(message, Error)
    assert message.msg == "DBPOOL_MW_MAX_CONN is not a setting."
    assert advice(message) == "Did you mean DBPOOL_MW_MAX_CONNS?"


def test_an_unknown_key_of_an_alias_is_an_error_that_suggests_the_right_key() -> None:
    with override_settings(DBPOOL_MW_POOLS={"default": {"DBPOOL_MW_TIMEOUT": 5}}):
        message = only("unknown")
    assert message.msg == (
        "DBPOOL_MW_POOLS: DBPOOL_MW_TIMEOUT of 'default' is not a setting."
    )
    assert advice(message) == "Did you mean TIMEOUT?"


@pytest.mark.parametrize("key", ["ENABLED", "WORKERS", *NUMBERS])
def test_a_wrong_type_is_an_error_with_a_hint(project: Project, key: str) -> None:
    with override_settings(**{f"DBPOOL_MW_{key}": "1"}):
        message = only("type")
    assert message.msg.startswith(f"DBPOOL_MW_{key} must be ")
    assert "Environment variables are strings" in str(message.hint)


@pytest.mark.parametrize("key", ["WORKERS", *NUMBERS])
def test_a_value_out_of_range_is_an_error_with_a_hint(key: str) -> None:
    with override_settings(**{f"DBPOOL_MW_{key}": -1}):
        message = only("range")
    assert message.msg.startswith(f"DBPOOL_MW_{key} must be ")
    assert message.hint


def test_a_minimum_above_the_maximum_is_an_error() -> None:
    with override_settings(DBPOOL_MW_MIN_CONNS=11):
        message = only("order")
    assert message.msg == (
        "DBPOOL_MW_MIN_CONNS is 11, which is more than MAX_CONNS, 10."
    )
    assert "Lower MIN_CONNS or raise MAX_CONNS" in str(message.hint)


def test_the_maximum_of_an_alias_below_the_general_minimum_is_an_error() -> None:
    with override_settings(
        DBPOOL_MW_MIN_CONNS=5, DBPOOL_MW_POOLS={"default": {"MAX_CONNS": 2}}
    ):
        message = only("order")
    assert "MIN_CONNS of 'default' is 5" in message.msg


def test_an_invalid_general_setting_is_reported_once_for_all_aliases(
    project: Project,
) -> None:
    project(replica=POSTGRESQL)
    with override_settings(
        DBPOOL_MW_TIMEOUT=-1, DBPOOL_MW_POOLS={"default": {}, "replica": {}}
    ):
        assert only("range").msg.startswith("DBPOOL_MW_TIMEOUT")


@pytest.mark.parametrize("pools", [None, ["default"], {"default": 20}])
def test_pools_that_are_not_a_dict_of_dicts_are_an_error(pools: object) -> None:
    with override_settings(DBPOOL_MW_POOLS=pools):
        message = only("pools")
    assert message.msg.startswith("DBPOOL_MW_POOLS must ")
    assert "None" in str(message.hint)


@pytest.mark.parametrize(
    ("eager", "hint"),
    [
        ("replica", "Put the alias into a tuple: ('replica',)."),
        (True, "Write a tuple or list of aliases, for example"),
        ([1], "Write a tuple or list of aliases, for example"),
    ],
)
def test_eager_that_is_no_list_of_aliases_is_an_error(eager: object, hint: str) -> None:
    with override_settings(DBPOOL_MW_EAGER=eager):
        message = only("eager")
    assert message.msg.startswith("DBPOOL_MW_EAGER must ")
    assert str(message.hint).startswith(hint)


def test_an_eager_alias_that_databases_doesnt_have_is_an_error(
    project: Project,
) -> None:
    project(replica=POSTGRESQL)
    with override_settings(DBPOOL_MW_EAGER=["default", "replcia"]):
        message = only("eager_alias")
    assert "'replcia', which DATABASES doesn't have" in message.msg
    assert advice(message) == "Did you mean 'replica'?"


def test_an_eager_alias_without_a_pool_is_an_error(project: Project) -> None:
    project(replica=POSTGRESQL, local=SQLITE)
    for alias in ("replica", "local"):
        with override_settings(
            DBPOOL_MW_EAGER=[alias], DBPOOL_MW_POOLS={"replica": None}
        ):
            message = only("eager_alias")
        assert message.msg == f"DBPOOL_MW_EAGER names the alias {alias!r}, " + (
            "which has no pool."
        )


def test_a_default_alias_without_a_pool_is_eager_without_an_error(
    project: Project,
) -> None:
    project(default=SQLITE, replica=POSTGRESQL)
    assert found() == []


def test_lazy_is_an_error_that_says_what_replaced_it() -> None:
    with override_settings(DBPOOL_MW_LAZY=True):
        message = only("unknown")
    assert message.msg == "DBPOOL_MW_LAZY is not a setting."
    assert "DBPOOL_MW_EAGER = () for LAZY = True" in str(message.hint)


def test_an_exempt_path_that_is_not_in_a_list_is_an_error() -> None:
    with override_settings(DBPOOL_MW_EXEMPT="/health/"):
        message = only("exempt")
    assert advice(message) == "Put the text into a list: ['/health/']."


@pytest.mark.parametrize(
    ("view", "text"),
    [
        ("busy", "must be the dotted path of a view"),
        ("no.such.view", "can't be imported: No module named"),
        (f"{__name__}.missing", "can't be imported"),
        (f"{__name__}.not_callable", "can't be called with a request and"),
        (f"{__name__}.takes_a_request", "can't be called with a request and"),
        ("django.views.View", "can't be called with a request and"),
        (f"{__name__}.busy_async", "which is async"),
        (f"{__name__}.BUSY_ASYNC", "which is async"),
        (f"{__name__}.busy_partly", "which is async"),
    ],
)
def test_a_view_that_cant_be_called_is_an_error(view: str, text: str) -> None:
    with override_settings(DBPOOL_MW_UNAVAILABLE_VIEW=view):
        message = only("view")
    assert message.msg.startswith("DBPOOL_MW_UNAVAILABLE_VIEW ")
    assert text in message.msg
    assert message.hint


def test_a_view_without_a_signature_is_accepted() -> None:
    # Functions of extension modules may have none.
    with override_settings(DBPOOL_MW_UNAVAILABLE_VIEW="builtins.max"):
        assert found() == []


@pytest.mark.parametrize("directory", ["run/shop", "/" + "x" * 90])
def test_a_relative_or_too_long_control_directory_is_an_error(directory: str) -> None:
    with override_settings(DBPOOL_MW_CONTROL_DIR=directory):
        message = only("control_dir")
    assert message.msg.startswith("DBPOOL_MW_CONTROL_DIR ")
    assert message.hint


def test_an_alias_that_databases_doesnt_have_is_an_error(project: Project) -> None:
    project(replica=POSTGRESQL)
    with override_settings(DBPOOL_MW_POOLS={"replcia": None}):
        message = only("alias")
    assert "'replcia', which DATABASES doesn't have" in message.msg
    assert advice(message) == "Did you mean 'replica'?"
    with override_settings(DBPOOL_MW_POOLS={7: None}):
        assert advice(only("alias")) == "The aliases are 'default', 'replica'."


def test_a_pool_for_another_database_is_an_error(project: Project) -> None:
    project(local=SQLITE)
    with override_settings(DBPOOL_MW_POOLS={"local": {}}):
        message = only("engine")
    assert "'local', whose ENGINE 'django.db.backends.sqlite3'" in message.msg
    assert advice(message) == "Remove 'local' from DBPOOL_MW_POOLS, or set None for it."
    with override_settings(DBPOOL_MW_POOLS={"local": None}):
        assert found() == []


def test_an_engine_that_cant_be_imported_is_left_to_django(project: Project) -> None:
    project(other={"ENGINE": "no.such.engine"})
    with override_settings(DBPOOL_MW_POOLS={"other": {}}):
        assert found() == []


def test_a_missing_driver_is_an_error_that_names_what_to_install() -> None:
    # In another process, because Django has chosen its driver in this one.
    program = """
import sys
sys.modules.update({"psycopg2": None, "psycopg": None})
from django.conf import settings
settings.configure(
    DATABASES={
        "default": {"ENGINE": "django.db.backends.postgresql", "NAME": "shop"},
        "local": {"ENGINE": "django.db.backends.sqlite3"},
    },
    MIDDLEWARE=[],
)
from dbpool_mw import checks, conf
for message in [*checks.check_settings(), *checks.check_project()]:
    print(message.id, message.hint)
settings.DBPOOL_MW_POOLS = {"default": None}
conf.reset_cache()
for message in checks.check_project():
    print(message.id)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first.startswith(checks.IDS["no_library"])
    assert 'Run: pip install "django-dbpool-mw[psycopg-binary]"' in first
    assert second == checks.IDS["no_alias"]


def test_a_library_without_a_driver_is_an_error(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DatabaseWrapper, "Database", ModuleType("pg8000"))
    message = only("no_driver_for_library")
    assert "the ENGINE of 'default' uses pg8000" in message.msg
    assert "DBPOOL_MW_POOLS = {'default': None}" in str(message.hint)


def test_an_engine_on_another_library_than_djangos_is_an_error(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "psycopg2" if IS_PSYCOPG else "psycopg"
    monkeypatch.setattr(DatabaseWrapper, "Database", ModuleType(other))
    message = only("no_driver_for_library")
    assert f"The ENGINE of 'default' uses {other}, and Django runs on" in message.msg
    assert f"pip uninstall {LIBRARY}" in str(message.hint)


def test_djangos_own_pool_on_an_alias_with_a_pool_is_an_error(project: Project) -> None:
    project(default={**POSTGRESQL, "OPTIONS": {"pool": True}})
    message = only("native_pool")
    assert message.msg == "DATABASES['default'] enables Django's own pool as well."
    assert "DBPOOL_MW_POOLS = {'default': None}" in str(message.hint)
    with override_settings(DBPOOL_MW_POOLS={"default": None}):
        assert only("no_alias")
    project(default={**POSTGRESQL, "OPTIONS": {"pool": False}})
    assert found() == []


@pytest.mark.parametrize("age", [None, 600])
def test_conn_max_age_other_than_0_is_an_error(
    project: Project, age: int | None
) -> None:
    project(default={**POSTGRESQL, "CONN_MAX_AGE": age})
    message = only("conn_max_age")
    assert f"CONN_MAX_AGE = {age!r}" in message.msg
    assert "Remove CONN_MAX_AGE" in str(message.hint)


def test_aliases_without_a_pool_are_not_checked(project: Project) -> None:
    legacy = {**POSTGRESQL, "CONN_MAX_AGE": 60, "OPTIONS": {"pool": True}}
    project(local={**SQLITE, "CONN_MAX_AGE": 60}, legacy=legacy)
    with override_settings(DBPOOL_MW_POOLS={"legacy": None}):
        assert found() == []


def test_a_missing_middleware_is_a_warning(project: Project) -> None:
    with override_settings(MIDDLEWARE=[OTHER_MIDDLEWARE, "no.such.Middleware"]):
        message = only("no_middleware")
    assert isinstance(message, Warning)
    assert checks.MIDDLEWARE in message.msg
    assert "Put it first in MIDDLEWARE" in str(message.hint)


def test_a_middleware_before_it_that_may_query_is_a_warning(project: Project) -> None:
    before = [SECURITY, OTHER_MIDDLEWARE, "no.such.Middleware"]
    with override_settings(MIDDLEWARE=[*before, checks.MIDDLEWARE]):
        message = only("not_first")
    assert isinstance(message, Warning)
    assert message.msg.endswith(
        f"may query: '{OTHER_MIDDLEWARE}', 'no.such.Middleware'."
    )
    assert "Move it above these" in str(message.hint)


def test_middleware_before_it_that_makes_no_query_is_right(project: Project) -> None:
    with override_settings(MIDDLEWARE=[*MAKES_NO_QUERY, checks.MIDDLEWARE]):
        assert found() == []


def test_a_subclass_of_the_middleware_counts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Middleware:
        pass

    class Subclass(Middleware):
        pass

    classes = {
        checks.MIDDLEWARE: Middleware,
        "shop.Subclass": Subclass,
        "shop.function": busy,
    }
    monkeypatch.setattr("dbpool_mw.checks.project.import_string", classes.__getitem__)
    with override_settings(MIDDLEWARE=["shop.Subclass"]):
        assert found() == []
    with override_settings(MIDDLEWARE=["shop.function", "shop.Subclass"]):
        assert only("not_first")
    with override_settings(MIDDLEWARE=["shop.function", "shop.missing"]):
        assert only("no_middleware")


def test_a_project_without_any_pool_gets_only_that_warning(project: Project) -> None:
    project(default=SQLITE)
    with override_settings(MIDDLEWARE=[]):
        message = only("no_alias")
    assert isinstance(message, Warning)
    assert "DBPOOL_MW_ENABLED = False" in str(message.hint)


def test_when_disabled_only_the_settings_themselves_are_checked(
    project: Project,
) -> None:
    project(default={**POSTGRESQL, "CONN_MAX_AGE": 60}, local=SQLITE)
    with override_settings(
        DBPOOL_MW_ENABLED=False,
        DBPOOL_MW_POOLS={"local": {}, "no such": None},
        MIDDLEWARE=[],
    ):
        assert found() == []
        with override_settings(DBPOOL_MW_TIMEOUT="5"):
            assert only("type")


OURS = include("dbpool_mw.urls")


@pytest.mark.parametrize(
    ("patterns", "is_hidden"),
    [
        ([path("", OURS), path("", takes_a_request)], True),
        ([path("", OURS), re_path("^.*$", takes_a_request)], True),
        ([path("a/", takes_a_request), path("h/", OURS), path("h/", busy)], True),
        ([path("", takes_a_request), path("", OURS)], False),
        ([path("", OURS), path("a/", takes_a_request)], False),
        ([path("dbpool/", OURS), path("", takes_a_request)], False),
        ([path("dbpool/", OURS), re_path("^.*$", takes_a_request)], False),
        ([path("ops/", OURS), path("ops/", include([path("a/", busy)]))], False),
    ],
)
def test_an_include_that_hides_another_page_is_a_warning(
    patterns: list[object], is_hidden: bool
) -> None:
    urls = ModuleType("urls")
    urls.urlpatterns = patterns  # type: ignore[attr-defined]
    with override_settings(ROOT_URLCONF=urls):
        ids = [message.id for message in checks.check_urls()]
        assert ids == [checks.IDS["urls"]] * is_hidden
        with override_settings(DBPOOL_MW_ENABLED=False):
            assert checks.check_urls() == []


def test_only_the_check_of_the_capacity_is_registered_for_databases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = CheckRegistry()
    monkeypatch.setattr("django.core.checks.register", registry.register)
    checks.register()
    tags = {check.__name__: check.tags for check in registry.get_checks()}  # type: ignore[attr-defined]
    assert tags == {
        "check_settings": ("dbpool_mw",),
        "check_project": ("dbpool_mw",),
        "check_urls": ("dbpool_mw",),
        "check_capacity": (Tags.database,),
    }


def test_djangos_command_check_shows_the_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = CheckRegistry()
    registry.register(checks.check_settings, checks.TAG)
    monkeypatch.setattr("django.core.checks.run_checks", registry.run_checks)
    with (
        override_settings(DBPOOL_MW_MAX_CONN=5),
        pytest.raises(SystemCheckError, match="DBPOOL_MW_MAX_CONN is not a setting"),
    ):
        call_command("check")
