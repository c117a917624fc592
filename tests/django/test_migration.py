"""The checks for settings of other pool packages, and what their hints say."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from django.core.checks import Error, Warning
from django.db.backends.postgresql import base
from django.test import override_settings

from dbpool_mw import conf
from tests.django.conftest import POSTGRESQL, Project, advice, found, only

pytestmark = pytest.mark.usefixtures("defaults")

DBPOOL = "dbpool.db.backends.postgresql_psycopg2"
GEVENTPOOL = "django_db_geventpool.backends.postgresql_psycopg2"
CONN_POOL = "dj_db_conn_pool.backends.postgresql"
REPLACEMENT = "dbpool_mw.backends.postgresql"

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that makes an ENGINE importable, with a given class."""

    def add(engine: str, wrapper: type) -> None:
        names = f"{engine}.base".split(".")
        for end in range(1, len(names) + 1):
            module = ModuleType(".".join(names[:end]))
            module.__path__ = []  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module.__name__, module)
        module.DatabaseWrapper = wrapper  # type: ignore[attr-defined]
        wrapper.__module__ = module.__name__

    return add


@pytest.mark.parametrize(
    ("engine", "package", "replacement"),
    [
        (DBPOOL, "django-db-pool", REPLACEMENT),
        ("dbpool.db.backends.postgis", "django-db-pool", "dbpool_mw.backends.postgis"),
        (GEVENTPOOL, "django-db-geventpool", REPLACEMENT),
        (
            "django_db_geventpool.backends.postgresql_psycopg3",
            "django-db-geventpool",
            REPLACEMENT,
        ),
        (
            "django_db_geventpool.backends.postgis",
            "django-db-geventpool",
            "dbpool_mw.backends.postgis",
        ),
        ("django_postgrespool", "django-postgrespool", REPLACEMENT),
        ("django_postgrespool2", "django-postgrespool2", REPLACEMENT),
        ("django_postgrespool2.psycopg2", "django-postgrespool2", REPLACEMENT),
        (
            "django_postgrespool2.postgis",
            "django-postgrespool2",
            "dbpool_mw.backends.postgis",
        ),
        (CONN_POOL, "django-db-connection-pool", REPLACEMENT),
        (
            "dj_db_conn_pool.backends.postgis",
            "django-db-connection-pool",
            "dbpool_mw.backends.postgis",
        ),
    ],
)
def test_the_engine_of_another_package_is_an_error_even_if_it_is_not_installed(
    project: Project, engine: str, package: str, replacement: str
) -> None:
    project(default={"ENGINE": engine, "NAME": "shop"})
    message = only("other_pool_engine")
    assert isinstance(message, Error)
    assert message.msg.startswith(
        f"DATABASES['default']: the ENGINE {engine!r} belongs to {package}, which"
    )
    hint = str(message.hint)
    assert hint.startswith(f"Write 'ENGINE': {replacement!r}.")
    assert f"Unless you set MAX_CONNS, it is 10; the default of {package} is" in hint
    assert "DBPOOL_MW_POOLS = {'default': None}" in hint


def test_the_engine_of_an_installed_package_is_reported_and_nothing_else(
    project: Project, install: Install
) -> None:
    class DatabaseWrapper(base.DatabaseWrapper):
        def _close(self) -> None:
            pass

    install(GEVENTPOOL, DatabaseWrapper)
    project(default={"ENGINE": GEVENTPOOL, "NAME": "shop", "CONN_MAX_AGE": 60})
    assert conf.vendor("default") == "postgresql"
    with override_settings(MIDDLEWARE=[]):
        assert only("other_pool_engine")


