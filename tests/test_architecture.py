"""The package's layout: which module may import which, how much stands where, what is tested."""

import ast
from functools import cache

import pytest

from helpers.paths import ROOT, TESTS

FOLDERS = {
    "econ_pyro": ROOT / "econ_pyro",
    "econ_pyro.models": ROOT / "models",
    "econ_pyro.guides": ROOT / "guides",
    "econ_pyro.scripts": ROOT / "scripts",
}
"""Where each package's source is; subpackages stand in folders of their names."""
BASE = {
    "_version", "arguments", "config", "errors", "limits", "model_config", "naming", "presets",
    "scene_config", "stopping",
}  # fmt: skip
"""Modules of the package itself that every room may import; together they are the room "base"."""
FACADE = {"__init__", "cli", "econ"}
"""Modules of the package itself that put all rooms together: the room "econ"."""
ORDER = (
    {"base"},
    {"files"},
    {"accel"},
    {"core"},
    {"data", "guides", "infer", "models"},
    {"training", "viz"},
    {"evaluation"},
    {"io"},
    {"econ"},
    {"ui"},
    {"scripts"},
)
"""A room may import the rooms before it. Rooms of one set never import one another."""
RANK = {room: i for i, rooms in enumerate(ORDER) for room in rooms}


def source_files():
    """Every module of the package with its path, as ``econ_pyro.core.sites``."""
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *parts)), path


def imported(path):
    """Names that a file imports, within functions as well, but not for type checkers only."""

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes = node.orelse
        else:
            nodes = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            # a module, or a name in one
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in nodes:
            yield from visit(child)

    yield from visit(ast.parse(path.read_text()))


def room_of(name):
    """The room of a dotted name in the package."""
    first = (name.split(".") + ["__init__"])[1]
    if first in RANK and first not in ("base", "econ"):
        return first
    return "base" if first in BASE else "econ"  # what __init__ exports is of the facade


@cache
def arrows():
    """Module, its room, and a room that it imports, for all imports between rooms."""
    found = set()
    for module, path in source_files():
        for name in imported(path):
            if name.split(".")[0] == "econ_pyro" and room_of(name) != room_of(module):
                found.add((module, room_of(module), room_of(name)))
    return found


def test_modules_of_the_package_itself_have_a_room():
    names = {path.stem for path in (ROOT / "econ_pyro").glob("*.py")}
    assert names == BASE | FACADE
    folders = {room_of(module) for module, _ in source_files()}
    assert folders == set(RANK)


def test_a_room_imports_only_the_rooms_before_it():
    against = {(module, to) for module, of, to in arrows() if RANK[to] >= RANK[of]}
    assert not against, f"imports against the order: {sorted(against)}"


def test_at_most_ten_floors():
    """The longest chain of rooms, each of which imports the next."""
    below = {room: set() for room in RANK}
    for _, of, to in arrows():
        if RANK[to] < RANK[of]:
            below[of].add(to)

    @cache
    def floor(room):
        return 1 + max(map(floor, below[room]), default=0)

    assert max(map(floor, RANK)) <= 10


def test_the_package_itself_stays_small():
    entries = [p for p in (ROOT / "econ_pyro").iterdir() if p.name != "__pycache__"]
    assert sum(p.is_file() for p in entries) <= 14
    assert sum(p.is_dir() for p in entries) <= 10


def test_nothing_imports_the_folders_by_their_own_names():
    for module, path in source_files():
        for name in imported(path):
            assert name.split(".")[0] not in {"models", "guides", "scripts"}, module


def test_no_test_module_imports_another():
    modules = {path.stem for path in TESTS.rglob("test_*.py")} | {"conftest"}
    for path in TESTS.rglob("*.py"):
        for name in imported(path):
            assert not modules & set(name.split(".")), f"{path} imports {name}"


def test_file_names_of_tests_are_unique():
    """So that pytest can import them without packages."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_folders_of_tests_are_those_of_the_package():
    others = {"golden", "helpers", "__pycache__"}
    folders = {path.name for path in TESTS.iterdir() if path.is_dir()} - others
    assert folders <= set(RANK) - {"base", "econ"}


def test_every_script_is_run_by_the_tests():
    tests = "".join(path.read_text() for path in (TESTS / "scripts").glob("test_*.py"))
    for path in FOLDERS["econ_pyro.scripts"].glob("*.py"):
        if path.stem not in {"__init__", "main"}:  # main: tests/scripts/test_console.py
            assert f'"{path.stem}"' in tests, f"tests/scripts does not run {path.name}"


def test_the_wheel_has_every_package():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {
        ".".join(module.split(".")[:-1]) for module, path in source_files()
        if path.name == "__init__.py"
    }  # fmt: skip
    assert settings["packages"] == sorted(packages)
    folders = {str(path.relative_to(ROOT)) for path in FOLDERS.values()}
    assert set(settings["package-dir"].values()) == folders
    # a folder without __init__.py would be left out in silence
    for _, path in source_files():
        assert (path.parent / "__init__.py").exists(), path
