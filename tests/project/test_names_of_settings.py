"""Every setting and variable that a document names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from dbpool_mw.conf import KEYS, PREFIX
from dbpool_mw.core.config import POOL_KEYS
from tests.documents import DOCUMENTS, ROOT, relative

SETTINGS = {PREFIX + key for key in KEYS}
#: Variables of the environment for who works on the project, and what reads each.
VARIABLES = {
    "DBPOOL_MW_NO_APT": ".ci/debian",
    "DBPOOL_MW_TEST_DSN": "tests/conftest.py",
    "DBPOOL_MW_TEST_LIBRARY": "tests/library.py",
    "DBPOOL_MW_TEST_SOAK": "tests/soak.py",
    "DBPOOL_MW_TEST_WRITE_DOCS": "tests/documents.py",
}


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_name_exists(path: Path) -> None:
    named = set(re.findall(rf"\b{PREFIX}\w+", path.read_text(encoding="utf-8")))
    assert named - SETTINGS - set(VARIABLES) == set()


@pytest.mark.parametrize(("name", "reader"), VARIABLES.items())
def test_every_variable_is_read(name: str, reader: str) -> None:
    text = (ROOT / reader).read_text(encoding="utf-8")
    assert f'"{name}"' in text or f"${{{name}:-}}" in text


def test_every_key_of_an_example_is_one_that_a_pool_has() -> None:
    value = re.compile(PREFIX + r"POOLS = (\{(?:[^{}]|\{[^{}]*\})*\})")
    examples = [
        ast.literal_eval(found)
        for path in DOCUMENTS
        for found in value.findall(path.read_text(encoding="utf-8"))
    ]
    keys = [key for pools in examples for own in pools.values() for key in own or ()]
    assert keys
    assert set(keys) - set(POOL_KEYS) == set()