def test_a_projects_own_engine_built_on_another_packages_is_an_error(
    project: Project, install: Install
) -> None:
    class OtherPool(base.DatabaseWrapper):
        pass

    class DatabaseWrapper(OtherPool):
        pass

    install("dj_db_conn_pool.backends.postgis", OtherPool)
    install("shop.db", DatabaseWrapper)
    project(
        default={
            "ENGINE": "shop.db",
            "NAME": "shop",
            "POOL_OPTIONS": {"POOL_SIZE": 3, "MAX_OVERFLOW": 0},
        }
    )
    message = only("other_pool_engine")
    assert (
        "the ENGINE 'shop.db' is built on django-db-connection-pool, which"
        in message.msg
    )
    assert str(message.hint).startswith(
        "Derive its DatabaseWrapper from that of 'dbpool_mw.backends.postgis.base', or "
        "write 'ENGINE': 'dbpool_mw.backends.postgis' and 'OPTIONS': {'MAX_CONNS': 3}"
    )
    assert "Remove POOL_OPTIONS." in str(message.hint)


def test_a_name_that_only_begins_like_a_packages_is_not_reported(
    project: Project,
) -> None:
    project(default={"ENGINE": "django_postgrespool3", "NAME": "shop"})
    assert only("no_alias")


def test_an_alias_that_keeps_another_pool_is_not_reported(project: Project) -> None:
    project(other={"ENGINE": "django_postgrespool2", "NAME": "shop"})
    with override_settings(
        DBPOOL_MW_POOLS={"other": None}, DATABASE_POOL_ARGS={"pool_size": 5}
    ):
        assert found() == []


def test_pools_for_other_databases_are_not_reported(project: Project) -> None:
    mysql = {"ENGINE": "dj_db_conn_pool.backends.mysql", "POOL_OPTIONS": {}}
    project(other={**mysql, "NAME": "shop"})
    assert found() == []


def test_the_hint_has_the_projects_values_without_its_secrets(
    project: Project,
) -> None:
    options = {"MAX_CONNS": 7, "MIN_CONNS": 3, "TEST_ON_BORROW": True, "password": "p0"}
    project(default={"ENGINE": DBPOOL, "NAME": "shop", "OPTIONS": options})
    hint = str(only("other_pool_engine").hint)
    assert "'OPTIONS': {'MIN_CONNS': 3, 'MAX_CONNS': 7}" in hint
    assert "Remove TEST_ON_BORROW." in hint
    assert "p0" not in hint


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"pool_size": 3}, "DBPOOL_MW_MAX_CONNS = 13."),
        ({"max_overflow": 3}, "DBPOOL_MW_MAX_CONNS = 8."),
        ({"timeout": 3, "recycle": -1}, "_TIMEOUT = 3 and DBPOOL_MW_MAX_LIFETIME = No"),
    ],
)
def test_the_arguments_of_a_queue_pool_are_added_up_with_their_defaults(
    project: Project, arguments: dict[str, int], text: str
) -> None:
    with override_settings(DATABASE_POOL_ARGS=arguments):
        assert text in str(only("other_pool_setting").hint)
        project(default={"ENGINE": "django_postgrespool", "NAME": "shop"})
        assert text in str(only("other_pool_engine").hint)


@pytest.mark.parametrize(
    "arguments",
    [
        {"pool_size": 0},
        {"max_overflow": -1},
        {"pool_size": "5"},
        {"timeout": 0},
        {"recycle": "soon"},
        {"echo": True},
        None,
    ],
)
def test_a_value_without_an_equivalent_is_not_translated(
    project: Project, arguments: object
) -> None:
    with override_settings(DATABASE_POOL_ARGS=arguments):
        message = only("other_pool_setting")
    assert isinstance(message, Warning)
    assert str(message.hint).startswith("Remove it. See https://")


def test_a_pool_class_that_nothing_reads_is_a_warning(project: Project) -> None:
    with override_settings(DATABASE_POOL_CLASS="sqlalchemy.pool.NullPool"):
        assert only("other_pool_setting").msg.startswith("DATABASE_POOL_CLASS is a ")


