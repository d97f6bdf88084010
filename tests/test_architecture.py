"""The house: imports point one way, and every script is run by the tests."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOF = {"econ", "evaluation", "onnx_export", "posterior"}  # know the concrete model and guide


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(folder):
    return sorted((ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("folder", ["econ_pyro", "models", "guides", "scripts"])
def test_nothing_imports_the_folders_bare(folder):
    for path in files(folder):
        for name in imports(path):
            assert name.split(".")[0] not in {"models", "guides", "scripts"}, path


def test_imports_point_one_way():
    above = {"econ_pyro.models", "econ_pyro.guides", "econ_pyro.scripts"}
    above |= {f"econ_pyro.{name}" for name in ROOF}
    for path in files("econ_pyro"):
        if path.stem in ROOF or path.stem == "__init__":
            continue
        for name in imports(path):
            assert not any(name == a or name.startswith(f"{a}.") for a in above), (path, name)
    for folder, other in (("models", "guides"), ("guides", "models")):
        for path in files(folder):
            for name in imports(path):
                assert not name.startswith((f"econ_pyro.{other}", "econ_pyro.scripts")), path
                assert name.split(".")[:2][-1] not in ROOF, path


def test_every_script_is_run_by_the_tests():
    tests = (ROOT / "tests/test_scripts.py").read_text()
    for path in files("scripts"):
        if path.stem != "__init__":
            assert f'"{path.stem}"' in tests, f"tests/test_scripts.py does not run {path.name}"
