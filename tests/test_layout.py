"""The house of dbpool_mw: a file imports only from the floors below its own."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "dbpool_mw"

# From the ground up. On a floor marked True the files stand in order, and each may
# import those before it; on the others they don't know each other.
FLOORS: list[tuple[bool, list[str]]] = [
    (False, ["core.errors", "core.config", "core.stats", "core.stack"]),
    (
        True,
        [
            "core.green",
            "core.cancel",
            "core.statements",
            "core.tracked",
            "core.driver",
            "core.entry",
            "core.waiter",
        ],
    ),
    (False, ["core.pool"]),
    (False, ["core.maintenance"]),
    (
        True,
        [
            "control.protocol",
            "control.paths",
            "control.peer",
            "control.server",
            "control.client",
            "control.drain",
            "control.render",
            "control.prometheus",
            # Last, because it names the control directory.
            "conf",
        ],
    ),
    (False, ["process", "elders"]),
    (True, ["physical", "wrapper"]),
    (
        False,
        [
            "unavailable",
            "decorators",
            "scope",
            "leftovers",
            "capacity",
            "management.asking",
        ],
    ),
    (
        False,
        [
            "middleware",
            "receivers",
            "error_pages",
            "django_tasks",
            "contrib.celery.apps",
            "checks",
            "test",
            "management.commands.dbpool_stats",
            "management.commands.dbpool_drain",
        ],
    ),
    (
        True,
        [
            "backends.mixin",
            "backends.postgresql.base",
            "backends.postgis.base",
        ],
    ),
    (False, ["apps"]),
]

# They run before anything in them does, so they import nothing of the house.
PACKAGES = [
    *("", "core", "control", "management", "management.commands"),
    *("backends", "backends.postgresql", "backends.postgis"),
    *("contrib", "contrib.celery"),
]

FLOOR = {name: number for number, (_, names) in enumerate(FLOORS) for name in names}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the dotted names that a file in the package imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: 1 - node.level or None]
                base = ".".join([*above, base] if base else above)
            # What is imported from a package may be a module of it.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(name: str) -> list[str]:
    path = FILES[name]
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if name == "":
        # The public names are lazy: what a function imports, nobody waits for.
        tree.body = [
            node
            for node in tree.body
            if not isinstance(node, ast.FunctionDef)
            and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node))
        ]
    return list(imports(tree, package))


def house(imported: str) -> str | None:
    """Return the file of the house that an import names, None for anything else."""
    if imported.split(".")[0] != "dbpool_mw":
        return None
    inner = imported.partition(".")[2]
    while inner not in FILES:
        inner = inner.rpartition(".")[0]
    return inner


def allowed(name: str, target: str) -> bool:
    if target in PACKAGES:
        return True
    if name in PACKAGES:
        return False
    if FLOOR[name] == FLOOR[target]:
        ordered, names = FLOORS[FLOOR[name]]
        return ordered and names.index(target) < names.index(name)
    return FLOOR[target] < FLOOR[name]


def test_every_file_has_its_place_in_the_house() -> None:
    assert sorted(set(FILES) - set(FLOOR) - set(PACKAGES)) == []


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_imports_only_from_below(name: str) -> None:
    targets = {house(imported) for imported in imports_of(name)} - {None}
    assert sorted(f for f in targets if f is not None and not allowed(name, f)) == []


@pytest.mark.parametrize("name", sorted(n for n in FILES if n.startswith("core")))
def test_the_core_does_not_know_django(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imports_of(name)}
    assert roots & {"django", "appconf", "asgiref"} == set()


@pytest.mark.parametrize("name", sorted(n for n in FILES if n.startswith("control")))
def test_the_control_plane_needs_only_the_standard_library(name: str) -> None:
    names = imports_of(name)
    roots = {imported.split(".")[0] for imported in names}
    assert roots <= {*sys.stdlib_module_names, "dbpool_mw"}
    inside = {house(imported) for imported in names} - {None, "", "core", "control"}
    assert {f for f in inside if f and not f.startswith("control.")} <= {"core.stats"}


def test_the_package_can_be_imported_before_its_settings_are() -> None:
    roots = {imported.split(".")[0] for imported in imports_of("")}
    assert roots <= {*sys.stdlib_module_names, "dbpool_mw"}


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("import dbpool_mw.apps", ["dbpool_mw.apps"]),
        ("from dbpool_mw import conf", ["dbpool_mw.conf"]),
        ("from . import driver as d", ["dbpool_mw.core.driver"]),
        ("from .pool import A, B", ["dbpool_mw.core.pool.A", "dbpool_mw.core.pool.B"]),
        ("from ..conf import x", ["dbpool_mw.conf.x"]),
        ("from .. import conf", ["dbpool_mw.conf"]),
        ("def f():\n    import dbpool_mw.apps", ["dbpool_mw.apps"]),
    ],
)
def test_every_way_to_import_is_seen(statement: str, found: list[str]) -> None:
    assert list(imports(ast.parse(statement), "dbpool_mw.core")) == found


def test_no_time_is_taken_from_a_clock_that_jumps() -> None:
    # The one exception tells a reader when something began.
    allowed = {"management.commands.dbpool_drain", "management.commands.dbpool_stats"}
    for name, path in FILES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        taken = {
            ast.unparse(node.func)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
        }
        jumps = {"time.time", "time", "datetime.now", "timezone.now", "datetime.utcnow"}
        assert name in allowed or not taken & jumps, name