def test_the_hint_for_tenants_is_the_engine_of_django_tenants(project: Project) -> None:
    engine = f"{CONN_POOL}.django_tenants"
    pool = {"POOL_SIZE": 4, "MAX_OVERFLOW": 4}
    project(default={"ENGINE": engine, "NAME": "shop", "POOL_OPTIONS": pool})
    assert str(only("other_pool_engine").hint).startswith(
        "Write 'ENGINE': 'django_tenants.postgresql_backend', with the middleware and "
        "DBPOOL_MW_POOLS = {'default': {'MAX_CONNS': 8}}."
    )


@pytest.mark.parametrize(
    "engine",
    [
        "django.db.backends.postgresql",
        "django.db.backends.postgresql_psycopg2",
        "django.contrib.gis.db.backends.postgis",
    ],
)
def test_pool_settings_in_the_options_of_djangos_engine_are_an_error(
    project: Project, engine: str
) -> None:
    options = {"MAX_CONNS": 9, "REUSE_CONNS": 4, "connect_timeout": 5}
    project(other={"ENGINE": engine, "NAME": "shop", "OPTIONS": options})
    message = only("other_pool_option")
    assert isinstance(message, Error)
    assert "has MAX_CONNS, REUSE_CONNS, which the ENGINE" in message.msg
    hint = str(message.hint)
    assert "Write DBPOOL_MW_POOLS = {'other': {'MAX_CONNS': 9}}, or keep" in hint
    kind = "postgis" if "gis" in engine else "postgresql"
    assert f"'ENGINE': 'dbpool_mw.backends.{kind}'" in hint
    assert "Remove REUSE_CONNS: every idle connection is reused" in hint


def test_the_hint_for_an_option_without_an_equivalent_is_to_remove_it(
    project: Project,
) -> None:
    options = {"TEST_ON_BORROW": True}
    project(default={**POSTGRESQL, "OPTIONS": options})
    assert advice(only("other_pool_option")) == (
        "Remove TEST_ON_BORROW: a dead connection is detected without a query."
    )
    project(default={"ENGINE": REPLACEMENT, "NAME": "shop", "OPTIONS": options})
    assert only("other_pool_option").msg == (
        "DATABASES['default']['OPTIONS']: TEST_ON_BORROW is an option of another pool "
        "package."
    )


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("MAX_CONN", "Did you mean MAX_CONNS?"),
        ("max_conns", "Did you mean MAX_CONNS?"),
        ("POOL_SIZE", "Did you mean MAX_CONNS?"),
        ("EAGER", "EAGER applies to all aliases: set it for the whole project."),
    ],
)
def test_a_misspelt_option_of_a_pooling_engine_is_an_error_with_a_suggestion(
    project: Project, key: str, hint: str
) -> None:
    options = {key: 5, "MIN_CONNS": 1, "connect_timeout": 5, "pool": False}
    project(default={"ENGINE": REPLACEMENT, "NAME": "shop", "OPTIONS": options})
    message = only("unknown")
    assert message.msg.startswith(f"DATABASES['default']['OPTIONS']: {key} ")
    assert advice(message) == hint


def test_pool_options_that_nothing_reads_are_a_warning(project: Project) -> None:
    database = {"NAME": "shop", "POOL_OPTIONS": {"POOL_SIZE": 2, "TIMEOUT": 3}}
    project(default={"ENGINE": REPLACEMENT, **database})
    hint = "write 'OPTIONS': {'MAX_CONNS': 12, 'TIMEOUT': 3}"
    assert hint in str(only("other_pool_setting").hint)
    project(default={**POSTGRESQL, **database})
    hint = "write DBPOOL_MW_POOLS = {'default': {'MAX_CONNS': 12, 'TIMEOUT': 3}}."
    assert hint in str(only("other_pool_setting").hint)


