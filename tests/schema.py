"""The JSON schemas of what the commands print, so strict that no key is undescribed."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.documents import ROOT

FOLDER = ROOT / "docs" / "schema"

#: Parts of others, whose keys are not all.
_OPEN = ("figures", "by reason")


def read(name: str) -> dict[str, Any]:
    """Return the schema of a command's document."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return found


def _strict(name: str) -> dict[str, Any]:
    """Return a command's schema, in which no object has further keys."""
    found = read(name)
    for part, schema in found["$defs"].items():
        if part not in _OPEN and (schema.keys() & {"properties", "allOf"}):
            schema["unevaluatedProperties"] = False
    found["unevaluatedProperties"] = False
    return found


def check(document: Any, name: str) -> None:
    """Assert that a document is as its command's schema says, without further keys."""
    known = {each: _strict(each) for each in ("dbpool_stats", "dbpool_drain")}
    schema = known[name]
    registry: Registry[Any] = Registry().with_resources(
        (each["$id"], Resource.from_contents(each)) for each in known.values()
    )
    errors = Draft202012Validator(schema, registry=registry).iter_errors(document)
    found = [f"{error.json_path}: {error.message:.200}" for error in errors]
    assert found == [], found
