"""The wheel, installed where the checkout cannot be seen: what is in it, and that it works."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch

from econ_pyro import __version__
from econ_pyro.io.layer_files import write_image
from helpers.paths import ROOT
from helpers.scripts import TINY_ARGS

SOURCES = ("econ_pyro", "guides", "models", "scripts")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, since setuptools leaves files in the folder that it builds from."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (path,) = (source / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The ``bin`` folder of an environment with the wheel; dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps"]
    subprocess.run([*command, "--no-index", "-q", wheel], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # a folder that a .pth file names is searched, but its own .pth files (of editable
    # installations) are not read
    seen = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "dependencies.pth").write_text("\n".join(seen))
    return folder / "bin"


def run(program, *args, cwd):
    """Standard output of a program that succeeds, run without the checkout on any path."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [program, *map(str, args)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_contents(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    metadata = f"econ_pyro-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"econ_pyro", metadata}
    assert not [name for name in names if "test" in name or name.endswith(".pyc")]
    for name in SOURCES:
        inside = "econ_pyro" if name == "econ_pyro" else f"econ_pyro/{name}"
        for path in (ROOT / name).rglob("*.py"):
            assert f"{inside}/{path.relative_to(ROOT / name)}" in names
    weights = [path for path in (ROOT / "econ_pyro/io/weights").rglob("*") if path.is_file()]
    assert weights and {str(path.relative_to(ROOT)) for path in weights} <= set(names)
    assert "econ_pyro/py.typed" in names and f"{metadata}/licenses/LICENSE" in names


def test_it_trains_and_decomposes(installed, tmp_path):
    where = run(installed / "python", "-c", "import econ_pyro; print(econ_pyro.__file__)",
                cwd=tmp_path)  # fmt: skip
    assert Path(where.strip()).is_relative_to(installed.parent)
    command = installed / "econ-pyro"
    assert "\n  train  " in run(command, "--help", cwd=tmp_path)
    run(command, "train", "quick", *TINY_ARGS, "--steps", 3, "--run", "run", cwd=tmp_path)
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert evaluation["metrics"]["scenes"] == 8
    code = "from econ_pyro.io.pretrained import load_model; print(type(load_model('quick')))"
    # the entry point of the wheel registers ECON
    assert "econ_pyro.econ.Econ" in run(installed / "python", "-c", code, cwd=tmp_path)
    write_image(tmp_path / "picture.png", torch.rand(3, 32, 32))
    run(command, "decompose", "quick", "picture.png", "--out", "layers", cwd=tmp_path)
    assert list((tmp_path / "layers").rglob("scene.json"))