@pytest.mark.parametrize(
    ("pool", "instead"),
    [
        (True, {"MIN_CONNS": 4, "MAX_CONNS": 4}),
        ({"max_size": 8, "timeout": 10}, {"MAX_CONNS": 8, "TIMEOUT": 10}),
        ({"min_size": 6}, {"MIN_CONNS": 6, "MAX_CONNS": 6}),
        ({"max_size": None}, {"MAX_CONNS": 4}),
        ({"max_idle": 60, "num_workers": 2}, {"MAX_IDLE": 60}),
    ],
)
def test_the_settings_of_djangos_own_pool_are_translated(
    project: Project, pool: bool | dict[str, Any], instead: dict[str, Any]
) -> None:
    project(default={**POSTGRESQL, "OPTIONS": {"pool": pool}})
    hint = str(only("native_pool").hint)
    assert f" and write DBPOOL_MW_POOLS = {{'default': {instead!r}}}, or " in hint
    size = "Unless you set MAX_CONNS, it is 10; the default of Django's own pool is 4."
    assert (size in hint) == ("MAX_CONNS" not in instead)
    real_pool = {"ENGINE": "django_pg_real_pool", "NAME": "shop"}
    project(default={**real_pool, "OPTIONS": {"pool": pool}})
    assert f" and 'OPTIONS': {instead!r}" in str(only("other_pool_engine").hint)


def test_the_hint_keeps_the_value_of_conn_max_age(project: Project) -> None:
    project(default={**POSTGRESQL, "CONN_MAX_AGE": 60})
    hint = advice(only("conn_max_age"))
    assert hint.endswith("write DBPOOL_MW_POOLS = {'default': {'MAX_LIFETIME': 60}}.")
    project(default={"ENGINE": REPLACEMENT, "NAME": "shop", "CONN_MAX_AGE": None})
    hint = str(only("conn_max_age").hint)
    assert "write 'OPTIONS': {'MAX_LIFETIME': None}" in hint


class Global(base.DatabaseWrapper):
    """Keeps one connection for all threads."""

    kept: Any = None

    def get_new_connection(self, conn_params: Any) -> Any:
        type(self).kept = self.kept or super().get_new_connection(conn_params)
        return self.kept

    def close(self) -> None:
        if self.connection is not None:
            self.connection.commit()
            self.connection = None


class ThreadLocal(base.DatabaseWrapper):
    """Keeps one connection in each thread."""

    thread = threading.local()

    def _close(self) -> None:
        self.thread.kept = self.connection


class Tenants(base.DatabaseWrapper):
    """Resets an attribute at close() and closes, as ENGINEs for tenants do."""

    def close(self) -> None:
        self.search_path_set = False
        super().close()


@pytest.mark.parametrize(
    ("wrapper", "reason"),
    [
        (Global, "the close() of shop.db.base closes nothing."),
        (ThreadLocal, "shop.db.base overrides _close()."),
    ],
)
def test_an_engine_that_seems_to_keep_connections_is_a_warning(
    project: Project, install: Install, wrapper: type, reason: str
) -> None:
    install("shop.db", wrapper)
    project(default={"ENGINE": "shop.db", "NAME": "shop"})
    message = only("persistent_engine")
    assert isinstance(message, Warning)
    assert message.msg.endswith(f"seems to keep connections itself: {reason}")
    assert str(message.hint).startswith(
        f"Write 'ENGINE': {REPLACEMENT!r}, or "
        "'ENGINE': 'django.db.backends.postgresql' with "
    )
    with override_settings(DBPOOL_MW_POOLS={"default": None}):
        assert only("no_alias")


def test_an_engine_with_pool_options_is_a_warning(
    project: Project, install: Install
) -> None:
    install("shop.db", Tenants)
    project(default={"ENGINE": "shop.db", "NAME": "shop"})
    assert found() == []
    project(default={"ENGINE": "shop.db", "NAME": "shop", "OPTIONS": {"MAX_CONNS": 2}})
    assert only("persistent_engine").msg.endswith("itself: its OPTIONS have MAX_CONNS.")
