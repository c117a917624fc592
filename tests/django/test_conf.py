from __future__ import annotations

import math
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import connections
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.utils import ConnectionHandler
from django.test import override_settings

from dbpool_mw import conf
from dbpool_mw.control import location
from dbpool_mw.core.config import POOL_KEYS, PoolConfig
from tests.library import LIBRARY, PYTHONPATH

POSTGRESQL = "django.db.backends.postgresql"
SQLITE = "django.db.backends.sqlite3"

Engines = Callable[..., None]


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Give every setting its default, and reset the cache when a test changes one."""
    setting_changed.connect(conf.reset_cache, dispatch_uid="test_conf")
    with override_settings(**conf.DbpoolMwConf._meta.defaults):
        yield
    setting_changed.disconnect(dispatch_uid="test_conf")
    conf.reset_cache()


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    """Return a function that replaces DATABASES; it takes an ENGINE for each alias."""

    def set_engines(**engines: str) -> None:
        databases = {alias: {"ENGINE": engine} for alias, engine in engines.items()}
        handler = ConnectionHandler({"default": {}, **databases})
        monkeypatch.setitem(connections.__dict__, "settings", handler.settings)
        conf.reset_cache()

    return set_engines


def test_a_setting_that_the_project_doesnt_have_has_its_default() -> None:
    config = PoolConfig()
    for key in POOL_KEYS:
        default = conf.DbpoolMwConf._meta.defaults[conf.PREFIX + key]
        expected = math.inf if default is None else default
        assert getattr(config, key.lower()) == expected
    assert set(conf.DbpoolMwConf._meta.names) == set(conf.KEYS)
    assert settings.DBPOOL_MW_ENABLED is True


def test_the_aliases_on_postgresql_have_a_pool(engines: Engines) -> None:
    engines(default=POSTGRESQL, cache=SQLITE, stock=POSTGRESQL)
    assert conf.pooled_aliases() == ("default", "stock")


def test_none_excludes_an_alias_and_an_empty_dict_does_not(engines: Engines) -> None:
    engines(default=POSTGRESQL, legacy=POSTGRESQL)
    with override_settings(DBPOOL_MW_POOLS={"default": {}, "legacy": None}):
        assert conf.pooled_aliases() == ("default",)


def test_an_alias_in_pools_that_is_not_postgresql_has_no_pool(engines: Engines) -> None:
    engines(default=SQLITE)
    with override_settings(DBPOOL_MW_POOLS={"default": {}, "other": {}}):
        assert conf.pooled_aliases() == ()


def test_when_disabled_no_alias_has_a_pool(engines: Engines) -> None:
    engines(default=POSTGRESQL)
    with override_settings(DBPOOL_MW_ENABLED=False):
        assert conf.pooled_aliases() == ()
    assert conf.pooled_aliases() == ("default",)


def test_an_engine_built_on_djangos_for_postgresql_has_a_pool(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db.backends.postgresql.base import DatabaseWrapper

    package, base = types.ModuleType("tenants"), types.ModuleType("tenants.base")
    package.__path__ = []
    base.DatabaseWrapper = type("DatabaseWrapper", (DatabaseWrapper,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tenants", package)
    monkeypatch.setitem(sys.modules, "tenants.base", base)
    engines(default="tenants")
    assert conf.pooled_aliases() == ("default",)


@pytest.mark.parametrize("engine", ["no.such.engine", "json", "django", ""])
def test_an_engine_that_cant_be_imported_has_no_pool(
    engines: Engines, engine: str
) -> None:
    engines(default=engine)
    assert conf.vendor("default") != "postgresql"
    assert conf.pooled_aliases() == ()


def test_an_alias_that_databases_doesnt_have_has_no_vendor() -> None:
    assert conf.vendor("no such alias") is None


@pytest.mark.parametrize(
    ("name", "invalid", "text"),
    [
        ("DBPOOL_MW_ENABLED", "False", "DBPOOL_MW_ENABLED must be True or False"),
        ("DBPOOL_MW_POOLS", ["default"], "DBPOOL_MW_POOLS must be a dict"),
        ("DBPOOL_MW_POOLS", {"default": 3}, "DBPOOL_MW_POOLS must give a dict"),
    ],
)
def test_pooled_aliases_raises_when_enabled_or_pools_is_invalid(
    name: str, invalid: object, text: str
) -> None:
    with (
        override_settings(**{name: invalid}),
        pytest.raises(ImproperlyConfigured, match=text),
    ):
        conf.pooled_aliases()


def test_the_settings_of_an_alias_override_the_general_ones() -> None:
    with override_settings(
        DBPOOL_MW_TIMEOUT=2, DBPOOL_MW_POOLS={"replica": {"MAX_CONNS": 20}}
    ):
        assert conf.config_for("default") == PoolConfig(timeout=2.0)
        assert conf.config_for("replica") == PoolConfig(timeout=2.0, max_conns=20)


def test_the_configuration_is_cached_until_a_setting_changes() -> None:
    first = conf.config_for("default")
    assert conf.config_for("default") is first
    with override_settings(DBPOOL_MW_MAX_CONNS=3):
        assert conf.config_for("default").max_conns == 3
    assert conf.config_for("default") == first


def test_an_invalid_configuration_raises_an_error_with_every_problem() -> None:
    with (
        override_settings(
            DBPOOL_MW_TIMEOUT="5",
            DBPOOL_MW_MAX_IDLE=-1,
            DBPOOL_MW_POOLS={"default": {"MAX_CONN": 2, "MIN_CONNS": 99}},
        ),
        pytest.raises(ImproperlyConfigured) as caught,
    ):
        conf.config_for("default")
    lines = str(caught.value).splitlines()
    assert [line.split(" must ")[0].split(" is ")[0] for line in lines] == [
        "DBPOOL_MW_TIMEOUT",
        "DBPOOL_MW_MAX_IDLE",
        "DBPOOL_MW_POOLS: MAX_CONN of 'default'",
        "DBPOOL_MW_POOLS: MIN_CONNS of 'default'",
    ]
    assert "Did you mean MAX_CONNS?" in lines[2]


def test_a_maximum_of_an_alias_below_the_general_minimum_raises() -> None:
    with override_settings(
        DBPOOL_MW_MIN_CONNS=5, DBPOOL_MW_POOLS={"stock": {"MAX_CONNS": 2}}
    ):
        assert conf.config_for("default").min_conns == 5
        with pytest.raises(ImproperlyConfigured, match="MIN_CONNS of 'stock' is 5"):
            conf.config_for("stock")


def test_a_library_without_a_driver_raises_instead_of_giving_a_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DatabaseWrapper, "Database", ModuleType("pg8000"))
    with pytest.raises(ImproperlyConfigured, match="uses pg8000"):
        conf.config_for("default")


def test_the_driver_is_that_of_the_library_of_this_test_run() -> None:
    driver = conf.driver_for("default")
    assert driver is not None
    assert driver.OperationalError is import_module(LIBRARY).OperationalError


@pytest.mark.parametrize(
    ("setting", "environment", "workers"),
    [
        (None, None, None),
        (None, "4", 4),
        (3, "4", 3),
        (None, "0", None),
        (None, "many", None),
        (None, "-2", None),
    ],
)
def test_the_number_of_workers_comes_from_the_setting_then_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    setting: int | None,
    environment: str | None,
    workers: int | None,
) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    if environment is not None:
        monkeypatch.setenv("WEB_CONCURRENCY", environment)
    with override_settings(DBPOOL_MW_WORKERS=setting):
        assert conf.workers() == workers


def test_an_invalid_number_of_workers_raises() -> None:
    with (
        override_settings(DBPOOL_MW_WORKERS="4"),
        pytest.raises(ImproperlyConfigured, match="DBPOOL_MW_WORKERS must be"),
    ):
        conf.workers()


@pytest.mark.parametrize("directory", ["/run/shop", Path("/run/shop")])
def test_the_control_directory_is_the_one_that_is_set(
    directory: str | Path,
) -> None:
    with override_settings(DBPOOL_MW_CONTROL_DIR=directory):
        assert conf.control_dir() == Path("/run/shop")


def test_false_stands_for_no_control_directory() -> None:
    with override_settings(DBPOOL_MW_CONTROL_DIR=False):
        assert conf.control_dir() is None


def test_an_invalid_control_directory_raises() -> None:
    with (
        override_settings(DBPOOL_MW_CONTROL_DIR="run"),
        pytest.raises(ImproperlyConfigured, match="must be an absolute path"),
    ):
        conf.control_dir()


def test_the_default_control_directory_depends_on_the_settings_file() -> None:
    name = os.environ["DJANGO_SETTINGS_MODULE"]
    file = os.path.realpath(str(sys.modules[name].__file__))
    assert conf.control_dir() == location.default_directory(f"{name}:{file}")
    with override_settings(DEBUG=True), override_settings(USE_TZ=False):
        assert conf.control_dir() == location.default_directory(f"{name}:{file}")


def control_dir_in(directory: Path, *command: str) -> str:
    """Run a program that prints its control directory, and return that."""
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


ONE_FILE = """\
from django.conf import settings
settings.configure(ROOT_URLCONF=__name__)
from dbpool_mw import conf
print(conf.control_dir())
"""


def test_a_project_of_one_file_has_one_directory_as_a_script_and_as_a_module(
    tmp_path: Path,
) -> None:
    for checkout in ("one", "two"):
        (tmp_path / checkout).mkdir()
        (tmp_path / checkout / "app.py").write_text(ONE_FILE)
    one, two = tmp_path / "one", tmp_path / "two"
    script = control_dir_in(one, "app.py")
    assert script == control_dir_in(one, "-c", "import app")
    assert script == control_dir_in(tmp_path, str(one / "app.py"))
    assert script != control_dir_in(two, "app.py")


def test_two_checkouts_of_one_project_have_two_control_directories(
    tmp_path: Path,
) -> None:
    code = (
        "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'shop_settings'; "
        "from dbpool_mw import conf; print(conf.control_dir())"
    )
    for checkout in ("one", "two"):
        (tmp_path / checkout).mkdir()
        (tmp_path / checkout / "shop_settings.py").write_text("DEBUG = False\n")
    (tmp_path / "current").symlink_to("one")
    one = control_dir_in(tmp_path / "one", "-c", code)
    assert one != control_dir_in(tmp_path / "two", "-c", code)
    assert one == control_dir_in(tmp_path / "current", "-c", code)


def test_without_settings_module_and_urls_the_programs_directory_decides(
    tmp_path: Path,
) -> None:
    (tmp_path / "bare.py").write_text(ONE_FILE.replace("ROOT_URLCONF=__name__", ""))
    bare = control_dir_in(tmp_path, "bare.py")
    assert bare.startswith("/tmp/dbpool_mw-")
    assert bare == control_dir_in(Path("/"), str(tmp_path / "bare.py"))


WITH_URLS = """\
from django.conf import settings
settings.configure(ROOT_URLCONF={urls!r})
from dbpool_mw import conf
print(conf.control_dir())
"""


def test_without_settings_module_the_file_of_the_urls_decides_loaded_or_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "shop_urls.py").write_text("urlpatterns = []\n")
    program = WITH_URLS.format(urls="shop_urls")
    unloaded = control_dir_in(tmp_path, "-c", program)
    assert unloaded == control_dir_in(tmp_path, "-c", f"import shop_urls\n{program}")
    found = f"import sys\nsys.path.append({str(tmp_path)!r})\n"
    assert unloaded == control_dir_in(Path("/"), "-c", found + program)


@pytest.mark.parametrize("urls", ["nowhere", "nowhere.urls"])
def test_urls_that_cant_be_imported_raise_no_error_here(
    tmp_path: Path, urls: str
) -> None:
    program = WITH_URLS.format(urls=urls)
    directory = control_dir_in(tmp_path, "-c", program)
    assert directory.startswith("/tmp/dbpool_mw-")
    assert directory != control_dir_in(Path("/"), "-c", program)
