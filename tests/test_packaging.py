"""What is installed: setup.py names every file that isn't Python's."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dbpool_mw"


def test_every_file_of_the_package_is_installed() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (named,) = [
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "package_data"
    ]
    installed = {path for glob in named["dbpool_mw"] for path in PACKAGE.glob(glob)}
    files = {
        path
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert any(path.suffix == ".html" for path in files)
    assert files - installed == set()
