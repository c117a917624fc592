from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dbpool_mw.control import location


def test_two_projects_never_share_a_default_directory() -> None:
    one, other = location.default_directory("one"), location.default_directory("other")
    assert one != other
    assert one == location.default_directory("one")
    assert re.fullmatch(rf"/tmp/dbpool_mw-{os.geteuid()}/[0-9a-f]{{16}}", str(one))


def test_the_default_directory_does_not_follow_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = location.default_directory("key")
    for name in ("TMPDIR", "XDG_RUNTIME_DIR", "HOME"):
        monkeypatch.setenv(name, "/elsewhere")
    assert location.default_directory("key") == before


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory that is first in sys.path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_key_names_the_settings_module_and_its_file(on_path: Path) -> None:
    file = on_path / "shop_settings.py"
    file.write_text("raise ValueError('must not be executed')\n")
    key = location.project_key("shop_settings", "shop_urls")
    assert key == f"shop_settings:{os.path.realpath(file)}"
    assert "shop_settings" not in sys.modules


def test_a_settings_module_without_a_file_is_named_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "made_up", ModuleType("made_up"))
    assert location.project_key("made_up", None) == "made_up:"
    assert location.project_key("no.such.module", None) == "no.such.module:"


def test_without_a_settings_module_the_key_is_the_file_of_the_urls(
    on_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (on_path / "one").mkdir()
    file = on_path / "one" / "shop_urls.py"
    file.write_text("urlpatterns = []\n")
    (on_path / "current").symlink_to("one")
    monkeypatch.syspath_prepend(str(on_path / "current"))
    assert location.project_key(None, "shop_urls") == f"urls:{os.path.realpath(file)}"


@pytest.mark.parametrize("urls", [None, "no.such.urls", 7])
def test_without_either_file_the_key_is_the_directory_of_the_program(
    on_path: Path, urls: object
) -> None:
    expected = f"path:{os.path.realpath(on_path)}:{urls}"
    assert location.project_key(None, urls) == expected


def test_an_empty_search_path_stands_for_the_working_directory(
    on_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(on_path)
    monkeypatch.setattr(sys, "path", [])
    assert location.project_key(None, None) == f"path:{os.path.realpath(on_path)}:None"
