from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import CheckMessage, Error, Tags, Warning
from django.core.checks.registry import CheckRegistry
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.core.signals import setting_changed
from django.db import connections
from django.db.utils import ConnectionHandler, OperationalError
from django.http import HttpRequest, HttpResponse
from django.test import override_settings

from dbpool_mw import checks, conf
from tests.conftest import Databases

POSTGRESQL = {"ENGINE": "django.db.backends.postgresql", "NAME": "shop"}
SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
NUMBERS = [key for key in conf.general() if key != "RESET"]
OTHER_MIDDLEWARE = "django.middleware.common.CommonMiddleware"

Project = Callable[..., None]


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Take the defaults for every setting, and notice the changes of a test."""
    setting_changed.connect(conf.reset_cache, dispatch_uid="test_checks")
    with override_settings(
        MIDDLEWARE=[checks.MIDDLEWARE], **conf.DbpoolMwConf._meta.defaults
    ):
        yield
    setting_changed.disconnect(dispatch_uid="test_checks")
    conf.reset_cache()


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Project:
    """Give the project other databases; "default" is on PostgreSQL unless said."""

    def put(**said: dict[str, Any]) -> None:
        copies = {"default": POSTGRESQL, **said}
        made = ConnectionHandler({each: dict(copies[each]) for each in copies}).settings
        monkeypatch.setitem(connections.__dict__, "settings", made)
        conf.reset_cache()

    put()
    return put


def found() -> list[CheckMessage]:
    return [*checks.check_settings(), *checks.check_project()]


def only(code: str) -> CheckMessage:
    """Return the one message there is, which must be of this kind."""
    messages = found()
    assert [message.id for message in messages] == [checks.IDS[code]], messages
    return messages[0]


def busy(request: HttpRequest, exception: Exception) -> HttpResponse:
    return HttpResponse(status=503)


def takes_a_request(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


not_callable = 503


def test_a_clean_project_hears_nothing(project: Project) -> None:
    project(replica=POSTGRESQL, local=SQLITE)
    with override_settings(
        DBPOOL_MW_POOLS={"default": {"MAX_CONNS": 20}, "replica": None},
        DBPOOL_MW_EXEMPT=["/health/"],
        DBPOOL_MW_UNAVAILABLE_VIEW=f"{__name__}.busy",
        DBPOOL_MW_CONTROL_DIR=Path("/run/shop"),
        DBPOOL_MW_WORKERS=4,
        DBPOOL_MW_MAX_IDLE=None,
    ):
        assert found() == []


def test_every_id_is_one_of_its_own_and_in_the_documentation() -> None:
    assert len(set(checks.IDS.values())) == len(checks.IDS)
    text = (Path(__file__).parents[2] / "docs" / "settings.rst").read_text()
    assert [each for each in checks.IDS.values() if each not in text] == []
    assert [key for key in conf.KEYS if f"{conf.PREFIX}{key}" not in text] == []


def test_an_unknown_setting_is_told_what_it_may_stand_for() -> None:
    with override_settings(DBPOOL_MW_MAX_CONN=5):
        message = only("unknown")
    assert isinstance(message, Error)
    assert message.msg == "DBPOOL_MW_MAX_CONN is not a setting."
    assert message.hint == "Did you mean DBPOOL_MW_MAX_CONNS?"


def test_an_unknown_key_of_an_alias_is_told_what_it_may_stand_for() -> None:
    with override_settings(DBPOOL_MW_POOLS={"default": {"DBPOOL_MW_TIMEOUT": 5}}):
        message = only("unknown")
    assert message.msg == (
        "DBPOOL_MW_POOLS: DBPOOL_MW_TIMEOUT of 'default' is not a setting."
    )
    assert message.hint == "Did you mean TIMEOUT?"


@pytest.mark.parametrize("key", ["ENABLED", "LAZY", "WORKERS", *NUMBERS])
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


def test_an_alias_can_be_what_sets_the_minimum_above_the_maximum() -> None:
    with override_settings(
        DBPOOL_MW_MIN_CONNS=5, DBPOOL_MW_POOLS={"default": {"MAX_CONNS": 2}}
    ):
        message = only("order")
    assert "MIN_CONNS of 'default' is 5" in message.msg


def test_a_general_fault_is_told_once_however_many_aliases_there_are(
    project: Project,
) -> None:
    project(replica=POSTGRESQL)
    with override_settings(
        DBPOOL_MW_TIMEOUT=-1, DBPOOL_MW_POOLS={"default": {}, "replica": {}}
    ):
        assert only("range").msg.startswith("DBPOOL_MW_TIMEOUT")


@pytest.mark.parametrize("pools", [None, ["default"], {"default": 20}])
def test_pools_of_another_shape_are_an_error(pools: object) -> None:
    with override_settings(DBPOOL_MW_POOLS=pools):
        message = only("pools")
    assert message.msg.startswith("DBPOOL_MW_POOLS must ")
    assert "None" in str(message.hint)


def test_a_lone_exempt_path_is_an_error() -> None:
    with override_settings(DBPOOL_MW_EXEMPT="/health/"):
        message = only("exempt")
    assert message.hint == "Put the text into a list: ['/health/']."


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ("busy", "must be the dotted path of a view"),
        ("no.such.view", "can't be imported: No module named"),
        (f"{__name__}.missing", "can't be imported"),
        (f"{__name__}.not_callable", "can't be called with a request and"),
        (f"{__name__}.takes_a_request", "can't be called with a request and"),
        ("django.views.View", "can't be called with a request and"),
    ],
)
def test_a_view_that_cant_answer_is_an_error(view: str, said: str) -> None:
    with override_settings(DBPOOL_MW_UNAVAILABLE_VIEW=view):
        message = only("view")
    assert message.msg.startswith("DBPOOL_MW_UNAVAILABLE_VIEW ")
    assert said in message.msg
    assert message.hint


@pytest.mark.parametrize("directory", ["run/shop", "/" + "x" * 90])
def test_a_control_directory_where_no_socket_can_be_is_an_error(directory: str) -> None:
    with override_settings(DBPOOL_MW_CONTROL_DIR=directory):
        message = only("control_dir")
    assert message.msg.startswith("DBPOOL_MW_CONTROL_DIR ")
    assert message.hint


def test_an_alias_that_is_not_there_is_an_error(project: Project) -> None:
    project(replica=POSTGRESQL)
    with override_settings(DBPOOL_MW_POOLS={"replcia": None}):
        message = only("alias")
    assert "'replcia', which DATABASES doesn't have" in message.msg
    assert message.hint == "Did you mean 'replica'?"
    with override_settings(DBPOOL_MW_POOLS={7: None}):
        assert only("alias").hint == "The aliases are 'default', 'replica'."


def test_a_pool_for_another_database_is_an_error(project: Project) -> None:
    project(local=SQLITE)
    with override_settings(DBPOOL_MW_POOLS={"local": {}}):
        message = only("engine")
    assert "'local', whose ENGINE 'django.db.backends.sqlite3'" in message.msg
    assert message.hint == "Take 'local' out of DBPOOL_MW_POOLS, or say None for it."
    with override_settings(DBPOOL_MW_POOLS={"local": None}):
        assert found() == []


def test_an_engine_that_cant_be_imported_is_left_to_django(project: Project) -> None:
    project(other={"ENGINE": "no.such.engine"})
    with override_settings(DBPOOL_MW_POOLS={"other": {}}):
        assert found() == []


def test_a_project_without_a_driver_is_told_what_to_install() -> None:
    # In a process of its own: here Django has chosen its driver already.
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
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first.startswith(checks.IDS["no_driver"])
    assert 'Run: pip install "django-dbpool-mw[binary]"' in first
    assert second == checks.IDS["no_alias"]


def test_psycopg_3_is_an_error(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django.db.backends.postgresql.psycopg_any.is_psycopg3", True)
    message = only("psycopg3")
    assert "Django runs on psycopg 3" in message.msg
    assert "pip uninstall psycopg" in str(message.hint)
    assert "DBPOOL_MW_POOLS = {'default': None}" in str(message.hint)


def test_djangos_own_pool_besides_ours_is_an_error(project: Project) -> None:
    project(default={**POSTGRESQL, "OPTIONS": {"pool": True}})
    message = only("native_pool")
    assert message.msg == "DATABASES['default'] has Django's own pool on as well."
    assert "DBPOOL_MW_POOLS = {'default': None}" in str(message.hint)
    with override_settings(DBPOOL_MW_POOLS={"default": None}):
        assert only("no_alias")
    project(default={**POSTGRESQL, "OPTIONS": {"pool": False}})
    assert found() == []


@pytest.mark.parametrize("age", [None, 600])
def test_connections_that_django_keeps_are_an_error(
    project: Project, age: int | None
) -> None:
    project(default={**POSTGRESQL, "CONN_MAX_AGE": age})
    message = only("conn_max_age")
    assert f"CONN_MAX_AGE = {age!r}" in message.msg
    assert "Remove CONN_MAX_AGE" in str(message.hint)


def test_what_an_alias_without_a_pool_does_is_its_own_affair(project: Project) -> None:
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


def test_a_middleware_that_is_not_first_is_a_warning(project: Project) -> None:
    with override_settings(MIDDLEWARE=[OTHER_MIDDLEWARE, checks.MIDDLEWARE]):
        message = only("not_first")
    assert isinstance(message, Warning)
    assert f"before it stands '{OTHER_MIDDLEWARE}'" in message.msg
    assert "Move it to the top" in str(message.hint)


def test_a_subclass_of_the_middleware_counts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ours:
        pass

    class Theirs(Ours):
        pass

    classes = {checks.MIDDLEWARE: Ours, "shop.Theirs": Theirs, "shop.function": busy}
    monkeypatch.setattr(checks, "import_string", classes.__getitem__)
    with override_settings(MIDDLEWARE=["shop.Theirs"]):
        assert found() == []
    with override_settings(MIDDLEWARE=["shop.function", "shop.Theirs"]):
        assert only("not_first")
    with override_settings(MIDDLEWARE=["shop.function", "shop.missing"]):
        assert only("no_middleware")


def test_a_project_without_any_pool_is_warned_of_that_alone(project: Project) -> None:
    project(default=SQLITE)
    with override_settings(MIDDLEWARE=[]):
        message = only("no_alias")
    assert isinstance(message, Warning)
    assert "DBPOOL_MW_ENABLED = False" in str(message.hint)


def test_when_disabled_only_the_settings_themselves_are_judged(
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


def test_what_is_registered_shows_without_a_database_save_for_the_capacity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = CheckRegistry()
    monkeypatch.setattr("django.core.checks.register", registry.register)
    checks.register()
    tags = {check.__name__: check.tags for check in registry.get_checks()}  # type: ignore[attr-defined]
    assert tags == {
        "check_settings": ("dbpool_mw",),
        "check_project": ("dbpool_mw",),
        "check_capacity": (Tags.database,),
    }


class FakeConnection:
    """Stand for a wrapper of Django's on a server with some settings."""

    def __init__(self, rows: dict[str, str], *, is_open: bool = False) -> None:
        self.connection = object() if is_open else None
        self.rows = rows
        self.closed = 0
        self.asked = 0

    def cursor(self) -> FakeConnection:
        self.connection = self.connection or object()
        return self

    def __enter__(self) -> FakeConnection:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def execute(self, sql: str) -> None:
        self.asked += 1
        if not self.rows:
            raise OperationalError("connection refused")

    def fetchall(self) -> list[tuple[str, str]]:
        return list(self.rows.items())

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def server(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Put a server behind aliases, which are all on PostgreSQL."""
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)

    class Connections:
        made: dict[str, FakeConnection] = {}  # noqa: RUF012

        def __getitem__(self, alias: str) -> FakeConnection:
            return self.made[alias]

        @property
        def settings(self) -> Any:
            return connections.settings

    def put(**made: FakeConnection) -> None:
        fake = Connections()
        fake.made = made
        monkeypatch.setattr(checks, "connections", fake)

    return put


def capacity(*databases: str) -> list[CheckMessage]:
    return checks.check_capacity(databases=list(databases) or None)


SMALL = {
    "max_connections": "100",
    "superuser_reserved_connections": "3",
    "reserved_connections": "2",
}


def test_what_fits_the_server_exactly_is_no_warning(server: Any) -> None:
    server(default=FakeConnection(SMALL))
    with override_settings(DBPOOL_MW_WORKERS=5, DBPOOL_MW_MAX_CONNS=19):
        assert capacity("default") == []


def test_more_workers_than_the_server_has_room_for_are_a_warning(server: Any) -> None:
    server(default=FakeConnection(SMALL))
    with override_settings(DBPOOL_MW_WORKERS=4, DBPOOL_MW_MAX_CONNS=24):
        (message,) = capacity("default")
    assert isinstance(message, Warning)
    assert message.id == checks.IDS["capacity"]
    assert message.msg == (
        "4 worker processes may open 96 connections (24 each) to the server of "
        "'default', which has room for 95."
    )
    assert "Lower DBPOOL_MW_MAX_CONNS (to 23 " in str(message.hint)


def test_an_old_server_reserves_nothing_for_ordinary_roles(server: Any) -> None:
    rows = {"max_connections": "20", "superuser_reserved_connections": "3"}
    server(default=FakeConnection(rows))
    with override_settings(DBPOOL_MW_MAX_CONNS=17):
        assert capacity("default") == []
    with override_settings(DBPOOL_MW_MAX_CONNS=18):
        (message,) = capacity("default")
    assert message.msg.startswith("1 worker process may open 18 connections")


def test_the_workers_of_the_environment_count(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server(default=FakeConnection(SMALL))
    monkeypatch.setenv("WEB_CONCURRENCY", "10")
    assert capacity("default")[0].msg.startswith("10 worker processes may open 100")


def test_aliases_on_one_server_share_its_room(server: Any, project: Project) -> None:
    far = {**POSTGRESQL, "HOST": "far", "PORT": 5433}
    project(one=far, two={**far, "PORT": "5433", "NAME": "stock"})
    made = {alias: FakeConnection(SMALL) for alias in ("default", "one", "two")}
    server(**made)
    with override_settings(DBPOOL_MW_MAX_CONNS=50):
        (message,) = capacity("default", "two")
    assert "100 connections (100 each) to the server of 'one', 'two'" in message.msg
    assert [each.asked for each in made.values()] == [1, 0, 1]


def test_only_the_databases_asked_for_are_asked(server: Any) -> None:
    made = FakeConnection(SMALL)
    server(default=made)
    with override_settings(DBPOOL_MW_MAX_CONNS=1000):
        assert capacity() == []
        assert capacity("other") == []
    assert made.asked == 0


def test_a_server_that_doesnt_answer_is_left_out(server: Any) -> None:
    made = FakeConnection({})
    server(default=made)
    assert capacity("default") == []
    assert made.asked == made.closed == 1


@pytest.mark.parametrize("is_open", [True, False])
def test_the_connection_is_left_open_or_closed_as_it_was(
    server: Any, is_open: bool
) -> None:
    made = FakeConnection(SMALL, is_open=is_open)
    server(default=made)
    assert capacity("default") == []
    assert made.closed == (not is_open)


@pytest.mark.parametrize(
    "wrong",
    [
        {"DBPOOL_MW_ENABLED": False},
        {"DBPOOL_MW_POOLS": None},
        {"DBPOOL_MW_WORKERS": "many"},
        {"DBPOOL_MW_MAX_CONNS": "many"},
    ],
)
def test_a_pool_that_is_off_or_wrong_has_no_capacity(
    server: Any, wrong: dict[str, object]
) -> None:
    made = FakeConnection(SMALL)
    server(default=made)
    with override_settings(**wrong):
        assert capacity("default") == []
    assert made.asked == 0


def test_a_real_server_is_asked_and_the_wrapper_left_closed(
    databases: Databases,
) -> None:
    connection = connections["default"]
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("SHOW max_connections")
        most = int(cursor.fetchone()[0])
    connection.close()
    with override_settings(DBPOOL_MW_WORKERS=most, DBPOOL_MW_MAX_CONNS=1):
        # "replica" is on the same server.
        (message,) = capacity("default")
    assert f"may open {2 * most} connections (2 each)" in message.msg
    assert connection.connection is None
    with override_settings(DBPOOL_MW_WORKERS=1, DBPOOL_MW_MAX_CONNS=1):
        assert capacity("default", "replica") == []


def test_a_real_server_that_is_down_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nowhere = {**POSTGRESQL, "HOST": "127.0.0.1", "PORT": "1"}
    handler = ConnectionHandler({"default": nowhere, "replica": nowhere})
    monkeypatch.setattr(checks, "connections", handler)
    with override_settings(DBPOOL_MW_MAX_CONNS=1_000_000):
        assert capacity("default") == []
    assert handler["default"].connection is None


def test_djangos_command_shows_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CheckRegistry()
    registry.register(checks.check_settings, checks.TAG)
    monkeypatch.setattr("django.core.checks.run_checks", registry.run_checks)
    with (
        override_settings(DBPOOL_MW_MAX_CONN=5),
        pytest.raises(SystemCheckError, match="DBPOOL_MW_MAX_CONN is not a setting"),
    ):
        call_command("check")
