"""The layers of dbpool_mw: a file imports from the layers below, and never in a circle.

What is read is the source: an import counts wherever it stands, in a function too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "dbpool_mw"

# From the bottom up. What stands on one line is one layer: its folders don't know each
# other, and a file may import others of its own folder.
LAYERS: list[list[str]] = [
    ["core"],
    ["drivers"],
    ["control"],
    ["conf", "decorators", "models", "migrations"],
    ["binding"],
    ["checks"],
    ["apps"],
    ["dashboard", "views"],
    ["middleware", "test", "backends", "contrib", "management", "admin", "urls"],
]

STANDARD_LIBRARY = {*sys.stdlib_module_names, "dbpool_mw"}

#: Imports by a name that is data: which database libraries are installed, and where the
#: project's own modules stand.
HIDDEN = {"drivers": {"import_module"}, "control.location": {"find_spec"}}

#: What is imported before settings can be read, and so hides its imports in functions.
ROOT = ""


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def layer_of(name: str) -> int | None:
    """Give the number of a file's layer, None for one that stands in none."""
    place = name.split(".")[0]
    return next((n for n, layer in enumerate(LAYERS) if place in layer), None)


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
    return list(imports(ast.parse(path.read_text(encoding="utf-8")), package))


def roots_of(name: str) -> set[str]:
    return {imported.split(".")[0] for imported in imports_of(name)}


def file_of(imported: str) -> str | None:
    """Give the file of this package that an import names, None for anything else."""
    if imported.split(".")[0] != "dbpool_mw":
        return None
    inner = imported.partition(".")[2]
    while inner not in FILES:
        inner = inner.rpartition(".")[0]
    return inner


def targets_of(name: str) -> set[str]:
    """Give the files of this package that a file imports."""
    found = {file_of(imported) for imported in imports_of(name)}
    return {target for target in found if target is not None} - {name}


def allowed(name: str, target: str) -> bool:
    ours, theirs = layer_of(name), layer_of(target)
    assert ours is not None
    assert theirs is not None
    return theirs < ours or name.split(".")[0] == target.split(".")[0]


def files_in(folder: str) -> list[str]:
    found = sorted(name for name in FILES if name.split(".")[0] == folder)
    assert found, folder
    return found


def test_every_file_stands_in_a_layer() -> None:
    assert [name for name in FILES if name != ROOT and layer_of(name) is None] == []


def test_the_root_holds_only_what_django_loads_and_users_name() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 9


@pytest.mark.parametrize("name", sorted(set(FILES) - {ROOT}))
def test_a_file_imports_only_from_the_layers_below(name: str) -> None:
    assert [t for t in sorted(targets_of(name)) if not allowed(name, t)] == []


@pytest.mark.parametrize("name", sorted(set(FILES) - {ROOT}))
def test_no_file_imports_the_public_names(name: str) -> None:
    # The root imports them from other files when they are first used.
    assert ROOT not in targets_of(name)


@pytest.mark.parametrize("name", sorted(set(FILES) - {ROOT}))
def test_no_file_hides_an_import(name: str) -> None:
    calls = {
        ast.unparse(node.func).rpartition(".")[2]
        for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    }
    hidden = calls & {"import_module", "__import__", "find_spec"}
    assert hidden <= HIDDEN.get(name, set())


def test_no_imports_go_in_a_circle() -> None:
    graph = {name: targets_of(name) for name in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", files_in("core"))
def test_the_core_needs_only_the_standard_library(name: str) -> None:
    assert roots_of(name) <= STANDARD_LIBRARY


@pytest.mark.parametrize("name", files_in("drivers"))
def test_the_drivers_do_not_know_django(name: str) -> None:
    assert roots_of(name) & {"django", "appconf", "asgiref"} == set()


@pytest.mark.parametrize("name", files_in("drivers"))
def test_a_driver_knows_no_pool_and_no_other_driver(name: str) -> None:
    of_core = {t for t in targets_of(name) if t.split(".")[0] == "core"}
    assert of_core <= {"core.driver", "core.errors", "core.logs", "core.text"}
    folder = name.split(".")[1:2] or ["psycopg", "psycopg2"]
    others = {t.split(".")[1] for t in targets_of(name) if t.startswith("drivers.")}
    assert others <= {*folder, "postgresql"}


@pytest.mark.parametrize("name", sorted(set(FILES)))
def test_the_folder_of_a_driver_is_the_drivers_own(name: str) -> None:
    inside = [t for t in targets_of(name) if t.startswith("drivers.")]
    assert inside == [] or name.split(".")[0] == "drivers"
    assert [i for i in imports_of(name) if "psycopg_any" in i] == []


@pytest.mark.parametrize("name", files_in("control"))
def test_the_control_plane_needs_only_the_standard_library(name: str) -> None:
    assert roots_of(name) <= STANDARD_LIBRARY
    of_core = {t for t in targets_of(name) if not t.startswith("control")}
    assert of_core <= {"core.logs", "core.metrics", "core.text"}


@pytest.mark.parametrize("name", sorted(FILES))
def test_only_a_driver_imports_a_database_library(name: str) -> None:
    libraries = roots_of(name) & {"psycopg2", "psycopg", "MySQLdb", "psycogreen"}
    assert libraries == set() or name.split(".")[0] in ("drivers", "contrib")


def test_the_package_can_be_imported_before_its_settings_are() -> None:
    tree = ast.parse(FILES[ROOT].read_text(encoding="utf-8"))
    # What a function imports is imported when somebody asks for it.
    tree.body = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef)
        and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node))
    ]
    roots = {imported.split(".")[0] for imported in imports(tree, "dbpool_mw")}
    assert roots <= STANDARD_LIBRARY


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("import dbpool_mw.apps", ["dbpool_mw.apps"]),
        ("from dbpool_mw import conf", ["dbpool_mw.conf"]),
        ("from . import entry as e", ["dbpool_mw.core.entry"]),
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
