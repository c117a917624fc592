"""What is installed: pyproject.toml names every file that isn't Python's."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dbpool_mw"


def test_every_file_of_the_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = project["tool"]["setuptools"]["package-data"]["dbpool_mw"]
    installed = {path for glob in named for path in PACKAGE.glob(glob)}
    files = {
        path
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert any(path.suffix == ".html" for path in files)
    assert files - installed == set()
