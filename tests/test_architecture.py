"""The package's layout: which module may import which, how much stands where, what is tested."""

import ast
import re
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


STEP = ("econ_pyro/infer/svi.py", "econ_pyro/infer/competition.py", "econ_pyro/infer/elbo.py")
"""The files of a training step, from scripts/svi_train.py to Eq. 13."""


def test_three_files_hold_the_training_step():
    guide = (ROOT / "docs/method/code.md").read_text().split("\n|")[0]
    door = ast.get_docstring(ast.parse((ROOT / "scripts/svi_train.py").read_text()))
    defined = {}
    for path in STEP:
        for node in ast.parse((ROOT / path).read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                methods = [n.name for n in getattr(node, "body", []) if hasattr(n, "name")]
                defined |= dict.fromkeys([node.name, *(f"{node.name}.{m}" for m in methods)], path)
    assert tuple(re.findall(r"\]\(\.\./\.\./(\S+)\)", guide)) == STEP
    for item in re.split(r"^\d\. ", guide, flags=re.MULTILINE)[1:]:
        path, *names = re.findall(r"`([\w./]+)`", item)
        assert names and {defined.get(name) for name in names} == {path}
    pairs = re.findall(r"(\w+(?:\.\w+)?) in\s(econ_pyro/\S+\.py)", door)
    assert tuple(path for _, path in pairs) == STEP
    assert {name: defined.get(name) for name, _ in pairs} == dict(pairs)


def test_the_training_step_needs_no_other_file_of_inference():
    beside = {"protocols", "decomposition"}  # types
    modules = {path.removesuffix(".py").replace("/", ".") for path in STEP}
    modules |= {f"econ_pyro.infer.{name}" for name in beside}
    for path in STEP:
        for name in imported(ROOT / path):
            if name.startswith("econ_pyro.infer."):
                assert name.rsplit(".", 1)[0] in modules, f"{path} imports {name}"


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
